// AVX2, FMA and F16C. This file alone is compiled with those flags; nothing here runs before the processor was asked.
#include "attend.h"
#include "kernels.h"
#include "tile.h"

#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstring>

// Keeps an accumulator in its register: compilers otherwise reassociate the integer adds and spill.
#if defined(__GNUC__)
#define PIN(r) __asm__("" : "+x"(r));
#else
#define PIN(r)
#endif

namespace openarctic {
namespace {

inline __m256i pair(const int16_t* p) {
  int32_t v;
  std::memcpy(&v, p, 4);
  return _mm256_set1_epi32(v);
}
inline __m256i four(const int8_t* p) {
  int32_t v;
  std::memcpy(&v, p, 4);
  return _mm256_set1_epi32(v);
}

inline __m256i bytes32(const uint8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }

// ---- weights of a panel

// Codes of columns 4i..4i+3, four bytes a row.
template <Form F>
inline __m256i codes(const uint8_t* block, int i) {
  constexpr int extra = extra_bits(F);
  const __m256i nibbles = bytes32(block + kCodes + 32 * (i / 2));
  const __m256i low = _mm256_and_si256(i % 2 ? _mm256_srli_epi16(nibbles, 4) : nibbles, _mm256_set1_epi8(15));
  if constexpr (extra == 0) return low;
  const int at = extra * i, left = 4 - at % 8;
  const __m256i bits = bytes32(block + kCodes + 128 + 32 * (at / 8));
  const __m256i moved = left >= 0 ? _mm256_slli_epi16(bits, left) : _mm256_srli_epi16(bits, -left);
  return _mm256_or_si256(low, _mm256_and_si256(moved, _mm256_set1_epi8(((1 << extra) - 1) << 4)));
}

struct Pairs {
  __m256i first, second;  // columns 4i, 4i+1 and 4i+2, 4i+3: two int16 a row
};

template <Form F>
inline Pairs pairs(const uint8_t* block, int i) {
  if constexpr (F == Form::Q6) {
    const __m256i four = codes<F>(block, i), zero = _mm256_set1_epi16(32);
    return {_mm256_sub_epi16(_mm256_and_si256(four, _mm256_set1_epi16(255)), zero), _mm256_sub_epi16(_mm256_srli_epi16(four, 8), zero)};
  } else {
    const __m128i* p = reinterpret_cast<const __m128i*>(block + 16 + i * 32);
    return {_mm256_cvtepi8_epi16(_mm_loadu_si128(p)), _mm256_cvtepi8_epi16(_mm_loadu_si128(p + 1))};
  }
}

// Of Q8 and Q6: how many parts of a group have scales of their own, and these.
template <Form F>
constexpr int kParts = F == Form::Q6 ? 2 : 1;

template <Form F>
inline __m256 scales(const uint8_t* block, int part) {
  if constexpr (F == Form::Q8) return halves(block);
  const __m128i own = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(block + 16 + 8 * part));
  return _mm256_mul_ps(halves(block), _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(own)));
}

// Column c of a panel of floats.
template <Form F>
inline __m256 column(const uint8_t* panel, int c) {
  if constexpr (F == Form::F32) return _mm256_loadu_ps(reinterpret_cast<const float*>(panel) + c * 8);
  if constexpr (F == Form::F16) return halves(panel + c * 16);
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(panel + c * 16))), 16));
}

// ---- few tokens: weights are read once and used at once. Several panels advance together: more streams wait for memory at once.

// Adds group g of a panel, whose block is p, to acc[token].
template <Form F, int T>
inline void direct_int16(const uint8_t* p, int g, const Row* x, __m256* acc) {
#pragma GCC unroll 2
  for (int part = 0; part < kParts<F>; part++) {
    const __m256 scale = scales<F>(p, part);
    __m256i a[T], b[T];
    for (int t = 0; t < T; t++) a[t] = b[t] = _mm256_setzero_si256();
#pragma GCC unroll 8
    for (int k = 0; k < 8 / kParts<F>; k++) {
      const int i = part * 4 + k;
      const Pairs w = pairs<F>(p, i);
#pragma GCC unroll 4
      for (int t = 0; t < T; t++) {
        const int16_t* q = x[t].q16 + g * kGroup + i * 4;
        a[t] = _mm256_add_epi32(a[t], _mm256_madd_epi16(w.first, pair(q)));
        PIN(a[t])
        b[t] = _mm256_add_epi32(b[t], _mm256_madd_epi16(w.second, pair(q + 2)));
        PIN(b[t])
      }
    }
    for (int t = 0; t < T; t++) {
      __m256 factor = _mm256_mul_ps(scale, _mm256_set1_ps(x[t].scale16[g]));
      acc[t] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(_mm256_add_epi32(a[t], b[t])), factor, acc[t]);
    }
  }
}

inline __m256i widened(__m256i sums) { return _mm256_madd_epi16(sums, _mm256_set1_epi16(1)); }

// Sums of a row's four columns, with those that were widened before (Q5).
template <Form F>
inline __m256i whole(__m256i sums, __m256i before) {
  return F == Form::Q5 ? _mm256_add_epi32(widened(sums), before) : widened(sums);
}

// Sums of 8 products of codes below 16, or of 4 below 32, are at most 2 * 8 * 15 * 127 = 30480 or 2 * 4 * 31 * 127 = 31496: they
// fit into 16 bits.
template <Form F, int T>
inline void direct_int8(const uint8_t* p, int g, const Row* x, __m256* acc) {
  __m256 scale = halves(p), minimum = halves(p + 16);
  __m256i a[T], first[T];
  for (int t = 0; t < T; t++) a[t] = first[t] = _mm256_setzero_si256();
#pragma GCC unroll 4
  for (int j = 0; j < 4; j++) {
    const __m256i low = codes<F>(p, 2 * j), high = codes<F>(p, 2 * j + 1);
#pragma GCC unroll 4
    for (int t = 0; t < T; t++) {
      const int8_t* q = x[t].q8 + g * kGroup + j * 8;
      a[t] = _mm256_add_epi16(a[t], _mm256_add_epi16(_mm256_maddubs_epi16(low, four(q)), _mm256_maddubs_epi16(high, four(q + 4))));
      PIN(a[t])
    }
    if (F == Form::Q5 && j == 1)
      for (int t = 0; t < T; t++) {
        first[t] = widened(a[t]);
        a[t] = _mm256_setzero_si256();
      }
  }
  for (int t = 0; t < T; t++) {
    acc[t] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(whole<F>(a[t], first[t])), _mm256_mul_ps(scale, _mm256_set1_ps(x[t].scale8[g])), acc[t]);
    acc[t] = _mm256_fmadd_ps(minimum, _mm256_set1_ps(x[t].sum8[g]), acc[t]);
  }
}

// Adds column c of a panel.
template <Form F, int T>
inline void direct_float(const uint8_t* panel, int c, const Row* x, __m256* acc) {
  const __m256 w = column<F>(panel, c);
#pragma GCC unroll 4
  for (int t = 0; t < T; t++) acc[t] = _mm256_fmadd_ps(w, _mm256_set1_ps(x[t].f32[c]), acc[t]);
}

template <Form F, int T, int Panels>
inline void direct_panels(const Matrix& w, int p, const Row* x, float* const* out) {
  const uint8_t* panel = w.data + size_t(p) * w.panel_bytes;
  __m256 acc[Panels][T];
  for (int i = 0; i < Panels; i++)
    for (int t = 0; t < T; t++) acc[i][t] = _mm256_setzero_ps();
  const int steps = is_float(F) ? w.cols : w.cols / kGroup;
  for (int s = 0; s < steps; s++)
#pragma GCC unroll 4
    for (int i = 0; i < Panels; i++) {
      const uint8_t* from = panel + i * w.panel_bytes;
      if constexpr (!is_float(F)) fetch(from + s * block_bytes(F) + Panels * w.panel_bytes, block_bytes(F));
      if constexpr (is_float(F)) direct_float<F, T>(from, s, x, acc[i]);
      else if constexpr (reads_of(F) == Reads::Int16) direct_int16<F, T>(from + s * block_bytes(F), s, x, acc[i]);
      else direct_int8<F, T>(from + s * block_bytes(F), s, x, acc[i]);
    }
  for (int i = 0; i < Panels; i++)
    for (int t = 0; t < T; t++) _mm256_storeu_ps(out[t] + (p + i) * 8, acc[i][t]);
}

template <Form F, int T>
void direct(const Matrix& w, int p0, int p1, const Row* x, float* const* out) {
  constexpr int kPanels = T <= 2 ? 4 : 2;
  for (; p0 + kPanels <= p1; p0 += kPanels) direct_panels<F, T, kPanels>(w, p0, x, out);
  for (; p0 < p1; p0++) direct_panels<F, T, 1>(w, p0, x, out);
}

// ---- many tokens: two panels of a group are unpacked once and used by a whole tile of tokens
inline void accumulate(float* c, __m256i a, __m256 w, float s) {
  _mm256_store_ps(c, _mm256_fmadd_ps(_mm256_cvtepi32_ps(a), _mm256_mul_ps(w, _mm256_set1_ps(s)), _mm256_load_ps(c)));
}

// `w` are the scales of both panels, part after part.
template <int Parts, int T>
inline void tile_int16(const __m256i* b, const int16_t* x, const float* s, float* c, const __m256* w) {
#pragma GCC unroll 2
  for (int part = 0; part < Parts; part++) {
    __m256i a0[T], a1[T];
    for (int t = 0; t < T; t++) a0[t] = a1[t] = _mm256_setzero_si256();
#pragma GCC unroll 16
    for (int i = 0; i < 16 / Parts; i++) {
      const int k = part * 8 + i;
#pragma GCC unroll 4
      for (int t = 0; t < T; t++) {
        __m256i v = pair(x + t * kGroup + 2 * k);
        a0[t] = _mm256_add_epi32(a0[t], _mm256_madd_epi16(b[2 * k], v));
        a1[t] = _mm256_add_epi32(a1[t], _mm256_madd_epi16(b[2 * k + 1], v));
        PIN(a0[t]) PIN(a1[t])
      }
    }
    for (int t = 0; t < T; t++) {
      accumulate(c + t * 16, a0[t], w[2 * part], s[t]);
      accumulate(c + t * 16 + 8, a1[t], w[2 * part + 1], s[t]);
    }
  }
}

template <Form F, int T>
inline void tile_int8(const __m256i* b, const int8_t* x, const float* s, const float* z, float* c, const __m256* w, const __m256* m) {
  __m256i a0[T], a1[T], first0[T], first1[T];
  for (int t = 0; t < T; t++) a0[t] = a1[t] = first0[t] = first1[t] = _mm256_setzero_si256();
#pragma GCC unroll 8
  for (int k = 0; k < 8; k++) {
#pragma GCC unroll 4
    for (int t = 0; t < T; t++) {
      __m256i v = four(x + t * kGroup + 4 * k);
      a0[t] = _mm256_add_epi16(a0[t], _mm256_maddubs_epi16(b[2 * k], v));
      a1[t] = _mm256_add_epi16(a1[t], _mm256_maddubs_epi16(b[2 * k + 1], v));
      PIN(a0[t]) PIN(a1[t])
    }
    if (F == Form::Q5 && k == 3)  // see direct_int8
      for (int t = 0; t < T; t++) {
        first0[t] = widened(a0[t]);
        first1[t] = widened(a1[t]);
        a0[t] = a1[t] = _mm256_setzero_si256();
      }
  }
  for (int t = 0; t < T; t++) {
    float* o = c + t * 16;
    __m256 zero = _mm256_set1_ps(z[t]);
    accumulate(o, whole<F>(a0[t], first0[t]), w[0], s[t]);
    _mm256_store_ps(o, _mm256_fmadd_ps(m[0], zero, _mm256_load_ps(o)));
    accumulate(o + 8, whole<F>(a1[t], first1[t]), w[1], s[t]);
    _mm256_store_ps(o + 8, _mm256_fmadd_ps(m[1], zero, _mm256_load_ps(o + 8)));
  }
}

template <int T>
inline void tile_floats(const __m256* b, int columns, const float* x, float* c) {
  __m256 a0[T], a1[T];
  for (int t = 0; t < T; t++) {
    a0[t] = _mm256_load_ps(c + t * 16);
    a1[t] = _mm256_load_ps(c + t * 16 + 8);
  }
  for (int k = 0; k < columns; k++)
#pragma GCC unroll 4
    for (int t = 0; t < T; t++) {
      const __m256 v = _mm256_set1_ps(x[t * kGroup + k]);
      a0[t] = _mm256_fmadd_ps(b[2 * k], v, a0[t]);
      a1[t] = _mm256_fmadd_ps(b[2 * k + 1], v, a1[t]);
    }
  for (int t = 0; t < T; t++) {
    _mm256_store_ps(c + t * 16, a0[t]);
    _mm256_store_ps(c + t * 16 + 8, a1[t]);
  }
}

template <Form F>
void group_int16(const uint8_t* p0, const uint8_t* p1, const Tile& tile, size_t at, int count, float* c) {
  __m256i b[32];
#pragma GCC unroll 8
  for (int i = 0; i < 8; i++) {
    const Pairs w0 = pairs<F>(p0, i), w1 = pairs<F>(p1, i);
    b[4 * i] = w0.first;
    b[4 * i + 1] = w1.first;
    b[4 * i + 2] = w0.second;
    b[4 * i + 3] = w1.second;
  }
  __m256 w[2 * kParts<F>];
  for (int i = 0; i < 2 * kParts<F>; i++) w[i] = scales<F>(i % 2 ? p1 : p0, i / 2);
  const int16_t* x = tile.at<int16_t>(at);
  const float* s = tile.scale.data() + at;
  over_tokens<4>(count, [&](int t) { tile_int16<kParts<F>, 4>(b, x + t * kGroup, s + t, c + t * 16, w); },
                 [&](int t) { tile_int16<kParts<F>, 1>(b, x + t * kGroup, s + t, c + t * 16, w); });
}

template <Form F>
void group_int8(const uint8_t* p0, const uint8_t* p1, const Tile& tile, size_t at, int count, float* c) {
  __m256i b[16];
#pragma GCC unroll 8
  for (int i = 0; i < 8; i++) {
    b[2 * i] = codes<F>(p0, i);
    b[2 * i + 1] = codes<F>(p1, i);
  }
  const __m256 w[2] = {halves(p0), halves(p1)}, m[2] = {halves(p0 + 16), halves(p1 + 16)};
  const int8_t* x = tile.at<int8_t>(at);
  const float *s = tile.scale.data() + at, *z = tile.sum.data() + at;
  over_tokens<4>(count, [&](int t) { tile_int8<F, 4>(b, x + t * kGroup, s + t, z + t, c + t * 16, w, m); },
                 [&](int t) { tile_int8<F, 1>(b, x + t * kGroup, s + t, z + t, c + t * 16, w, m); });
}

template <Form F>
void group_floats(const uint8_t* p0, const uint8_t* p1, const Tile& tile, size_t at, int count, float* c) {
  __m256 b[2 * kGroup];
  for (int k = 0; k < tile.columns; k++) {
    b[2 * k] = column<F>(p0, k);
    b[2 * k + 1] = column<F>(p1, k);
  }
  const float* x = tile.at<float>(at);
  over_tokens<4>(count, [&](int t) { tile_floats<4>(b, tile.columns, x + t * kGroup, c + t * 16); },
                 [&](int t) { tile_floats<1>(b, tile.columns, x + t * kGroup, c + t * 16); });
}

template <Form F>
void multiply(const Matrix& w, int p0, int p1, const Row* x, float* const* out, int count) {
  if (count > 4) {
    if constexpr (is_float(F)) return tiled(w, p0, p1, x, out, count, group_floats<F>);
    else if constexpr (reads_of(F) == Reads::Int16) return tiled(w, p0, p1, x, out, count, group_int16<F>);
    else return tiled(w, p0, p1, x, out, count, group_int8<F>);
  }
  if (count == 4) direct<F, 4>(w, p0, p1, x, out);
  if (count == 3) direct<F, 3>(w, p0, p1, x, out);
  if (count == 2) direct<F, 2>(w, p0, p1, x, out);
  if (count == 1) direct<F, 1>(w, p0, p1, x, out);
}

void matmul(const Matrix& w, int p0, int p1, const Row* x, float* const* out, int count) {
  switch (w.form) {
    case Form::F32: return multiply<Form::F32>(w, p0, p1, x, out, count);
    case Form::F16: return multiply<Form::F16>(w, p0, p1, x, out, count);
    case Form::BF16: return multiply<Form::BF16>(w, p0, p1, x, out, count);
    case Form::Q8: return multiply<Form::Q8>(w, p0, p1, x, out, count);
    case Form::Q4: return multiply<Form::Q4>(w, p0, p1, x, out, count);
    case Form::Q5: return multiply<Form::Q5>(w, p0, p1, x, out, count);
    case Form::Q6: return multiply<Form::Q6>(w, p0, p1, x, out, count);
  }
}

struct Group {
  __m256 v[4];
  float top;
};

inline Group load_group(const float* x) {
  const __m256 magnitude = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
  Group g;
  __m256 top = _mm256_setzero_ps();
  for (int i = 0; i < 4; i++) {
    g.v[i] = _mm256_loadu_ps(x + 8 * i);
    top = _mm256_max_ps(top, _mm256_and_ps(g.v[i], magnitude));
  }
  g.top = hmax(top);
  return g;
}

inline void rounded(const Group& g, float limit, __m256i* q) {
  __m256 inverse = _mm256_set1_ps(g.top > kTiny ? limit / g.top : 0);
  for (int i = 0; i < 4; i++) q[i] = _mm256_cvtps_epi32(_mm256_mul_ps(g.v[i], inverse));
}

inline __m256i pack16(__m256i a, __m256i b) { return _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xD8); }

void quantize16(const float* x, int cols, int16_t* q, float* scale) {
  for (int i = 0; i < cols / kGroup; i++) {
    Group g = load_group(x + i * kGroup);
    __m256i r[4];
    rounded(g, 32767.f, r);
    scale[i] = g.top / 32767.f;
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(q + i * kGroup), pack16(r[0], r[1]));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(q + i * kGroup + 16), pack16(r[2], r[3]));
  }
}

void quantize8(const float* x, int cols, int8_t* q, float* scale, float* sum) {
  for (int i = 0; i < cols / kGroup; i++) {
    Group g = load_group(x + i * kGroup);
    __m256i r[4];
    rounded(g, 127.f, r);
    scale[i] = g.top / 127.f;
    __m256i bytes = _mm256_permute4x64_epi64(_mm256_packs_epi16(pack16(r[0], r[1]), pack16(r[2], r[3])), 0xD8);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(q + i * kGroup), bytes);
    __m256i total = _mm256_add_epi32(_mm256_add_epi32(r[0], r[1]), _mm256_add_epi32(r[2], r[3]));
    sum[i] = scale[i] * hsum(_mm256_cvtepi32_ps(total));
  }
}

float dot(const float* a, const float* b, int n) {
  __m256 s = _mm256_setzero_ps(), t = s;
  int i = 0;
  for (; i + 16 <= n; i += 16) {
    s = _mm256_fmadd_ps(_mm256_loadu_ps(a + i), _mm256_loadu_ps(b + i), s);
    t = _mm256_fmadd_ps(_mm256_loadu_ps(a + i + 8), _mm256_loadu_ps(b + i + 8), t);
  }
  float sum = hsum(_mm256_add_ps(s, t));
  for (; i < n; i++) sum += a[i] * b[i];
  return sum;
}

void rms_norm(const float* x, const float* weight, float eps, float* out, int n) {
  float scale = 1.f / std::sqrt(dot(x, x, n) / float(n) + eps);
  for (int i = 0; i < n; i++) out[i] = x[i] * scale * weight[i];
}

void silu_pairs(const float* pairs, float* out, int p0, int p1) {
  for (int p = p0; p < p1; p++) {
    __m256 gate = _mm256_loadu_ps(pairs + p * 16), up = _mm256_loadu_ps(pairs + p * 16 + 8);
    __m256 denominator = _mm256_add_ps(_mm256_set1_ps(1.f), exp8(_mm256_sub_ps(_mm256_setzero_ps(), gate)));
    _mm256_storeu_ps(out + p * 8, _mm256_mul_ps(_mm256_div_ps(gate, denominator), up));
  }
}

void add(float* x, const float* y, float weight, int n) {
  __m256 w = _mm256_set1_ps(weight);
  int i = 0;
  for (; i + 8 <= n; i += 8) _mm256_storeu_ps(x + i, _mm256_fmadd_ps(w, _mm256_loadu_ps(y + i), _mm256_loadu_ps(x + i)));
  for (; i < n; i++) x[i] += weight * y[i];
}

// R rows share each key and value while it is in a register.
template <class T, int R>
void attend_rows(const T* k, const T* v, int valid, int dim, const float* const* q, float* const* states) {
  alignas(32) float score[R][kPage];
  for (int j = 0; j < kPage; j += 16) {
    __m256 a[R], b[R];
    for (int r = 0; r < R; r++) a[r] = b[r] = _mm256_setzero_ps();
    for (int d = 0; d < dim && j < valid; d++) {
      const __m256 first = load8(k + d * kPage + j), second = load8(k + d * kPage + j + 8);
#pragma GCC unroll 4
      for (int r = 0; r < R; r++) {
        const __m256 x = _mm256_broadcast_ss(q[r] + d);
        a[r] = _mm256_fmadd_ps(first, x, a[r]);
        b[r] = _mm256_fmadd_ps(second, x, b[r]);
      }
    }
    for (int r = 0; r < R; r++) {
      _mm256_store_ps(score[r] + j, a[r]);
      _mm256_store_ps(score[r] + j + 8, b[r]);
    }
  }
  for (int r = 0; r < R; r++) soften(score[r], valid, dim, states[r]);
  for (int d = 0; d < dim; d += 16) {
    const bool both = d + 16 <= dim;
    __m256 a[R], b[R];
    for (int r = 0; r < R; r++) {
      a[r] = _mm256_loadu_ps(states[r] + d);
      b[r] = both ? _mm256_loadu_ps(states[r] + d + 8) : _mm256_setzero_ps();
    }
    for (int j = 0; j < valid; j++) {
      const __m256 first = load8(v + j * dim + d), second = both ? load8(v + j * dim + d + 8) : first;
#pragma GCC unroll 4
      for (int r = 0; r < R; r++) {
        const __m256 weight = _mm256_broadcast_ss(score[r] + j);
        a[r] = _mm256_fmadd_ps(first, weight, a[r]);
        b[r] = _mm256_fmadd_ps(second, weight, b[r]);
      }
    }
    for (int r = 0; r < R; r++) {
      _mm256_storeu_ps(states[r] + d, a[r]);
      if (both) _mm256_storeu_ps(states[r] + d + 8, b[r]);
    }
  }
}

template <class T>
void attend_all(const T* k, const T* v, int valid, int dim, const float* const* q, float* const* states, int rows) {
  for (; rows >= 4; rows -= 4, q += 4, states += 4) attend_rows<T, 4>(k, v, valid, dim, q, states);
  if (rows == 3) attend_rows<T, 3>(k, v, valid, dim, q, states);
  if (rows == 2) attend_rows<T, 2>(k, v, valid, dim, q, states);
  if (rows == 1) attend_rows<T, 1>(k, v, valid, dim, q, states);
}

void attend(Cache cache, const uint8_t* keys, const uint8_t* values, int valid, int dim, const float* const* q, float* const* states, int rows) {
  if (cache == Cache::F32) return attend_all(reinterpret_cast<const float*>(keys), reinterpret_cast<const float*>(values), valid, dim, q, states, rows);
  if (cache == Cache::F16 && rows <= 8) return attend_all(reinterpret_cast<const uint16_t*>(keys), reinterpret_cast<const uint16_t*>(values), valid, dim, q, states, rows);
  attend_unpacked(cache, keys, values, valid, dim, [&](const float* k, const float* v) { attend_all(k, v, valid, dim, q, states, rows); });
}

void to_f16(const float* x, uint16_t* out, int n) {
  for (int i = 0; i < n; i += 8) _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i), _mm256_cvtps_ph(_mm256_loadu_ps(x + i), _MM_FROUND_TO_NEAREST_INT));
}

// Eight logits from x[i]; what is not allowed, or beyond n, is -inf.
inline __m256 allowed8(const float* x, const uint8_t* allowed, int i, int n) {
  if (!allowed && i + 8 <= n) return _mm256_loadu_ps(x + i);
  const __m256i bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  const int bits = (allowed ? allowed[i / 8] : 255) & (n - i < 8 ? (1 << (n - i)) - 1 : 255);
  const __m256i here = _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(bits), bit), bit);
  return _mm256_blendv_ps(_mm256_set1_ps(-INFINITY), _mm256_maskload_ps(x + i, here), _mm256_castsi256_ps(here));
}

// Calls visit(i) for each eight logits of which one is allowed; of masks with few bits, most are passed over 64 at a time.
template <class Visit>
inline void over_allowed(const uint8_t* allowed, int n, Visit visit) {
  for (int begin = 0; begin < n; begin += 64) {
    if (allowed && begin + 64 <= n) {
      uint64_t bits;
      std::memcpy(&bits, allowed + begin / 8, 8);
      if (!bits) continue;
    }
    for (int i = begin; i < std::min(n, begin + 64); i += 8) visit(i);
  }
}

void summarize(const float* x, const uint8_t* allowed, int n, int* best, float* log_sum) {
  const __m256 none = _mm256_set1_ps(-INFINITY);
  __m256 highest[2] = {none, none};
  over_allowed(allowed, n, [&](int i) { highest[i / 8 % 2] = _mm256_max_ps(highest[i / 8 % 2], allowed8(x, allowed, i, n)); });
  const float top = hmax(_mm256_max_ps(highest[0], highest[1]));
  *best = -1;
  *log_sum = -INFINITY;
  if (!(top > -INFINITY)) return;
  const __m256 tops = _mm256_set1_ps(top), least = _mm256_set1_ps(-87.f);
  __m256d total = _mm256_setzero_pd();
  over_allowed(allowed, n, [&](int i) {
    const __m256 values = allowed8(x, allowed, i, n), below = _mm256_sub_ps(values, tops);
    if (*best < 0)
      if (const int equal = _mm256_movemask_ps(_mm256_cmp_ps(values, tops, _CMP_EQ_OQ))) *best = i + __builtin_ctz(equal);
    const __m256 powers = _mm256_and_ps(exp8(below), _mm256_cmp_ps(below, least, _CMP_GE_OQ));
    total = _mm256_add_pd(total, _mm256_cvtps_pd(_mm_add_ps(_mm256_castps256_ps128(powers), _mm256_extractf128_ps(powers, 1))));
  });
  const __m128d sum = _mm_add_pd(_mm256_castpd256_pd128(total), _mm256_extractf128_pd(total, 1));
  *log_sum = top + float(std::log(_mm_cvtsd_f64(_mm_add_sd(sum, _mm_unpackhi_pd(sum, sum)))));
}

}  // namespace

const Kernels& avx2_kernels() {
  static const Kernels table{"avx2", matmul, quantize16, quantize8, rms_norm, dot, silu_pairs, add, attend, to_f16, summarize};
  return table;
}

}  // namespace openarctic
