// A vector of floats, one lane a block: sums over a block run in the order of a plain loop, so that every processor gets
// the same bits. Vectors of GCC and clang where the including file asks for them (OPENARCTIC_VECTORS), else plain arrays.
#pragma once
#include "blocks.h"

namespace openarctic {
namespace {

#if defined(OPENARCTIC_VECTORS)

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

typedef float Floats __attribute__((vector_size(4 * kLanes)));
typedef int32_t Ints __attribute__((vector_size(4 * kLanes)));

inline Floats choose(Ints mask, Floats a, Floats b) { return mask ? a : b; }
inline Ints choose(Ints mask, Ints a, Ints b) { return mask ? a : b; }

#else

constexpr int kLanes = 8;

template <class T>
struct Lanes {
  T v[kLanes];
  T& operator[](int i) { return v[i]; }
  T operator[](int i) const { return v[i]; }
};
using Floats = Lanes<float>;
using Ints = Lanes<int32_t>;

template <class R, class T, class Op>
inline Lanes<R> each(const Lanes<T>& a, const Lanes<T>& b, Op op) {
  Lanes<R> r;
  for (int i = 0; i < kLanes; i++) r.v[i] = R(op(a.v[i], b.v[i]));
  return r;
}
template <class T>
inline Lanes<T> all(T x) {
  Lanes<T> r;
  for (T& v : r.v) v = x;
  return r;
}

#define OPENARCTIC_LANES(op)                                                                                                  \
  template <class T> inline Lanes<T> operator op(const Lanes<T>& a, const Lanes<T>& b) { return each<T>(a, b, [](T x, T y) { return x op y; }); } \
  inline Floats operator op(const Floats& a, float b) { return a op all(b); }                                                \
  inline Floats operator op(float a, const Floats& b) { return all(a) op b; }
OPENARCTIC_LANES(+)
OPENARCTIC_LANES(-)
OPENARCTIC_LANES(*)
OPENARCTIC_LANES(/)
#undef OPENARCTIC_LANES
#define OPENARCTIC_COMPARE(op)                                                                                                \
  template <class T> inline Ints operator op(const Lanes<T>& a, const Lanes<T>& b) { return each<int32_t>(a, b, [](T x, T y) { return -int32_t(x op y); }); } \
  template <class T> inline Ints operator op(const Lanes<T>& a, T b) { return a op all(b); }
OPENARCTIC_COMPARE(<)
OPENARCTIC_COMPARE(<=)
OPENARCTIC_COMPARE(>)
OPENARCTIC_COMPARE(!=)
#undef OPENARCTIC_COMPARE
inline Ints operator&(const Ints& a, const Ints& b) { return each<int32_t>(a, b, [](int32_t x, int32_t y) { return x & y; }); }
inline Ints operator&(const Ints& a, int32_t b) { return a & all(b); }
inline Ints operator|(const Ints& a, int32_t b) { return each<int32_t>(a, all(b), [](int32_t x, int32_t y) { return x | y; }); }
inline Floats& operator+=(Floats& a, const Floats& b) { return a = a + b; }
template <class T>
inline Lanes<T> choose(const Ints& mask, const Lanes<T>& a, const Lanes<T>& b) {
  Lanes<T> r;
  for (int i = 0; i < kLanes; i++) r.v[i] = mask.v[i] ? a.v[i] : b.v[i];
  return r;
}

#endif

inline Floats magnitude(Floats x) { return bits_as<Floats>(bits_as<Ints>(x) & 0x7fffffff); }

// x * factor rounded to whole numbers (halves to even) and kept between `low` and `high`, by the mantissa of the product
// plus 1.5 * 2^23; products beyond 2^22 wrap around, as they do in ggml.
inline Floats nearest(Floats product, int low, int high) {
  const Ints zero = bits_as<Ints>(product) & 0;
  const Ints bottom = zero | (0x400000 + low), top = zero | (0x400000 + high);
  Ints bits = bits_as<Ints>(product + 12582912.f) & 0x7fffff;
  bits = choose(bits < bottom, bottom, bits);
  bits = choose(bits > top, top, bits);
  return bits_as<Floats>(bits | 0x4b000000) - 12582912.f;
}

// out[i] holds value i of `blocks` blocks of n values, one a lane; lanes without a block are zero.
template <int n>
inline void gather(const float* x, int blocks, Floats* out) {
  float columns[n][kLanes];
  if (blocks < kLanes) std::memset(columns, 0, sizeof columns);
  for (int b = 0; b < blocks; b++)
    for (int i = 0; i < n; i++) columns[i][b] = x[b * n + i];
  std::memcpy(out, columns, sizeof columns);
}

}  // namespace
}  // namespace openarctic
