// Floats to blocks, bit for bit as ggml's reference quantisers: the same searches, sums in the same order, no fused
// multiply-add (files that include this are compiled without contraction).
//
// The search for a block's scale (and minimum) tries some inverse scales around the obvious one, solves the weighted least
// squares for the levels that each gives, and keeps the best. It runs on many blocks at once, one a lane (lanes.h).
// Everything has internal linkage: each file that includes this compiles it for its own processor.
#pragma once
#include <algorithm>
#include <cmath>

#include "lanes.h"

namespace openarctic {
namespace {

constexpr int kPiece = 8192;  // values whose floats, weights and fits stay in the first caches
constexpr float kNothing = 1e-15f;

inline uint16_t to_half(float f) {
#if defined(__F16C__)
  return uint16_t(_cvtss_sh(f, 0));
#else
  uint32_t bits = bits_as<uint32_t>(f), size = bits & 0x7fffffff;
  uint32_t normal = (size + 0xfff + (size >> 13 & 1) - 0x38000000) >> 13;
  uint32_t subnormal = bits_as<uint32_t>(bits_as<float>(size) + 0.5f) - 0x3f000000;  // units of 2^-24
  uint32_t large = size > 0x7f800000 ? 0x7e00 : 0x7c00;
  return uint16_t((bits >> 16 & 0x8000) | (size < 0x38800000 ? subnormal : size < 0x477ff000 ? normal : large));
#endif
}

inline void store_half(float f, uint8_t* out) {
  uint16_t h = to_half(f);
  std::memcpy(out, &h, 2);
}

inline void write_halves(const float* x, int count, uint8_t* out) {
  int i = 0;
#if defined(__F16C__)
  for (; i + 8 <= count; i += 8) _mm_storeu_si128(reinterpret_cast<__m128i*>(out + 2 * i), _mm256_cvtps_ph(_mm256_loadu_ps(x + i), 0));
#endif
  for (; i < count; i++) store_half(x[i], out + 2 * i);
}

inline int nearest(float x) { return int(bits_as<uint32_t>(x + 12582912.f) & 0x7fffff) - 0x400000; }
inline int nearest(float x, int low, int high) { return std::max(low, std::min(high, nearest(x))); }
// What no integer holds becomes 0 (blocks of the smallest subnormals, whose scale has no finite inverse).
inline int truncated(float x) { return std::fabs(x) < 1e9f ? int(x) : 0; }
inline int32_t size_bits(float x) { return bits_as<int32_t>(x) & 0x7fffffff; }
inline float inverse_of(float d) { return d != 0 ? 1 / d : 0; }

// ---- Types of 32 values without weights

inline void write_q8_0(const float* x, uint8_t* block) {
  int32_t most = 0;
  for (int i = 0; i < 32; i++) most = std::max(most, size_bits(x[i]));
  const float d = bits_as<float>(most) / 127, inverse = inverse_of(d);
  store_half(d, block);
  int8_t q[32];
  for (int i = 0; i < 32; i++) {  // halves away from zero: adding the number below 1/2 is exact where adding 1/2 is not
    float v = x[i] * inverse;
    q[i] = int8_t(truncated(v + bits_as<float>((bits_as<uint32_t>(v) & 0x80000000) | 0x3effffff)));
  }
  std::memcpy(block + 2, q, 32);
}

// The first value of the largest magnitude.
inline float largest(const float* x) {
  int32_t most = 0;
  for (int i = 0; i < 32; i++) most = std::max(most, size_bits(x[i]));
  int at = 31;
  for (int i = 0; i < 32; i++) at = std::min(at, size_bits(x[i]) == most ? i : 31);
  return most ? x[at] : 0;
}

// Smallest and largest value; of zeros of both signs the first.
inline void span(const float* x, float* low, float* high) {
  int32_t least = 0x7fffffff, most = -0x7fffffff - 1;
  for (int i = 0; i < 32; i++) {
    int32_t bits = bits_as<int32_t>(x[i]), ordered = bits ^ (bits >> 31 & 0x7fffffff);
    least = std::min(least, ordered);
    most = std::max(most, ordered);
  }
  *low = bits_as<float>(least ^ (least >> 31 & 0x7fffffff));
  *high = bits_as<float>(most ^ (most >> 31 & 0x7fffffff));
  if (*low != 0) return;
  for (int i = 31; i >= 0; i--)
    if (x[i] == 0) *low = x[i];
}

constexpr bool has_minimum(int kind) { return kind == Q4_1 || kind == Q5_1; }
constexpr bool has_fifth(int kind) { return kind == Q5_0 || kind == Q5_1; }
constexpr int levels_of(int kind) { return has_fifth(kind) ? 32 : 16; }

template <int kind>
inline void pack(float d, float low, const int* q, uint8_t* block) {
  store_half(d, block);
  if (has_minimum(kind)) store_half(low, block + 2);
  block += has_minimum(kind) ? 4 : 2;
  if (has_fifth(kind)) {
    uint32_t fifth = 0;
    for (int i = 0; i < 32; i++) fifth |= uint32_t(q[i] >> 4 & 1) << i;
    std::memcpy(block, &fifth, 4);
    block += 4;
  }
  uint8_t nibbles[16];
  for (int i = 0; i < 16; i++) nibbles[i] = uint8_t((q[i] & 15) | q[i + 16] << 4);
  std::memcpy(block, nibbles, 16);
}

template <int kind>
inline void write_nibbles(const float* x, uint8_t* block) {
  constexpr int levels = levels_of(kind);
  float low = 0, d;
  if (has_minimum(kind)) {
    float high;
    span(x, &low, &high);
    d = (high - low) / (levels - 1);
  } else {
    d = largest(x) / -(levels / 2);
  }
  const float inverse = inverse_of(d);
  int q[32];
  for (int i = 0; i < 32; i++) {
    float level = has_minimum(kind) ? (x[i] - low) * inverse + 0.5f : x[i] * inverse + (levels / 2 + 0.5f);
    q[i] = std::min(levels - 1, truncated(level));
  }
  pack<kind>(d, low, q, block);
}

// ---- Searches

// Scale and minimum of a block, and how its levels came about: level = (x - base) * inverse, rounded; no inverse: all 0.
struct Fit {
  float scale, minimum, inverse, base, weight;
};

inline void keep(Floats scale, Floats minimum, Floats inverse, Floats base, Floats weight, int blocks, Fit* fits) {
  for (int b = 0; b < blocks; b++) fits[b] = {scale[b], minimum[b], inverse[b], base[b], weight[b]};
}

// Levels -half..half-1 times a scale, for blocks of n values; without weights, squares of the values weigh.
template <int n>
void fit_symmetric(const float* x, const float* weights, int blocks, int half, Fit* fits) {
  Floats v[n], w[n], wv[n];
  for (int first = 0; first < blocks; first += kLanes, x += n * kLanes) {
    const int count = std::min(kLanes, blocks - first);
    gather<n>(x, count, v);
    if (weights) gather<n>(weights + first * n, count, w);
    const Floats zero = v[0] - v[0];
    Floats most = zero, peak = zero;
    for (int i = 0; i < n; i++) {
      if (!weights) w[i] = v[i] * v[i];
      wv[i] = w[i] * v[i];
      Floats size = magnitude(v[i]);
      peak = choose(size > most, v[i], peak);
      most = choose(size > most, size, most);
    }
    Floats sum_lx, sum_l2;
    const auto solve = [&](Floats inverse) {
      sum_lx = sum_l2 = zero;
      for (int i = 0; i < n; i++) {
        Floats l = nearest(inverse * v[i], -half, half - 1);
        sum_lx += wv[i] * l;
        sum_l2 += w[i] * l * l;
      }
      return sum_lx / sum_l2;
    };
    Floats inverse = -float(half) / peak, scale = solve(inverse);
    scale = choose(sum_l2 != zero, scale, zero);
    Floats best = scale * sum_lx;
    for (int step = -9; step <= 9; step++) {
      if (step == 0) continue;
      const Floats trial = -(float(half) + 0.1f * float(step)) / peak, own = solve(trial);
      const Ints better = (sum_l2 > zero) & (sum_lx * sum_lx > best * sum_l2);
      scale = choose(better, own, scale);
      best = choose(better, own * sum_lx, best);
      inverse = choose(better, trial, inverse);
    }
    const Ints nothing = most < zero + kNothing;
    keep(choose(nothing, zero, scale), zero, choose(nothing, zero, inverse), zero, zero, count, fits + first);
  }
}

struct Search {
  float first, step;
  int steps;
};

// Levels 0..top times a scale plus a minimum that is never above 0, for blocks of 32. Without weights, |x| plus the root
// of the block's mean square weighs.
inline void fit_affine(const float* x, const float* weights, int blocks, int top, Search search, Fit* fits) {
  Floats v[32], w[32], levels[32];
  for (int first = 0; first < blocks; first += kLanes, x += 32 * kLanes) {
    const int count = std::min(kLanes, blocks - first);
    gather<32>(x, count, v);
    const Floats zero = v[0] - v[0];
    if (weights) {
      gather<32>(weights + first * 32, count, w);
    } else {
      Floats root = zero;
      for (int i = 0; i < 32; i++) root += v[i] * v[i];
      for (int b = 0; b < kLanes; b++) root[b] = std::sqrt(root[b] / 32);
      for (int i = 0; i < 32; i++) w[i] = root + magnitude(v[i]);
    }
    Floats low = v[0], high = v[0], sum_w = w[0], sum_x = w[0] * v[0];
    for (int i = 1; i < 32; i++) {
      low = choose(v[i] < low, v[i], low);
      high = choose(v[i] > high, v[i], high);
      sum_w += w[i];
      sum_x += w[i] * v[i];
    }
    low = choose(low > zero, zero, low);
    const Ints flat = high <= low;
    const auto error_of = [&](Floats scale, Floats minimum) {
      Floats error = zero;
      for (int i = 0; i < 32; i++) {
        Floats difference = scale * levels[i] + minimum - v[i];
        error += w[i] * (difference * difference);
      }
      return error;
    };
    Floats inverse = float(top) / (high - low), base = low, scale = 1.f / inverse;
    for (int i = 0; i < 32; i++) levels[i] = nearest(inverse * (v[i] - low), 0, top);
    Floats error = error_of(scale, low);
    for (int step = 0; step <= search.steps; step++) {
      const Floats trial = (search.first + search.step * float(step) + float(top)) / (high - low);
      Floats sum_l = zero, sum_l2 = zero, sum_xl = zero;
      for (int i = 0; i < 32; i++) {
        const Floats l = levels[i] = nearest(trial * (v[i] - low), 0, top);
        const Floats wl = w[i] * l;
        sum_l += wl;
        sum_l2 += wl * l;
        sum_xl += wl * v[i];
      }
      const Floats determinant = sum_w * sum_l2 - sum_l * sum_l;
      Floats own_scale = (sum_w * sum_xl - sum_x * sum_l) / determinant;
      Floats own_low = (sum_l2 * sum_x - sum_l * sum_xl) / determinant;
      const Ints above = own_low > zero;
      own_low = choose(above, zero, own_low);
      own_scale = choose(above, sum_xl / sum_l2, own_scale);
      const Floats own_error = error_of(own_scale, own_low);
      const Ints better = (determinant > zero) & (own_error < error);
      error = choose(better, own_error, error);
      scale = choose(better, own_scale, scale);
      inverse = choose(better, trial, inverse);
      base = choose(better, low, base);
      low = choose(better, own_low, low);
    }
    keep(choose(flat, zero, scale), low, choose(flat, zero, inverse), choose(flat, zero, base), sum_w, count, fits + first);
  }
}

inline float largest_of_8(const float* x) {
  float most = 0;
  for (int i = 0; i < 8; i++) most = std::max(most, x[i]);
  return most;
}

// Levels 0..top times a scale, for 8 values that are hardly ever negative: scales or minima of a block of 256.
inline float fit_positive(const float* x, const float* weights, int top, uint8_t* levels) {
  const float most = largest_of_8(x);
  std::memset(levels, 0, 8);
  if (most < kNothing) return 0;
  const auto error_of = [&](float inverse, auto level_of) {
    const float scale = 1 / inverse;
    float error = 0;
    for (int i = 0; i < 8; i++) {
      float difference = x[i] - scale * float(level_of(nearest(inverse * x[i])));
      error += weights[i] * difference * difference;
    }
    return error;
  };
  float inverse = float(top) / most, best = error_of(inverse, [](int level) { return uint8_t(level); });
  for (int step = -4; step <= 4; step++) {
    if (step == 0) continue;
    const float trial = (0.1f * float(step) + float(top)) / most;
    const float error = error_of(trial, [&](int level) { return std::min(top, level); });
    if (error < best) best = error, inverse = trial;
  }
  float sum_lx = 0, sum_l2 = 0;
  for (int i = 0; i < 8; i++) {
    const int level = std::min(top, nearest(inverse * x[i]));
    levels[i] = uint8_t(level);
    sum_lx += weights[i] * x[i] * float(level);
    sum_l2 += weights[i] * float(level) * float(level);
  }
  for (int round = 0, changed = 1; round < 5 && changed; round++) {  // one level at a time, the others kept
    changed = 0;
    for (int i = 0; i < 8; i++) {
      const float w = weights[i];
      float lx = sum_lx - w * x[i] * levels[i], l2 = sum_l2 - w * levels[i] * levels[i];
      if (!(lx > 0 && l2 > 0)) continue;
      const int level = std::min(top, nearest(x[i] * l2 / lx));
      if (level == levels[i]) continue;
      lx += w * x[i] * float(level);
      l2 += w * float(level) * float(level);
      if (lx * lx * sum_l2 > sum_lx * sum_lx * l2) levels[i] = uint8_t(level), sum_lx = lx, sum_l2 = l2, changed = 1;
    }
  }
  return sum_l2 > 0 ? sum_lx / sum_l2 : 0;
}

// ---- Weighted types of 32 values

template <int kind>
void write_weighted(const float* x, const float* weights, int count, uint8_t* out) {
  constexpr int half = levels_of(kind) / 2, top = levels_of(kind) - 1;
  Fit fits[kPiece / 32];
  if (has_minimum(kind)) fit_affine(x, weights, count / 32, top, {-0.9f, 0.05f, 36}, fits);
  else fit_symmetric<32>(x, weights, count / 32, half, fits);
  for (int b = 0; b < count / 32; b++, x += 32, out += layout_of(kind).bytes) {
    const Fit& fit = fits[b];
    int q[32];
    for (int i = 0; i < 32; i++) {
      if (has_minimum(kind)) q[i] = nearest(fit.inverse * (x[i] - fit.base), 0, top);
      else q[i] = fit.inverse != 0 ? nearest(fit.inverse * x[i], -half, half - 1) + half : 0;
    }
    pack<kind>(fit.scale, fit.minimum, q, out);
  }
}

// ---- Types of 256 values

inline void pack_scales(const uint8_t* d, const uint8_t* m, uint8_t* packed) {
  for (int i = 0; i < 4; i++) {
    packed[i] = uint8_t(d[i] | (d[i + 4] >> 4) << 6);
    packed[i + 4] = uint8_t(m[i] | (m[i + 4] >> 4) << 6);
    packed[i + 8] = uint8_t((d[i + 4] & 15) | (m[i + 4] & 15) << 4);
  }
}

// The 6-bit scales (or minima) of 8 sub-blocks, and what they are multiplied with.
inline float share_positive(const float* values, const float* weights, bool weighted, uint8_t* levels) {
  if (weighted) return fit_positive(values, weights, 63, levels);
  const float most = largest_of_8(values);
  const float inverse = most > 0 ? 63.f / most : 0;
  for (int i = 0; i < 8; i++) levels[i] = std::min(uint8_t(63), uint8_t(nearest(inverse * values[i])));
  return most / 63.f;
}

template <int kind>
void write_super(const float* x, const Fit* fits, bool weighted, uint8_t* block) {
  constexpr int top = kind == Q4_K ? 15 : 31;
  float scales[8], minima[8], sums[8];
  for (int s = 0; s < 8; s++) scales[s] = fits[s].scale, minima[s] = -fits[s].minimum, sums[s] = fits[s].weight;
  uint8_t d[8], m[8], q[kSuper];
  store_half(share_positive(scales, sums, weighted, d), block);
  store_half(share_positive(minima, sums, weighted, m), block + 2);
  pack_scales(d, m, block + kScalesK);
  const float scale = load_half(block), minimum = load_half(block + 2);
  for (int s = 0; s < 8; s++) {
    int d6, m6;
    scale_and_minimum(block + kScalesK, s, &d6, &m6);
    const float own_scale = scale * float(d6), own_minimum = minimum * float(m6);
    const Fit& fit = fits[s];
    for (int i = 32 * s; i < 32 * s + 32; i++) {
      float level = own_scale != 0 ? (x[i] + own_minimum) / own_scale : fit.inverse * (x[i] - fit.base);
      q[i] = uint8_t(nearest(level, 0, top));
    }
  }
  uint8_t* low = block + (kind == Q4_K ? kLowQ4K : kLowQ5K);
  for (int s = 0; s < 8; s += 2)
    for (int i = 0; i < 32; i++) low[16 * s + i] = uint8_t((q[32 * s + i] & 15) | q[32 * s + 32 + i] << 4);
  if (kind == Q4_K) return;
  for (int i = 0; i < 32; i++) {
    int high = 0;
    for (int s = 0; s < 8; s++) high |= q[32 * s + i] >> 4 << s;
    block[kHighQ5K + i] = uint8_t(high);
  }
}

template <int kind>
void write_k(const float* x, const float* weights, int count, uint8_t* out) {
  constexpr int top = kind == Q4_K ? 15 : 31;
  constexpr Search plain = kind == Q4_K ? Search{-1.f, 0.1f, 20} : Search{-0.5f, 0.1f, 15};
  Fit fits[kPiece / 32];
  fit_affine(x, weights, count / 32, top, weights ? Search{-0.9f, 0.05f, 36} : plain, fits);
  for (int b = 0; b < count / kSuper; b++) write_super<kind>(x + kSuper * b, fits + 8 * b, weights, out + layout_of(kind).bytes * b);
}

inline void write_super_q6(const float* x, const Fit* fits, uint8_t* block) {
  float peak = 0;
  for (int s = 0; s < 16; s++)
    if (std::fabs(fits[s].scale) > std::fabs(peak)) peak = fits[s].scale;
  if (std::fabs(peak) < kNothing) {
    std::memset(block, 0, layout_of(Q6_K).bytes);
    return;
  }
  const float inverse = -128.f / peak;
  store_half(1 / inverse, block + kScaleQ6K);
  const float scale = load_half(block + kScaleQ6K);
  uint8_t q[kSuper];
  for (int s = 0; s < 16; s++) {
    const int8_t own = int8_t(std::min(127, nearest(inverse * fits[s].scale)));
    block[kScalesQ6K + s] = uint8_t(own);
    const float d = scale * own, factor = fits[s].inverse;
    for (int i = 16 * s; i < 16 * s + 16; i++)
      q[i] = d != 0 || factor != 0 ? uint8_t(nearest(d != 0 ? x[i] / d : factor * x[i], -32, 31) + 32) : 0;
  }
  for (int half = 0; half < 2; half++) {
    const uint8_t* from = q + 128 * half;
    uint8_t *low = block + 64 * half, *high = block + kHighQ6K + 32 * half;
    for (int i = 0; i < 64; i++) low[i] = uint8_t((from[i] & 15) | from[i + 64] << 4);
    for (int i = 0; i < 32; i++) high[i] = uint8_t(from[i] >> 4 | from[i + 32] >> 4 << 2 | from[i + 64] >> 4 << 4 | from[i + 96] >> 4 << 6);
  }
}

inline void write_q6_k(const float* x, const float* weights, int count, uint8_t* out) {
  Fit fits[kPiece / 16];
  fit_symmetric<16>(x, weights, count / 16, 32, fits);
  for (int b = 0; b < count / kSuper; b++) write_super_q6(x + kSuper * b, fits + 16 * b, out + layout_of(Q6_K).bytes * b);
}

// ---- All types

template <class Write>
inline void write_blocks(const float* x, int count, int bytes, uint8_t* out, Write write) {
  for (int i = 0; i < count; i += 32, out += bytes) write(x + i, out);
}

inline void write_piece(int type, const float* x, const float* weights, int count, uint8_t* out) {
  const int bytes = layout_of(type).bytes;
  switch (type) {
    case F32: std::memcpy(out, x, size_t(count) * 4); return;
    case F16: return write_halves(x, count, out);
    case BF16:
      for (int i = 0; i < count; i++) {
        uint32_t bits = bits_as<uint32_t>(x[i]);
        uint16_t rounded = uint16_t((bits & 0x7fffffff) > 0x7f800000 ? bits >> 16 | 64 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16);
        std::memcpy(out + 2 * i, &rounded, 2);
      }
      return;
    case Q8_0: return write_blocks(x, count, bytes, out, write_q8_0);
    case Q4_0: return weights ? write_weighted<Q4_0>(x, weights, count, out) : write_blocks(x, count, bytes, out, write_nibbles<Q4_0>);
    case Q4_1: return weights ? write_weighted<Q4_1>(x, weights, count, out) : write_blocks(x, count, bytes, out, write_nibbles<Q4_1>);
    case Q5_0: return weights ? write_weighted<Q5_0>(x, weights, count, out) : write_blocks(x, count, bytes, out, write_nibbles<Q5_0>);
    case Q5_1: return weights ? write_weighted<Q5_1>(x, weights, count, out) : write_blocks(x, count, bytes, out, write_nibbles<Q5_1>);
    case Q4_K: return write_k<Q4_K>(x, weights, count, out);
    case Q5_K: return write_k<Q5_K>(x, weights, count, out);
    case Q6_K: return write_q6_k(x, weights, count, out);
  }
}

inline float sum_of_squares(const float* x, size_t count) {
  float sum = 0;
  for (size_t i = 0; i < count; i++) sum += x[i] * x[i];
  return sum;
}

// The weight of a value is its column's, times the root of its square plus the mean square around it: of the row in types
// of 32 values, twice that of the block in Q4_K and Q5_K; in Q6_K the column's alone.
inline void weigh(int type, const float* x, const float* columns, int count, float row_mean, float* weights) {
  const bool by_block = type == Q4_K || type == Q5_K;
  const int step = by_block ? kSuper : count;
  for (int from = 0; from < count; from += step) {
    const float mean = by_block ? 2 * sum_of_squares(x + from, kSuper) / kSuper : row_mean;
    for (int i = from; i < from + step; i++) weights[i] = type == Q6_K ? columns[i] : columns[i] * std::sqrt(mean + x[i] * x[i]);
  }
}

inline void write_values(int type, const float* x, size_t count, const float* columns, uint8_t* out) {
  const Layout layout = layout_of(type);
  const float row_mean = columns && layout.values == 32 ? sum_of_squares(x, count) / float(count) : 0;
  float weights[kPiece];
  for (size_t from = 0; from < count; from += kPiece) {
    const int size = int(std::min(size_t(kPiece), count - from));
    if (columns) weigh(type, x + from, columns + from, size, row_mean, weights);
    write_piece(type, x + from, columns ? weights : nullptr, size, out + from / layout.values * layout.bytes);
  }
}

}  // namespace
}  // namespace openarctic
