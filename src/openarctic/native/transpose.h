// Numbers of 8 rows, side by side: what lies in 8 places comes to lie in one.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>
#if defined(__SSE2__)
#include <emmintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace openarctic {
namespace {

// out[8c + r] = number c of rows[r], for c < count: numbers of `size` bytes, read at byte `at`.
template <int size>
inline void transpose_plain(const uint8_t* const* rows, size_t at, int count, uint8_t* out) {
  for (int c = 0; c < count; c++)
    for (int r = 0; r < 8; r++) std::memcpy(out + (c * 8 + r) * size, rows[r] + at + c * size, size);
}

// 8 numbers of 2 bytes a row.
inline void transpose_8_halves(const uint8_t* const* rows, size_t at, uint8_t* out) {
#if defined(__SSE2__)
  __m128i x[8], y[8];
  for (int r = 0; r < 8; r++) x[r] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(rows[r] + at));
  for (int i = 0; i < 4; i++) {  // rows 2i and 2i + 1
    y[2 * i] = _mm_unpacklo_epi16(x[2 * i], x[2 * i + 1]);
    y[2 * i + 1] = _mm_unpackhi_epi16(x[2 * i], x[2 * i + 1]);
  }
  for (int i = 0; i < 2; i++)  // rows 4i..4i + 3; x[4i + j] holds numbers 2j and 2j + 1
    for (int half = 0; half < 2; half++) {
      x[4 * i + 2 * half] = _mm_unpacklo_epi32(y[4 * i + half], y[4 * i + 2 + half]);
      x[4 * i + 2 * half + 1] = _mm_unpackhi_epi32(y[4 * i + half], y[4 * i + 2 + half]);
    }
  for (int j = 0; j < 4; j++) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + 32 * j), _mm_unpacklo_epi64(x[j], x[4 + j]));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + 32 * j + 16), _mm_unpackhi_epi64(x[j], x[4 + j]));
  }
#elif defined(__aarch64__)
  uint16x8_t x[8], y[8];
  for (int r = 0; r < 8; r++) x[r] = vreinterpretq_u16_u8(vld1q_u8(rows[r] + at));
  for (int i = 0; i < 4; i++) {
    y[2 * i] = vzip1q_u16(x[2 * i], x[2 * i + 1]);
    y[2 * i + 1] = vzip2q_u16(x[2 * i], x[2 * i + 1]);
  }
  for (int i = 0; i < 2; i++)
    for (int half = 0; half < 2; half++) {
      const uint32x4_t a = vreinterpretq_u32_u16(y[4 * i + half]), b = vreinterpretq_u32_u16(y[4 * i + 2 + half]);
      x[4 * i + 2 * half] = vreinterpretq_u16_u32(vzip1q_u32(a, b));
      x[4 * i + 2 * half + 1] = vreinterpretq_u16_u32(vzip2q_u32(a, b));
    }
  for (int j = 0; j < 4; j++) {
    const uint64x2_t a = vreinterpretq_u64_u16(x[j]), b = vreinterpretq_u64_u16(x[4 + j]);
    vst1q_u8(out + 32 * j, vreinterpretq_u8_u64(vzip1q_u64(a, b)));
    vst1q_u8(out + 32 * j + 16, vreinterpretq_u8_u64(vzip2q_u64(a, b)));
  }
#else
  transpose_plain<2>(rows, at, 8, out);
#endif
}

// 4 numbers of 4 bytes a row.
inline void transpose_4_words(const uint8_t* const* rows, size_t at, uint8_t* out) {
#if defined(__SSE2__)
  for (int i = 0; i < 2; i++) {
    __m128i x[4];
    for (int r = 0; r < 4; r++) x[r] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(rows[4 * i + r] + at));
    const __m128i a = _mm_unpacklo_epi32(x[0], x[1]), b = _mm_unpacklo_epi32(x[2], x[3]), c = _mm_unpackhi_epi32(x[0], x[1]), d = _mm_unpackhi_epi32(x[2], x[3]);
    uint8_t* to = out + 16 * i;
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm_unpacklo_epi64(a, b));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + 32), _mm_unpackhi_epi64(a, b));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + 64), _mm_unpacklo_epi64(c, d));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + 96), _mm_unpackhi_epi64(c, d));
  }
#else
  transpose_plain<4>(rows, at, 4, out);
#endif
}

}  // namespace
}  // namespace openarctic
