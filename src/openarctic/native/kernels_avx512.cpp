// AVX-512 with VNNI: matrix products over many tokens and attention, everything else as in AVX2. One dot-product instruction takes the place
// of a multiply and an add on two vectors of half the width; the integer sums are the same, so the results are too.
#include <immintrin.h>

#include "attend.h"
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

// Codes of columns 4i..4i+3 of both panels, four bytes a row.
template <Form F>
inline __m512i codes(const uint8_t* p0, const uint8_t* p1, int i) {
  constexpr int extra = extra_bits(F);
  const int at = extra * i, left = 4 - at % 8, nibbles_at = kCodes + 32 * (i / 2), bits_at = kCodes + 128 + 32 * (at / 8);
  const __m512i nibbles = both(bytes32(p0 + nibbles_at), bytes32(p1 + nibbles_at));
  const __m512i low = _mm512_and_si512(i % 2 ? _mm512_srli_epi16(nibbles, 4) : nibbles, _mm512_set1_epi8(15));
  if constexpr (extra == 0) return low;
  const __m512i bits = both(bytes32(p0 + bits_at), bytes32(p1 + bits_at));
  const __m512i moved = left >= 0 ? _mm512_slli_epi16(bits, left) : _mm512_srli_epi16(bits, -left);
  return _mm512_or_si512(low, _mm512_and_si512(moved, _mm512_set1_epi8(((1 << extra) - 1) << 4)));
}

// Two int16 a row of both panels: columns 4i, 4i+1 and 4i+2, 4i+3.
template <Form F>
inline void pairs(const uint8_t* p0, const uint8_t* p1, int i, __m512i* first, __m512i* second) {
  if constexpr (F == Form::Q6) {
    const __m512i four = codes<F>(p0, p1, i), zero = _mm512_set1_epi16(32);
    *first = _mm512_sub_epi16(_mm512_and_si512(four, _mm512_set1_epi16(255)), zero);
    *second = _mm512_sub_epi16(_mm512_srli_epi16(four, 8), zero);
  } else {
    const __m256i a = bytes32(p0 + 16 + i * 32), c = bytes32(p1 + 16 + i * 32);
    *first = _mm512_cvtepi8_epi16(_mm256_permute2x128_si256(a, c, 0x20));
    *second = _mm512_cvtepi8_epi16(_mm256_permute2x128_si256(a, c, 0x31));
  }
}

// Of Q8 and Q6: how many parts of a group have scales of their own, and these.
template <Form F>
constexpr int kParts = F == Form::Q6 ? 2 : 1;

template <Form F>
inline __m512 scales(const uint8_t* p0, const uint8_t* p1, int part) {
  if constexpr (F == Form::Q8) return halves(p0, p1);
  const int at = 16 + 8 * part;
  const __m128i own = _mm_unpacklo_epi64(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p0 + at)), _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p1 + at)));
  return _mm512_mul_ps(halves(p0, p1), _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(own)));
}

// Column c of two panels of floats.
template <Form F>
inline __m512 column(const uint8_t* p0, const uint8_t* p1, int c) {
  if constexpr (F == Form::F32) return _mm512_castsi512_ps(both(bytes32(p0 + c * 32), bytes32(p1 + c * 32)));
  if constexpr (F == Form::F16) return halves(p0 + c * 16, p1 + c * 16);
  const __m128i a = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p0 + c * 16)), b = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p1 + c * 16));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_inserti128_si256(_mm256_castsi128_si256(a), b, 1)), 16));
}

template <int Parts, int T>
inline void tile_int16(const __m512i* b, const int16_t* x, const float* s, float* out, const __m512* w) {
#pragma GCC unroll 2
  for (int part = 0; part < Parts; part++) {
    __m512i acc[T];
    for (int t = 0; t < T; t++) acc[t] = _mm512_setzero_si512();
#pragma GCC unroll 16
    for (int i = 0; i < 16 / Parts; i++) {
      const int k = part * 8 + i;
#pragma GCC unroll 8
      for (int t = 0; t < T; t++) acc[t] = _mm512_dpwssd_epi32(acc[t], b[k], broadcast4(x + t * kGroup + 2 * k));
    }
    for (int t = 0; t < T; t++) _mm512_store_ps(out + t * 16, scaled(acc[t], w[part], s[t], _mm512_load_ps(out + t * 16)));
  }
}

template <int T>
inline void tile_int8(const __m512i* b, const int8_t* x, const float* s, const float* z, float* out, __m512 w, __m512 minimum) {
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

template <int T>
inline void tile_floats(const __m512* b, int columns, const float* x, float* out) {
  __m512 acc[T];
  for (int t = 0; t < T; t++) acc[t] = _mm512_load_ps(out + t * 16);
  for (int k = 0; k < columns; k++)
#pragma GCC unroll 8
    for (int t = 0; t < T; t++) acc[t] = _mm512_fmadd_ps(b[k], _mm512_set1_ps(x[t * kGroup + k]), acc[t]);
  for (int t = 0; t < T; t++) _mm512_store_ps(out + t * 16, acc[t]);
}

template <Form F>
void group_int16(const uint8_t* p0, const uint8_t* p1, const Tile& tile, size_t at, int count, float* out) {
  __m512i b[16];
#pragma GCC unroll 8
  for (int i = 0; i < 8; i++) pairs<F>(p0, p1, i, b + 2 * i, b + 2 * i + 1);
  __m512 w[kParts<F>];
  for (int part = 0; part < kParts<F>; part++) w[part] = scales<F>(p0, p1, part);
  const int16_t* x = tile.at<int16_t>(at);
  const float* s = tile.scale.data() + at;
  over_tokens<kTokens>(count, [&](int t) { tile_int16<kParts<F>, kTokens>(b, x + t * kGroup, s + t, out + t * 16, w); },
                       [&](int t) { tile_int16<kParts<F>, 1>(b, x + t * kGroup, s + t, out + t * 16, w); });
}

template <Form F>
void group_int8(const uint8_t* p0, const uint8_t* p1, const Tile& tile, size_t at, int count, float* out) {
  __m512i b[8];
#pragma GCC unroll 8
  for (int i = 0; i < 8; i++) b[i] = codes<F>(p0, p1, i);
  const __m512 w = halves(p0, p1), minimum = halves(p0 + 16, p1 + 16);
  const int8_t* x = tile.at<int8_t>(at);
  const float *s = tile.scale.data() + at, *z = tile.sum.data() + at;
  over_tokens<kTokens>(count, [&](int t) { tile_int8<kTokens>(b, x + t * kGroup, s + t, z + t, out + t * 16, w, minimum); },
                       [&](int t) { tile_int8<1>(b, x + t * kGroup, s + t, z + t, out + t * 16, w, minimum); });
}

template <Form F>
void group_floats(const uint8_t* p0, const uint8_t* p1, const Tile& tile, size_t at, int count, float* out) {
  __m512 b[kGroup];
  for (int k = 0; k < tile.columns; k++) b[k] = column<F>(p0, p1, k);
  const float* x = tile.at<float>(at);
  over_tokens<kTokens>(count, [&](int t) { tile_floats<kTokens>(b, tile.columns, x + t * kGroup, out + t * 16); },
                       [&](int t) { tile_floats<1>(b, tile.columns, x + t * kGroup, out + t * 16); });
}

// ---- few tokens: weights are read once and used at once, sums stay in registers

// Adds group g of two panels, whose blocks are p0 and p1, to acc[token].
template <Form F, int T>
inline void direct_int16(const uint8_t* p0, const uint8_t* p1, int g, const Row* x, __m512* acc) {
#pragma GCC unroll 2
  for (int part = 0; part < kParts<F>; part++) {
    __m512i sum[T];
    for (int t = 0; t < T; t++) sum[t] = _mm512_setzero_si512();
#pragma GCC unroll 8
    for (int k = 0; k < 8 / kParts<F>; k++) {
      const int i = part * (8 / kParts<F>) + k;
      __m512i first, second;
      pairs<F>(p0, p1, i, &first, &second);
#pragma GCC unroll 8
      for (int t = 0; t < T; t++) {
        const int16_t* q = x[t].q16 + g * kGroup + 4 * i;
        sum[t] = _mm512_dpwssd_epi32(_mm512_dpwssd_epi32(sum[t], first, broadcast4(q)), second, broadcast4(q + 2));
      }
    }
    const __m512 w = scales<F>(p0, p1, part);
    for (int t = 0; t < T; t++) acc[t] = scaled(sum[t], w, x[t].scale16[g], acc[t]);
  }
}

template <Form F, int T>
inline void direct_int8(const uint8_t* p0, const uint8_t* p1, int g, const Row* x, __m512* acc) {
  __m512i sum[T];
  for (int t = 0; t < T; t++) sum[t] = _mm512_setzero_si512();
#pragma GCC unroll 8
  for (int i = 0; i < 8; i++) {
    const __m512i four = codes<F>(p0, p1, i);
#pragma GCC unroll 8
    for (int t = 0; t < T; t++) sum[t] = _mm512_dpbusd_epi32(sum[t], four, broadcast4(x[t].q8 + g * kGroup + 4 * i));
  }
  const __m512 w = halves(p0, p1), minimum = halves(p0 + 16, p1 + 16);
  for (int t = 0; t < T; t++) acc[t] = _mm512_fmadd_ps(minimum, _mm512_set1_ps(x[t].sum8[g]), scaled(sum[t], w, x[t].scale8[g], acc[t]));
}

// `Pairs` pairs of panels from p on advance together: more streams wait for memory at once.
template <Form F, int T, int Pairs>
inline void direct_panels(const Matrix& w, int p, const Row* x, float* const* out) {
  const uint8_t* panel = w.data + size_t(p) * w.panel_bytes;
  __m512 acc[Pairs][T];
  for (int i = 0; i < Pairs; i++)
    for (int t = 0; t < T; t++) acc[i][t] = _mm512_setzero_ps();
  for (int g = 0; g < w.cols / kGroup; g++)
#pragma GCC unroll 2
    for (int i = 0; i < Pairs; i++) {
      const uint8_t *p0 = panel + 2 * i * w.panel_bytes + g * block_bytes(F), *p1 = p0 + w.panel_bytes;
      fetch(p0 + 2 * Pairs * w.panel_bytes, block_bytes(F));
      fetch(p1 + 2 * Pairs * w.panel_bytes, block_bytes(F));
      if constexpr (reads_of(F) == Reads::Int16) direct_int16<F, T>(p0, p1, g, x, acc[i]);
      else direct_int8<F, T>(p0, p1, g, x, acc[i]);
    }
  for (int i = 0; i < Pairs; i++)
    for (int t = 0; t < T; t++) _mm512_storeu_ps(out[t] + (p + 2 * i) * 8, acc[i][t]);
}

template <Form F, int T>
void direct(const Matrix& w, int p0, int p1, const Row* x, float* const* out) {
  constexpr int kPairs = T <= 4 ? 2 : 1;
  for (; p0 + 2 * kPairs <= p1; p0 += 2 * kPairs) direct_panels<F, T, kPairs>(w, p0, x, out);
  for (; p0 + 2 <= p1; p0 += 2) direct_panels<F, T, 1>(w, p0, x, out);
  for (int t = 0; t < T && p0 < p1; t++) avx2_kernels().matmul(w, p0, p1, x + t, out + t, 1);
}

template <Form F>
void few(const Matrix& w, int p0, int p1, const Row* x, float* const* out, int count) {
  switch (count) {
    case 2: return direct<F, 2>(w, p0, p1, x, out);
    case 3: return direct<F, 3>(w, p0, p1, x, out);
    case 4: return direct<F, 4>(w, p0, p1, x, out);
    case 5: return direct<F, 5>(w, p0, p1, x, out);
    case 6: return direct<F, 6>(w, p0, p1, x, out);
    case 7: return direct<F, 7>(w, p0, p1, x, out);
    case 8: return direct<F, 8>(w, p0, p1, x, out);
  }
}

// Up to twice as many in two halves: the second finds a pair of panels in the cache.
template <Form F>
void in_halves(const Matrix& w, int p0, int p1, const Row* x, float* const* out, int count) {
  if (count <= kTokens) return few<F>(w, p0, p1, x, out, count);
  const int first = (count + 1) / 2;
  for (int p = p0; p < p1; p += 2) {
    few<F>(w, p, std::min(p + 2, p1), x, out, first);
    few<F>(w, p, std::min(p + 2, p1), x + first, out + first, count - first);
  }
}

GroupStep step_of(Form form) {
  switch (form) {
    case Form::F32: return group_floats<Form::F32>;
    case Form::F16: return group_floats<Form::F16>;
    case Form::BF16: return group_floats<Form::BF16>;
    case Form::Q8: return group_int16<Form::Q8>;
    case Form::Q4: return group_int8<Form::Q4>;
    case Form::Q5: return group_int8<Form::Q5>;
    case Form::Q6: return group_int16<Form::Q6>;
  }
  return nullptr;
}

void matmul(const Matrix& w, int p0, int p1, const Row* x, float* const* out, int count) {
  if (count > 1 && count <= 2 * kTokens) switch (w.form) {
      case Form::Q8: return in_halves<Form::Q8>(w, p0, p1, x, out, count);
      case Form::Q4: return in_halves<Form::Q4>(w, p0, p1, x, out, count);
      case Form::Q5: return in_halves<Form::Q5>(w, p0, p1, x, out, count);
      case Form::Q6: return in_halves<Form::Q6>(w, p0, p1, x, out, count);
      default: break;
    }
  if (count > 4) return tiled(w, p0, p1, x, out, count, step_of(w.form));
  avx2_kernels().matmul(w, p0, p1, x, out, count);
}

inline __m512 load16(const float* p) { return _mm512_loadu_ps(p); }
inline __m512 load16(const uint16_t* p) { return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }

// As in AVX2, with twice the keys, or numbers, in a vector: each number's sums keep their order, so the bits are the same.
template <class T, int R>
void attend_rows(const T* k, const T* v, int valid, int dim, const float* const* q, float* const* states) {
  alignas(64) float score[R][kPage];
  __m512 a[R], b[R];
  for (int r = 0; r < R; r++) a[r] = b[r] = _mm512_setzero_ps();
  for (int d = 0; d < dim; d++) {
    const __m512 first = load16(k + d * kPage), second = load16(k + d * kPage + 16);
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
      const __m512 x = _mm512_set1_ps(q[r][d]);
      a[r] = _mm512_fmadd_ps(first, x, a[r]);
      b[r] = _mm512_fmadd_ps(second, x, b[r]);
    }
  }
  for (int r = 0; r < R; r++) {
    _mm512_store_ps(score[r], a[r]);
    _mm512_store_ps(score[r] + 16, b[r]);
    soften(score[r], valid, dim, states[r]);
  }
  for (int d = 0; d < dim; d += 32) {
    for (int r = 0; r < R; r++) {
      a[r] = _mm512_loadu_ps(states[r] + d);
      b[r] = _mm512_loadu_ps(states[r] + d + 16);
    }
    for (int j = 0; j < valid; j++) {
      const __m512 first = load16(v + j * dim + d), second = load16(v + j * dim + d + 16);
#pragma GCC unroll 8
      for (int r = 0; r < R; r++) {
        const __m512 weight = _mm512_set1_ps(score[r][j]);
        a[r] = _mm512_fmadd_ps(first, weight, a[r]);
        b[r] = _mm512_fmadd_ps(second, weight, b[r]);
      }
    }
    for (int r = 0; r < R; r++) {
      _mm512_storeu_ps(states[r] + d, a[r]);
      _mm512_storeu_ps(states[r] + d + 16, b[r]);
    }
  }
}

template <class T>
void attend_all(const T* k, const T* v, int valid, int dim, const float* const* q, float* const* states, int rows) {
  for (; rows >= 8; rows -= 8, q += 8, states += 8) attend_rows<T, 8>(k, v, valid, dim, q, states);
  for (; rows >= 4; rows -= 4, q += 4, states += 4) attend_rows<T, 4>(k, v, valid, dim, q, states);
  if (rows == 3) attend_rows<T, 3>(k, v, valid, dim, q, states);
  if (rows == 2) attend_rows<T, 2>(k, v, valid, dim, q, states);
  if (rows == 1) attend_rows<T, 1>(k, v, valid, dim, q, states);
}

void attend(Cache cache, const uint8_t* keys, const uint8_t* values, int valid, int dim, const float* const* q, float* const* states, int rows) {
  if (dim % 32) return avx2_kernels().attend(cache, keys, values, valid, dim, q, states, rows);  // would read beyond the page
  if (cache == Cache::F32) return attend_all(reinterpret_cast<const float*>(keys), reinterpret_cast<const float*>(values), valid, dim, q, states, rows);
  if (cache == Cache::F16 && rows <= 32) return attend_all(reinterpret_cast<const uint16_t*>(keys), reinterpret_cast<const uint16_t*>(values), valid, dim, q, states, rows);
  attend_unpacked(cache, keys, values, valid, dim, [&](const float* k, const float* v) { attend_all(k, v, valid, dim, q, states, rows); });
}

}  // namespace

const Kernels& avx512_kernels() {
  static const Kernels table = [] {
    Kernels own = avx2_kernels();
    own.name = "avx512";
    own.matmul = matmul;
    own.attend = attend;
    return own;
  }();
  return table;
}

}  // namespace openarctic
