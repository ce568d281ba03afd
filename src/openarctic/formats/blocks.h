// The number types of GGUF tensors: how their blocks lie in memory, and how their values are read.
//
// Types of 32 values: f16 scale, where the name ends in _1 an f16 minimum, for 5 bits 4 bytes of fifth bits, then 16 bytes
// of nibbles (low ones: values 0..15) or, for Q8_0, 32 int8. Types of 256 values ("K") have 8 sub-blocks of 32 with 6-bit
// scales and minima under one f16 scale and one f16 minimum; Q6_K has 16 sub-blocks of 16 with int8 scales.
// Everything has internal linkage: each file that includes this compiles it for its own processor.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__F16C__)
#include <immintrin.h>
#endif

namespace openarctic {

// Their numbers in GGUF files.
enum Type : int { F32 = 0, F16 = 1, Q4_0 = 2, Q4_1 = 3, Q5_0 = 6, Q5_1 = 7, Q8_0 = 8, Q4_K = 12, Q5_K = 13, Q6_K = 14, BF16 = 30 };

struct Layout {
  int values, bytes;  // of a block
};

// Where the parts of a Q4_K, Q5_K or Q6_K block begin.
constexpr int kSuper = 256;
constexpr int kScalesK = 4, kHighQ5K = 16, kLowQ4K = 16, kLowQ5K = 48;
constexpr int kHighQ6K = 128, kScalesQ6K = 192, kScaleQ6K = 208;

namespace {

// Zeros for a type that is not here.
constexpr Layout layout_of(int type) {
  switch (type) {
    case F32: return {1, 4};
    case F16: case BF16: return {1, 2};
    case Q4_0: return {32, 18};
    case Q4_1: return {32, 20};
    case Q5_0: return {32, 22};
    case Q5_1: return {32, 24};
    case Q8_0: return {32, 34};
    case Q4_K: return {kSuper, 144};
    case Q5_K: return {kSuper, 176};
    case Q6_K: return {kSuper, 210};
  }
  return {0, 0};
}

template <class To, class From>
inline To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From), "");
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

template <class T>
inline T load(const uint8_t* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

// Without branches, so that loops over it become vectors.
inline float from_half(uint16_t h) {
  uint32_t exponent = h & 0x7c00u, bits = (h & 0x7fffu) << 13;
  float normal = bits_as<float>(bits + (112u << 23) + (exponent == 0x7c00 ? 112u << 23 : 0));
  float subnormal = bits_as<float>(bits + (113u << 23)) - bits_as<float>(113u << 23);
  return bits_as<float>(bits_as<uint32_t>(exponent ? normal : subnormal) | uint32_t(h & 0x8000) << 16);
}

inline float from_bfloat(uint16_t b) { return bits_as<float>(uint32_t(b) << 16); }
inline float load_half(const uint8_t* from) { return from_half(load<uint16_t>(from)); }

inline void read_halves(const uint8_t* from, size_t count, float* out) {
  size_t i = 0;
#if defined(__F16C__)
  for (; i + 8 <= count; i += 8) _mm256_storeu_ps(out + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + 2 * i))));
#endif
  for (; i < count; i++) out[i] = from_half(load<uint16_t>(from + 2 * i));
}

// One of the 8 pairs of 6-bit scale and minimum that share 12 bytes: the first four have their low 6 bits in bytes 0..7,
// the last four their low nibbles in bytes 8..11 and their top bits above the first four.
inline void scale_and_minimum(const uint8_t* packed, int i, int* scale, int* minimum) {
  if (i < 4) {
    *scale = packed[i] & 63;
    *minimum = packed[i + 4] & 63;
  } else {
    *scale = (packed[i + 4] & 15) | (packed[i - 4] >> 6) << 4;
    *minimum = (packed[i + 4] >> 4) | (packed[i] >> 6) << 4;
  }
}

// Blocks of 32 with nibbles: value = scale * (q - offset) + minimum.
template <int kind>
inline void read_nibbles(const uint8_t* block, float* out) {
  constexpr bool has_minimum = kind == Q4_1 || kind == Q5_1, has_fifth = kind == Q5_0 || kind == Q5_1;
  constexpr int offset = has_minimum ? 0 : has_fifth ? 16 : 8, head = 2 + 2 * has_minimum;
  const float scale = load_half(block), minimum = has_minimum ? load_half(block + 2) : 0;
  const uint8_t* nibbles = block + head + 4 * has_fifth;
  const uint32_t fifth = has_fifth ? load<uint32_t>(block + head) : 0;
  for (int high = 0; high < 2; high++)
    for (int i = 0; i < 16; i++) {
      const int at = 16 * high + i, q = nibbles[i] >> (4 * high) & 15;
      const float value = scale * float((q | int(fifth >> at & 1) << 4) - offset);
      out[at] = has_minimum ? value + minimum : value;
    }
}

inline void read_q8_0(const uint8_t* block, float* out) {
  const float scale = load_half(block);
  for (int i = 0; i < 32; i++) out[i] = scale * float(int8_t(block[2 + i]));
}

// Q4_K and Q5_K: 64 values share 32 bytes, low nibbles first; bit s of byte i of `high` is the fifth bit of value i of
// sub-block s.
inline void read_k(const uint8_t* block, const uint8_t* low, const uint8_t* high, float* out) {
  const float scale = load_half(block), minimum = load_half(block + 2);
  for (int s = 0; s < 8; s++) {
    int d, m;
    scale_and_minimum(block + kScalesK, s, &d, &m);
    const float own_scale = scale * float(d), own_minimum = minimum * float(m);
    const uint8_t* nibbles = low + 32 * (s / 2);
    for (int i = 0; i < 32; i++) {
      int q = s % 2 ? nibbles[i] >> 4 : nibbles[i] & 15;
      if (high) q += (high[i] >> s & 1) << 4;
      out[32 * s + i] = own_scale * float(q) - own_minimum;
    }
  }
}

// Q6_K: of each 128 values, value 32 * s + i has its low nibble in byte 32 * (s % 2) + i (high nibble for s >= 2) and its
// two top bits at 2 * s of byte i.
inline void read_q6_k(const uint8_t* block, float* out) {
  const float scale = load_half(block + kScaleQ6K);
  const uint8_t* scales = block + kScalesQ6K;
  for (int half = 0; half < 2; half++, block += 64)
    for (int s = 0; s < 4; s++)
      for (int part = 0; part < 2; part++) {
        const uint8_t *low = block + 32 * (s % 2) + 16 * part, *high = block + kHighQ6K - 32 * half + 16 * part;
        const float own = scale * float(int8_t(*scales++));
        for (int i = 0; i < 16; i++) *out++ = own * float(((low[i] >> 4 * (s / 2) & 15) | (high[i] >> 2 * s & 3) << 4) - 32);
      }
}

template <int values, int bytes, class Read>
inline void read_blocks(const uint8_t* from, size_t count, float* out, Read read) {
  for (; count; count -= values, from += bytes, out += values) read(from, out);
}

// `count` values, a whole number of blocks, as floats.
inline void read_values(int type, const uint8_t* from, size_t count, float* out) {
  switch (type) {
    case F32: std::memcpy(out, from, 4 * count); return;
    case F16: return read_halves(from, count, out);
    case BF16:
      for (size_t i = 0; i < count; i++) out[i] = from_bfloat(load<uint16_t>(from + 2 * i));
      return;
    case Q4_0: return read_blocks<32, 18>(from, count, out, read_nibbles<Q4_0>);
    case Q4_1: return read_blocks<32, 20>(from, count, out, read_nibbles<Q4_1>);
    case Q5_0: return read_blocks<32, 22>(from, count, out, read_nibbles<Q5_0>);
    case Q5_1: return read_blocks<32, 24>(from, count, out, read_nibbles<Q5_1>);
    case Q8_0: return read_blocks<32, 34>(from, count, out, read_q8_0);
    case Q4_K: return read_blocks<kSuper, 144>(from, count, out, [](const uint8_t* b, float* o) { read_k(b, b + kLowQ4K, nullptr, o); });
    case Q5_K: return read_blocks<kSuper, 176>(from, count, out, [](const uint8_t* b, float* o) { read_k(b, b + kLowQ5K, b + kHighQ5K, o); });
    case Q6_K: return read_blocks<kSuper, 210>(from, count, out, read_q6_k);
  }
}

}  // namespace
}  // namespace openarctic
