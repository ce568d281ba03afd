// AVX-512 with VNNI: matrix products over many tokens, everything else as in AVX2. One dot-product instruction takes the place
// of a multiply and an add on two vectors of half the width; the integer sums are the same, so the results are too.
#include <immintrin.h>

#include "kernels.h"
#include "tile.h"

namespace openarctic {
namespace {

constexpr int kTokens = 8;  // accumulators beside the 16 vectors of weights, of 32 registers

inline __m512i both(__m256i a, __m256i b) { return _mm512_inserti64x4(_mm512_castsi256_si512(a), b, 1); }
inline __m256i bytes32(const uint8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
inline __m512i broadcast4(const void* p) {
  int32_t v;
  std::memcpy(&v, p, 4);
  return _mm512_set1_epi32(v);
}
// f16 numbers of both panels' rows
inline __m512 halves(const uint8_t* p0, const uint8_t* p1) {
  __m128i a = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p0)), b = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p1));
  return _mm512_cvtph_ps(_mm256_inserti128_si256(_mm256_castsi128_si256(a), b, 1));
}

inline __m512 scaled(__m512i sum, __m512 w, float s, __m512 onto) {
  return _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), _mm512_mul_ps(w, _mm512_set1_ps(s)), onto);
}

template <int T>
inline void tile_q8(const __m512i* b, const int16_t* x, const float* s, float* out, __m512 w) {
  __m512i acc[T];
  for (int t = 0; t < T; t++) acc[t] = _mm512_setzero_si512();
#pragma GCC unroll 16
  for (int k = 0; k < 16; k++) {
#pragma GCC unroll 8
    for (int t = 0; t < T; t++) acc[t] = _mm512_dpwssd_epi32(acc[t], b[k], broadcast4(x + t * kGroup + 2 * k));
  }
  for (int t = 0; t < T; t++) _mm512_store_ps(out + t * 16, scaled(acc[t], w, s[t], _mm512_load_ps(out + t * 16)));
}

template <int T>
inline void tile_q4(const __m512i* b, const int8_t* x, const float* s, const float* z, float* out, __m512 w, __m512 minimum) {
  __m512i acc[T];
  for (int t = 0; t < T; t++) acc[t] = _mm512_setzero_si512();
#pragma GCC unroll 8
  for (int k = 0; k < 8; k++) {
#pragma GCC unroll 8
    for (int t = 0; t < T; t++) acc[t] = _mm512_dpbusd_epi32(acc[t], b[k], broadcast4(x + t * kGroup + 4 * k));
  }
  for (int t = 0; t < T; t++) {
    __m512 sum = scaled(acc[t], w, s[t], _mm512_load_ps(out + t * 16));
    _mm512_store_ps(out + t * 16, _mm512_fmadd_ps(minimum, _mm512_set1_ps(z[t]), sum));
  }
}

void group_q8(const uint8_t* p0, const uint8_t* p1, const Tile& tile, size_t at, int count, float* out) {
  __m512i b[16];
  for (int k = 0; k < 16; k += 2) {
    __m256i a = bytes32(p0 + 16 + k * 16), c = bytes32(p1 + 16 + k * 16);
    b[k] = _mm512_cvtepi8_epi16(_mm256_permute2x128_si256(a, c, 0x20));
    b[k + 1] = _mm512_cvtepi8_epi16(_mm256_permute2x128_si256(a, c, 0x31));
  }
  const __m512 w = halves(p0, p1);
  const int16_t* x = tile.q.data() + at * kGroup;
  const float* s = tile.scale.data() + at;
  over_tokens<kTokens>(count, [&](int t) { tile_q8<kTokens>(b, x + t * kGroup, s + t, out + t * 16, w); },
                       [&](int t) { tile_q8<1>(b, x + t * kGroup, s + t, out + t * 16, w); });
}

void group_q4(const uint8_t* p0, const uint8_t* p1, const Tile& tile, size_t at, int count, float* out) {
  const __m512i mask = _mm512_set1_epi8(15);
  __m512i b[8];
  for (int j = 0; j < 4; j++) {
    __m512i v = both(bytes32(p0 + 32 + j * 32), bytes32(p1 + 32 + j * 32));
    b[2 * j] = _mm512_and_si512(v, mask);
    b[2 * j + 1] = _mm512_and_si512(_mm512_srli_epi16(v, 4), mask);
  }
  const __m512 w = halves(p0, p1), minimum = halves(p0 + 16, p1 + 16);
  const int8_t* x = reinterpret_cast<const int8_t*>(tile.q.data()) + at * kGroup;
  const float *s = tile.scale.data() + at, *z = tile.sum.data() + at;
  over_tokens<kTokens>(count, [&](int t) { tile_q4<kTokens>(b, x + t * kGroup, s + t, z + t, out + t * 16, w, minimum); },
                       [&](int t) { tile_q4<1>(b, x + t * kGroup, s + t, z + t, out + t * 16, w, minimum); });
}

void matmul(const Matrix& w, int p0, int p1, const Row* x, float* const* out, int count) {
  if (count > 4 && w.form != Form::F32) return tiled(w, p0, p1, x, out, count, group_q8, group_q4);
  avx2_kernels().matmul(w, p0, p1, x, out, count);
}

}  // namespace

const Kernels& avx512_kernels() {
  static const Kernels table = [] {
    Kernels own = avx2_kernels();
    own.name = "avx512";
    own.matmul = matmul;
    return own;
  }();
  return table;
}

}  // namespace openarctic
