// Attention over pages, what AVX2 and AVX-512 share: softmax that runs over pages, and pages as floats.
// Everything here has internal linkage: each file that includes it compiles it for its own processor.
#pragma once
#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "kernels.h"

namespace openarctic {
namespace {

inline float hmax(__m256 v) {
  __m128 a = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  a = _mm_max_ps(a, _mm_movehl_ps(a, a));
  return _mm_cvtss_f32(_mm_max_ss(a, _mm_movehdup_ps(a)));
}

inline float hsum(__m256 v) {
  __m128 a = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  a = _mm_add_ps(a, _mm_movehl_ps(a, a));
  return _mm_cvtss_f32(_mm_add_ss(a, _mm_movehdup_ps(a)));
}

inline __m256 halves(const uint8_t* p) { return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }

inline __m256 exp8(__m256 x) {  // Cephes polynomial, about 1 ulp
  x = _mm256_max_ps(_mm256_min_ps(x, _mm256_set1_ps(88.f)), _mm256_set1_ps(-87.f));
  __m256 n = _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(1.44269504f)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0.693359375f), x);
  r = _mm256_fnmadd_ps(n, _mm256_set1_ps(-2.12194440e-4f), r);
  __m256 p = _mm256_set1_ps(1.9875691500e-4f);
  for (float c : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 0.5f}) p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(c));
  p = _mm256_fmadd_ps(_mm256_mul_ps(p, r), r, _mm256_add_ps(r, _mm256_set1_ps(1.f)));
  return _mm256_mul_ps(p, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23)));
}

inline __m256 load8(const float* p) { return _mm256_loadu_ps(p); }
inline __m256 load8(const uint16_t* p) { return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }

// Scores become weights; the state is brought to the largest score so far.
inline void soften(float* score, int valid, int dim, float* state) {
  float &top = state[dim], &sum = state[dim + 1];
  const __m256 none = _mm256_set1_ps(-INFINITY);
  __m256 s[4], here[4], highest = none;
  for (int i = 0; i < 4; i++) {
    const __m256i lane = _mm256_add_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32(8 * i));
    here[i] = _mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_set1_epi32(valid), lane));
    s[i] = _mm256_blendv_ps(none, _mm256_load_ps(score + 8 * i), here[i]);
    highest = _mm256_max_ps(highest, s[i]);
  }
  const float now = std::max(top, hmax(highest));
  if (now > top) {
    const float kept = std::exp(top - now);
    const __m256 factor = _mm256_set1_ps(kept);
    for (int d = 0; d < dim; d += 8) _mm256_storeu_ps(state + d, _mm256_mul_ps(_mm256_loadu_ps(state + d), factor));
    sum *= kept;
    top = now;
  }
  __m256 total = _mm256_setzero_ps();
  for (int i = 0; i < 4; i++) {
    const __m256 weight = _mm256_and_ps(exp8(_mm256_sub_ps(s[i], _mm256_set1_ps(top))), here[i]);
    _mm256_store_ps(score + 8 * i, weight);
    total = _mm256_add_ps(total, weight);
  }
  sum += hsum(total);
}

inline void widen(const uint16_t* from, size_t count, float* to) {
  for (size_t i = 0; i < count; i += 8) _mm256_storeu_ps(to + i, load8(from + i));
}

inline float half(const uint8_t* p) {
  uint16_t bits;
  std::memcpy(&bits, p, 2);
  return _cvtsh_ss(bits);
}

inline __m256 codes8(const uint8_t* p) { return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)))); }

// Keys and values of a Q8 page as floats.
void unpack_cache(const uint8_t* keys, const uint8_t* values, int dim, float* k, float* v) {
  const size_t numbers = size_t(kPage) * dim;
  for (int d = 0; d < dim; d++)
    for (int j = 0; j < kPage; j += 8) {
      const __m256 scale = halves(keys + numbers + 2 * ((d / kGroup) * kPage + j));
      _mm256_storeu_ps(k + d * kPage + j, _mm256_mul_ps(codes8(keys + d * kPage + j), scale));
    }
  for (int j = 0; j < kPage; j++)
    for (int d = 0; d < dim; d += 8) {
      const __m256 scale = _mm256_set1_ps(half(values + numbers + 2 * (j * (dim / kGroup) + d / kGroup)));
      _mm256_storeu_ps(v + j * dim + d, _mm256_mul_ps(codes8(values + j * dim + d), scale));
    }
}

// Many rows, and codes, are worth a page of floats first.
template <class Attend>
void attend_unpacked(Cache cache, const uint8_t* keys, const uint8_t* values, int valid, int dim, Attend attend) {
  static thread_local std::vector<float> page;
  const size_t numbers = size_t(kPage) * dim;
  page.resize(2 * numbers);
  float *k = page.data(), *v = k + numbers;
  if (cache == Cache::Q8) {
    unpack_cache(keys, values, dim, k, v);
  } else {
    widen(reinterpret_cast<const uint16_t*>(keys), numbers, k);
    widen(reinterpret_cast<const uint16_t*>(values), size_t(valid) * dim, v);
  }
  attend(k, v);
}

}  // namespace
}  // namespace openarctic
