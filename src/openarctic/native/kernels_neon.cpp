// NEON with dot products (ARMv8.2). This file alone is compiled for them; nothing here runs before the processor was asked.
//
// A register holds four rows, so a panel takes two. A dot product adds four columns of int8 to each row; activations of 16 bits
// go in as their two bytes: q = 256 * upper + (lower - 128) + 128, and 128 times the sum of the weights is added once a block.
#include "kernels.h"
#include "tile.h"

#include <arm_neon.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>
#include <utility>

// Blocks of weights must stay in registers.
#if defined(__GNUC__)
#define INLINE __attribute__((always_inline))
#else
#define INLINE
#endif

namespace openarctic {
namespace {

// Rows 0 to 3 and rows 4 to 7 of a panel.
struct Rows {
  float32x4_t low, high;
};
struct Sums {
  int32x4_t low, high;
};
struct Bytes {
  int8x16_t low, high;  // four columns of each row
};

inline Rows zeros() { return {vdupq_n_f32(0), vdupq_n_f32(0)}; }
inline Rows load_rows(const float* p) { return {vld1q_f32(p), vld1q_f32(p + 4)}; }
inline void store(float* p, const Rows& r) {
  vst1q_f32(p, r.low);
  vst1q_f32(p + 4, r.high);
}
inline Rows times(const Rows& a, float b) { return {vmulq_n_f32(a.low, b), vmulq_n_f32(a.high, b)}; }
inline Rows times(const Rows& a, const Rows& b) { return {vmulq_f32(a.low, b.low), vmulq_f32(a.high, b.high)}; }
inline Rows floats(const Sums& s) { return {vcvtq_f32_s32(s.low), vcvtq_f32_s32(s.high)}; }
inline void add_product(Rows& to, const Rows& a, const Rows& b) {
  to.low = vfmaq_f32(to.low, a.low, b.low);
  to.high = vfmaq_f32(to.high, a.high, b.high);
}
inline void add_product(Rows& to, const Rows& a, float b) {
  to.low = vfmaq_n_f32(to.low, a.low, b);
  to.high = vfmaq_n_f32(to.high, a.high, b);
}
inline void add_dots(Sums& to, const Bytes& w, int8x16_t x) {
  to.low = vdotq_s32(to.low, w.low, x);
  to.high = vdotq_s32(to.high, w.high, x);
}
// Of columns 4 * lane ... of x.
template <int lane>
inline void add_dots(Sums& to, const Bytes& w, int8x16_t x) {
  to.low = vdotq_laneq_s32(to.low, w.low, x, lane);
  to.high = vdotq_laneq_s32(to.high, w.high, x, lane);
}

inline Rows halves(const uint8_t* p) {
  const float16x8_t h = vreinterpretq_f16_u8(vld1q_u8(p));
  return {vcvt_f32_f16(vget_low_f16(h)), vcvt_high_f32_f16(h)};
}

// do(0) ... do(7) with constants: lanes of registers must be.
template <class Do, int... I>
INLINE inline void each_of(Do what, std::integer_sequence<int, I...>) {
  (what(std::integral_constant<int, I>()), ...);
}
template <class Do>
INLINE inline void each_quad(Do what) {
  each_of(what, std::make_integer_sequence<int, kGroup / 4>());
}

// ---- 32 columns of a panel, unpacked: quad i holds columns 4i..4i+3

template <Form F>
INLINE inline uint8x16_t codes(const uint8_t* half, int i) {
  constexpr int extra = extra_bits(F);
  const uint8x16_t nibbles = vld1q_u8(half + kCodes + 32 * (i / 2));
  const uint8x16_t low = i % 2 ? vshrq_n_u8(nibbles, 4) : vandq_u8(nibbles, vdupq_n_u8(15));
  if constexpr (extra == 0) return low;
  const int at = extra * i;
  const uint8x16_t moved = vshlq_u8(vld1q_u8(half + kCodes + 128 + 32 * (at / 8)), vdupq_n_s8(int8_t(4 - at % 8)));
  return vorrq_u8(low, vandq_u8(moved, vdupq_n_u8(((1 << extra) - 1) << 4)));
}

template <Form F>
INLINE inline Bytes quad(const uint8_t* block, int i) {
  if constexpr (F == Form::Q8) {
    const int16x8_t a = vreinterpretq_s16_u8(vld1q_u8(block + 16 + 32 * i)), b = vreinterpretq_s16_u8(vld1q_u8(block + 32 + 32 * i));
    return {vreinterpretq_s8_s16(vzip1q_s16(a, b)), vreinterpretq_s8_s16(vzip2q_s16(a, b))};
  }
  const Bytes b{vreinterpretq_s8_u8(codes<F>(block, i)), vreinterpretq_s8_u8(codes<F>(block + 16, i))};
  if constexpr (F != Form::Q6) return b;
  return {vsubq_s8(b.low, vdupq_n_s8(32)), vsubq_s8(b.high, vdupq_n_s8(32))};
}

// How many parts of a group have scales of their own.
template <Form F>
constexpr int kParts = F == Form::Q6 ? 2 : 1;

template <Form F>
INLINE inline Rows scales(const uint8_t* block, int part) {
  if constexpr (F != Form::Q6) return halves(block);
  const int16x8_t own = vmovl_s8(vreinterpret_s8_u8(vld1_u8(block + 16 + 8 * part)));
  return times(halves(block), floats({vmovl_s16(vget_low_s16(own)), vmovl_high_s16(own)}));
}

template <Form F>
struct Block {
  Bytes quads[8];
  Rows scale[kParts<F>];
  Rows minimum;            // Q4, Q5
  Sums middle[kParts<F>];  // Q8, Q6: 128 times the sums of the weights

  INLINE explicit Block(const uint8_t* from) {
    for (int part = 0; part < kParts<F>; part++) {
      scale[part] = scales<F>(from, part);
      middle[part] = {vdupq_n_s32(0), vdupq_n_s32(0)};
    }
    each_quad([&](auto i) INLINE {
      quads[i] = quad<F>(from, i);
      if constexpr (reads_of(F) == Reads::Int16) add_dots(middle[i * kParts<F> / 8], quads[i], vdupq_n_s8(64));
    });
    if constexpr (reads_of(F) == Reads::Int8) minimum = halves(from + 16);
    else
      for (Sums& m : middle) m = {vshlq_n_s32(m.low, 1), vshlq_n_s32(m.high, 1)};
  }
};

// ---- 32 activations of a token, in the order of the weights' bytes

struct Signed {
  int8x16_t q[2];
  float scale, sum;
};

struct Split {
  int8x16_t upper[2], lower[2];
  float scale;
};

inline Signed load_signed(const int8_t* q, float scale, float sum) { return {{vld1q_s8(q), vld1q_s8(q + 16)}, scale, sum}; }

template <Form F>
inline int8x16_t ordered(int8x16_t x) {
  if constexpr (F != Form::Q6) return x;
  constexpr uint8_t order[16] = {0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15};  // pair_order
  return vqtbl1q_s8(x, vld1q_u8(order));
}

template <Form F>
inline Split load_split(const int16_t* q, float scale) {
  Split x;
  x.scale = scale;
  for (int h = 0; h < 2; h++) {
    const int8x16_t a = vreinterpretq_s8_s16(vld1q_s16(q + 16 * h)), b = vreinterpretq_s8_s16(vld1q_s16(q + 16 * h + 8));
    x.upper[h] = ordered<F>(vuzp2q_s8(a, b));
    x.lower[h] = ordered<F>(veorq_s8(vuzp1q_s8(a, b), vdupq_n_s8(-128)));
  }
  return x;
}

// ---- products of a block and a token

template <Form F>
INLINE inline void multiply_block(const Block<F>& w, const Signed& x, Rows& acc) {
  Sums sums{vdupq_n_s32(0), vdupq_n_s32(0)};
  each_quad([&](auto i) INLINE { add_dots<i % 4>(sums, w.quads[i], x.q[i / 4]); });
  add_product(acc, floats(sums), times(w.scale[0], x.scale));
  add_product(acc, w.minimum, x.sum);
}

template <Form F>
INLINE inline void multiply_block(const Block<F>& w, const Split& x, Rows& acc) {
  Sums upper[kParts<F>], lower[kParts<F>];
  for (int part = 0; part < kParts<F>; part++) {
    upper[part] = {vdupq_n_s32(0), vdupq_n_s32(0)};
    lower[part] = w.middle[part];
  }
  each_quad([&](auto i) INLINE {
    add_dots<i % 4>(upper[i * kParts<F> / 8], w.quads[i], x.upper[i / 4]);
    add_dots<i % 4>(lower[i * kParts<F> / 8], w.quads[i], x.lower[i / 4]);
  });
  for (int part = 0; part < kParts<F>; part++) {
    const Sums sums{vaddq_s32(vshlq_n_s32(upper[part].low, 8), lower[part].low), vaddq_s32(vshlq_n_s32(upper[part].high, 8), lower[part].high)};
    add_product(acc, floats(sums), times(w.scale[part], x.scale));
  }
}

// Column c of a panel of floats.
template <Form F>
inline Rows column(const uint8_t* panel, int c) {
  if constexpr (F == Form::F32) return {vreinterpretq_f32_u8(vld1q_u8(panel + c * 32)), vreinterpretq_f32_u8(vld1q_u8(panel + c * 32 + 16))};
  if constexpr (F == Form::F16) return halves(panel + c * 16);
  const uint16x8_t upper = vreinterpretq_u16_u8(vld1q_u8(panel + c * 16));
  return {vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(upper), 16)), vreinterpretq_f32_u32(vshll_high_n_u16(upper, 16))};
}

// ---- few tokens: weights are read once and used at once. Several panels advance together: more streams wait for memory at once.

template <Form F>
inline auto load_group(const Row& x, int g) {
  if constexpr (reads_of(F) == Reads::Int16) return load_split<F>(x.q16 + g * kGroup, x.scale16[g]);
  else return load_signed(x.q8 + g * kGroup, x.scale8[g], x.sum8[g]);
}

template <Form F, int T, int Panels>
inline void direct_panels(const Matrix& w, int p, const Row* x, float* const* out) {
  const uint8_t* panel = w.data + size_t(p) * w.panel_bytes;
  Rows acc[Panels][T];
  for (auto& rows : acc)
    for (Rows& r : rows) r = zeros();
  if constexpr (is_float(F)) {
    for (int c = 0; c < w.cols; c++)
      for (int i = 0; i < Panels; i++) {
        const Rows values = column<F>(panel + i * w.panel_bytes, c);
        for (int t = 0; t < T; t++) add_product(acc[i][t], values, x[t].f32[c]);
      }
  } else {
    for (int g = 0; g < w.cols / kGroup; g++)
      for (int i = 0; i < Panels; i++) {
        const Block<F> block(panel + i * w.panel_bytes + g * block_bytes(F));
        for (int t = 0; t < T; t++) multiply_block<F>(block, load_group<F>(x[t], g), acc[i][t]);
      }
  }
  for (int i = 0; i < Panels; i++)
    for (int t = 0; t < T; t++) store(out[t] + (p + i) * 8, acc[i][t]);
}

template <Form F, int T>
void direct(const Matrix& w, int p0, int p1, const Row* x, float* const* out) {
  constexpr int kPanels = T <= 2 ? 4 : 2;
  for (; p0 + kPanels <= p1; p0 += kPanels) direct_panels<F, T, kPanels>(w, p0, x, out);
  for (; p0 < p1; p0++) direct_panels<F, T, 1>(w, p0, x, out);
}

// ---- many tokens: a block is unpacked once, into registers, and meets every token of the tile

template <Form F>
inline auto load_group(const Tile& tile, size_t i) {
  if constexpr (reads_of(F) == Reads::Int16) return load_split<F>(tile.at<int16_t>(i), tile.scale[i]);
  else return load_signed(tile.at<int8_t>(i), tile.scale[i], tile.sum[i]);
}

template <Form F>
void group_integers(const uint8_t* p0, const uint8_t* p1, const Tile& tile, size_t at, int count, float* c) {
  for (const uint8_t* from : {p0, p1}) {
    const Block<F> block(from);
    for (int t = 0; t < count; t++) {
      Rows acc = load_rows(c + t * 16);
      multiply_block<F>(block, load_group<F>(tile, at + t), acc);
      store(c + t * 16, acc);
    }
    c += 8;
  }
}

template <int T>
inline void tile_floats(const Rows* b, int columns, const float* x, float* c) {
  Rows acc[T][2];
  for (int t = 0; t < T; t++)
    for (int i = 0; i < 2; i++) acc[t][i] = load_rows(c + t * 16 + 8 * i);
  for (int k = 0; k < columns; k++)
    for (int t = 0; t < T; t++)
      for (int i = 0; i < 2; i++) add_product(acc[t][i], b[2 * k + i], x[t * kGroup + k]);
  for (int t = 0; t < T; t++)
    for (int i = 0; i < 2; i++) store(c + t * 16 + 8 * i, acc[t][i]);
}

template <Form F>
void group_floats(const uint8_t* p0, const uint8_t* p1, const Tile& tile, size_t at, int count, float* c) {
  Rows b[2 * kGroup];
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
    else return tiled(w, p0, p1, x, out, count, group_integers<F>);
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

// ---- activations

struct Group {
  float32x4_t v[8];
  float top;

  explicit Group(const float* x) {
    float32x4_t most = vdupq_n_f32(0);
    for (int i = 0; i < 8; i++) {
      v[i] = vld1q_f32(x + 4 * i);
      most = vmaxnmq_f32(most, vabsq_f32(v[i]));
    }
    top = vmaxnmvq_f32(most);
  }
  // Values 16 * h + 8 * k ... in units of top / limit.
  int16x8_t rounded(float limit, int i) const {
    const float inverse = top > kTiny ? limit / top : 0;
    const int32x4_t a = vcvtnq_s32_f32(vmulq_n_f32(v[2 * i], inverse)), b = vcvtnq_s32_f32(vmulq_n_f32(v[2 * i + 1], inverse));
    return vqmovn_high_s32(vqmovn_s32(a), b);
  }
};

void quantize16(const float* x, int cols, int16_t* q, float* scale) {
  for (int g = 0; g < cols / kGroup; g++) {
    const Group group(x + g * kGroup);
    scale[g] = group.top / 32767.f;
    for (int i = 0; i < 4; i++) vst1q_s16(q + g * kGroup + 8 * i, group.rounded(32767.f, i));
  }
}

void quantize8(const float* x, int cols, int8_t* q, float* scale, float* sum) {
  for (int g = 0; g < cols / kGroup; g++) {
    const Group group(x + g * kGroup);
    scale[g] = group.top / 127.f;
    int16x8_t total = vdupq_n_s16(0);
    for (int i = 0; i < 4; i++) {
      const int16x8_t values = group.rounded(127.f, i);
      vst1_s8(q + g * kGroup + 8 * i, vqmovn_s16(values));
      total = vaddq_s16(total, values);
    }
    sum[g] = scale[g] * float(vaddvq_s16(total));
  }
}

float dot(const float* a, const float* b, int n) {
  Rows s = zeros(), t = zeros();
  int i = 0;
  for (; i + 16 <= n; i += 16) {
    add_product(s, load_rows(a + i), load_rows(b + i));
    add_product(t, load_rows(a + i + 8), load_rows(b + i + 8));
  }
  float sum = vaddvq_f32(vaddq_f32(vaddq_f32(s.low, t.low), vaddq_f32(s.high, t.high)));
  for (; i < n; i++) sum += a[i] * b[i];
  return sum;
}

void rms_norm(const float* x, const float* weight, float eps, float* out, int n) {
  const float scale = 1.f / std::sqrt(dot(x, x, n) / float(n) + eps);
  for (int i = 0; i < n; i++) out[i] = x[i] * scale * weight[i];
}

inline float32x4_t exp4(float32x4_t x) {  // Cephes polynomial, about 1 ulp
  x = vmaxq_f32(vminq_f32(x, vdupq_n_f32(88.f)), vdupq_n_f32(-87.f));
  const float32x4_t n = vrndnq_f32(vmulq_n_f32(x, 1.44269504f));
  float32x4_t r = vfmsq_f32(x, n, vdupq_n_f32(0.693359375f));
  r = vfmsq_f32(r, n, vdupq_n_f32(-2.12194440e-4f));
  float32x4_t p = vdupq_n_f32(1.9875691500e-4f);
  for (float c : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 0.5f}) p = vfmaq_f32(vdupq_n_f32(c), p, r);
  p = vfmaq_f32(vaddq_f32(r, vdupq_n_f32(1.f)), vmulq_f32(p, r), r);
  return vmulq_f32(p, vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vcvtnq_s32_f32(n), vdupq_n_s32(127)), 23)));
}

inline float32x4_t silu(float32x4_t x) { return vdivq_f32(x, vaddq_f32(vdupq_n_f32(1.f), exp4(vnegq_f32(x)))); }

void silu_pairs(const float* pairs, float* out, int p0, int p1) {
  for (int p = p0; p < p1; p++) {
    const Rows gate = load_rows(pairs + p * 16);
    store(out + p * 8, times({silu(gate.low), silu(gate.high)}, load_rows(pairs + p * 16 + 8)));
  }
}

void add(float* x, const float* y, float weight, int n) {
  int i = 0;
  for (; i + 8 <= n; i += 8) {
    Rows sum = load_rows(x + i);
    add_product(sum, load_rows(y + i), weight);
    store(x + i, sum);
  }
  for (; i < n; i++) x[i] += weight * y[i];
}

// ---- attention

inline Rows load8(const float* p) { return load_rows(p); }
inline Rows load8(const uint16_t* p) { return halves(reinterpret_cast<const uint8_t*>(p)); }

// Scores become weights; the state is brought to the largest score so far.
inline void soften(float* score, int valid, int dim, float* state) {
  float &top = state[dim], &sum = state[dim + 1];
  const int32x4_t lanes = {0, 1, 2, 3};
  const float32x4_t none = vdupq_n_f32(-INFINITY);
  float32x4_t s[kPage / 4], highest = none;
  uint32x4_t here[kPage / 4];
  for (int i = 0; i < kPage / 4; i++) {
    here[i] = vcltq_s32(lanes, vdupq_n_s32(valid - 4 * i));
    s[i] = vbslq_f32(here[i], vld1q_f32(score + 4 * i), none);
    highest = vmaxq_f32(highest, s[i]);
  }
  const float now = std::max(top, vmaxvq_f32(highest));
  if (now > top) {
    const float kept = std::exp(top - now);
    for (int d = 0; d < dim; d += 8) store(state + d, times(load_rows(state + d), kept));
    sum *= kept;
    top = now;
  }
  float32x4_t total = vdupq_n_f32(0);
  for (int i = 0; i < kPage / 4; i++) {
    const float32x4_t weight = vbslq_f32(here[i], exp4(vsubq_f32(s[i], vdupq_n_f32(top))), vdupq_n_f32(0));
    vst1q_f32(score + 4 * i, weight);
    total = vaddq_f32(total, weight);
  }
  sum += vaddvq_f32(total);
}

// R rows share each key and value while it is in a register.
template <class T, int R>
void attend_rows(const T* k, const T* v, int valid, int dim, const float* const* q, float* const* states) {
  float score[R][kPage];
  for (int j = 0; j < kPage; j += 16) {
    Rows a[R], b[R];
    for (int r = 0; r < R; r++) a[r] = b[r] = zeros();
    for (int d = 0; d < dim && j < valid; d++) {
      const Rows first = load8(k + d * kPage + j), second = load8(k + d * kPage + j + 8);
      for (int r = 0; r < R; r++) {
        add_product(a[r], first, q[r][d]);
        add_product(b[r], second, q[r][d]);
      }
    }
    for (int r = 0; r < R; r++) {
      store(score[r] + j, a[r]);
      store(score[r] + j + 8, b[r]);
    }
  }
  for (int r = 0; r < R; r++) soften(score[r], valid, dim, states[r]);
  for (int d = 0; d < dim; d += 16) {
    const bool both = d + 16 <= dim;
    Rows a[R], b[R];
    for (int r = 0; r < R; r++) {
      a[r] = load_rows(states[r] + d);
      b[r] = both ? load_rows(states[r] + d + 8) : zeros();
    }
    for (int j = 0; j < valid; j++) {
      const Rows first = load8(v + j * dim + d), second = both ? load8(v + j * dim + d + 8) : first;
      for (int r = 0; r < R; r++) {
        add_product(a[r], first, score[r][j]);
        add_product(b[r], second, score[r][j]);
      }
    }
    for (int r = 0; r < R; r++) {
      store(states[r] + d, a[r]);
      if (both) store(states[r] + d + 8, b[r]);
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

inline void widen(const uint16_t* from, size_t count, float* to) {
  for (size_t i = 0; i < count; i += 8) store(to + i, load8(from + i));
}

inline float half(const uint8_t* p) { return vgetq_lane_f32(vcvt_f32_f16(vreinterpret_f16_u16(vld1_dup_u16(reinterpret_cast<const uint16_t*>(p)))), 0); }

inline Rows codes8(const uint8_t* p) {
  const int16x8_t codes = vmovl_s8(vreinterpret_s8_u8(vld1_u8(p)));
  return floats({vmovl_s16(vget_low_s16(codes)), vmovl_high_s16(codes)});
}

// Keys and values of a Q8 page as floats.
void unpack_cache(const uint8_t* keys, const uint8_t* values, int dim, float* k, float* v) {
  const size_t numbers = size_t(kPage) * dim;
  for (int d = 0; d < dim; d++)
    for (int j = 0; j < kPage; j += 8) {
      const Rows scale = halves(keys + numbers + 2 * ((d / kGroup) * kPage + j));
      store(k + d * kPage + j, times(codes8(keys + d * kPage + j), scale));
    }
  for (int j = 0; j < kPage; j++)
    for (int d = 0; d < dim; d += 8) {
      const float scale = half(values + numbers + 2 * (j * (dim / kGroup) + d / kGroup));
      store(v + j * dim + d, times(codes8(values + j * dim + d), scale));
    }
}

// Many rows, and codes, are worth a page of floats first.
void attend(Cache cache, const uint8_t* keys, const uint8_t* values, int valid, int dim, const float* const* q, float* const* states, int rows) {
  if (cache == Cache::F32) return attend_all(reinterpret_cast<const float*>(keys), reinterpret_cast<const float*>(values), valid, dim, q, states, rows);
  const auto *k16 = reinterpret_cast<const uint16_t*>(keys), *v16 = reinterpret_cast<const uint16_t*>(values);
  if (cache == Cache::F16 && rows <= 4) return attend_all(k16, v16, valid, dim, q, states, rows);
  static thread_local std::vector<float> page;
  const size_t numbers = size_t(kPage) * dim;
  page.resize(2 * numbers);
  float *k = page.data(), *v = k + numbers;
  if (cache == Cache::Q8) {
    unpack_cache(keys, values, dim, k, v);
  } else {
    widen(k16, numbers, k);
    widen(v16, size_t(valid) * dim, v);
  }
  attend_all(k, v, valid, dim, q, states, rows);
}

void to_f16(const float* x, uint16_t* out, int n) {
  for (int i = 0; i < n; i += 8) {
    const Rows v = load_rows(x + i);
    vst1q_u16(out + i, vreinterpretq_u16_f16(vcvt_high_f16_f32(vcvt_f16_f32(v.low), v.high)));
  }
}

// Eight logits from x[i]; what is not allowed, or beyond n, is -inf.
inline Rows allowed8(const float* x, const uint8_t* allowed, int i, int n) {
  const float32x4_t none = vdupq_n_f32(-INFINITY);
  float rest[8];
  if (i + 8 > n) {
    store(rest, {none, none});
    std::copy(x + i, x + n, rest);
  }
  const Rows values = load_rows(i + 8 > n ? rest : x + i);
  if (!allowed) return values;
  const uint32x4_t low = {1, 2, 4, 8}, high = {16, 32, 64, 128}, bits = vdupq_n_u32(allowed[i / 8]);
  return {vbslq_f32(vtstq_u32(bits, low), values.low, none), vbslq_f32(vtstq_u32(bits, high), values.high, none)};
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

// The first of eight that is `value`, or 8.
inline int place_of(float value, const Rows& rows) {
  const float32x4_t wanted = vdupq_n_f32(value);
  const uint16x8_t equal = vcombine_u16(vmovn_u32(vceqq_f32(rows.low, wanted)), vmovn_u32(vceqq_f32(rows.high, wanted)));
  const uint64_t bytes = vget_lane_u64(vreinterpret_u64_u8(vmovn_u16(equal)), 0);
  return bytes ? __builtin_ctzll(bytes) / 8 : 8;
}

void summarize(const float* x, const uint8_t* allowed, int n, int* best, float* log_sum) {
  Rows highest{vdupq_n_f32(-INFINITY), vdupq_n_f32(-INFINITY)};
  over_allowed(allowed, n, [&](int i) {
    const Rows values = allowed8(x, allowed, i, n);
    highest = {vmaxq_f32(highest.low, values.low), vmaxq_f32(highest.high, values.high)};
  });
  const float top = vmaxvq_f32(vmaxq_f32(highest.low, highest.high));
  *best = -1;
  *log_sum = -INFINITY;
  if (!(top > -INFINITY)) return;
  const float32x4_t tops = vdupq_n_f32(top), least = vdupq_n_f32(-87.f), zero = vdupq_n_f32(0);
  float64x2_t first = vdupq_n_f64(0), second = first;
  over_allowed(allowed, n, [&](int i) {
    const Rows values = allowed8(x, allowed, i, n);
    if (*best < 0)
      if (const int place = place_of(top, values); place < 8) *best = i + place;
    const float32x4_t low = vsubq_f32(values.low, tops), high = vsubq_f32(values.high, tops);
    const float32x4_t powers = vaddq_f32(vbslq_f32(vcgeq_f32(low, least), exp4(low), zero), vbslq_f32(vcgeq_f32(high, least), exp4(high), zero));
    first = vaddq_f64(first, vcvt_f64_f32(vget_low_f32(powers)));
    second = vaddq_f64(second, vcvt_high_f64_f32(powers));
  });
  *log_sum = top + float(std::log(vaddvq_f64(vaddq_f64(first, second))));
}

}  // namespace

const Kernels& neon_kernels() {
  static const Kernels table{"neon", matmul, quantize16, quantize8, rms_norm, dot, silu_pairs, add, attend, to_f16, summarize};
  return table;
}

}  // namespace openarctic
