// The reference in plain C++: every other table of kernels must agree with this one.
#include "kernels.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "../formats/blocks.h"

namespace openarctic {

float half_to_float(uint16_t h) {
  uint32_t sign = uint32_t(h & 0x8000) << 16, exponent = (h >> 10) & 31, mantissa = h & 0x3ff, bits;
  if (exponent == 31) {
    bits = sign | 0x7f800000 | (mantissa << 13);
  } else if (exponent) {
    bits = sign | ((exponent + 112) << 23) | (mantissa << 13);
  } else {
    float value = std::ldexp(float(mantissa), -24);
    return sign ? -value : value;
  }
  float out;
  std::memcpy(&out, &bits, 4);
  return out;
}

uint16_t float_to_half(float f) {
  uint32_t bits;
  std::memcpy(&bits, &f, 4);
  uint16_t sign = uint16_t((bits >> 16) & 0x8000);
  uint32_t magnitude = bits & 0x7fffffff;
  if (magnitude >= 0x7f800000) return uint16_t(sign | 0x7c00 | (magnitude > 0x7f800000 ? 0x200 : 0));
  if (magnitude >= 0x477ff000) return uint16_t(sign | 0x7c00);  // rounds beyond 65504
  if (magnitude < 0x38800000) {                                  // subnormal: units of 2^-24, ties to even
    float value;
    std::memcpy(&value, &magnitude, 4);
    return uint16_t(sign | uint16_t(std::nearbyint(std::ldexp(value, 24))));
  }
  uint32_t rounded = magnitude + 0xfff + ((magnitude >> 13) & 1);
  return uint16_t(sign | ((rounded - 0x38000000) >> 13));
}

namespace {

template <Form F>
float number(const uint8_t* panel, size_t i) {
  if constexpr (F == Form::F32) return load<float>(panel + 4 * i);
  else return F == Form::F16 ? load_half(panel + 2 * i) : from_bfloat(load<uint16_t>(panel + 2 * i));
}

template <Form F>
void panel_floats(const uint8_t* panel, int cols, const Row& x, float* acc) {
  for (int c = 0; c < cols; c++)
    for (int r = 0; r < kPanelRows; r++) acc[r] += number<F>(panel, size_t(c) * kPanelRows + r) * x.f32[c];
}

void panel_q8(const uint8_t* block, int cols, const Row& x, float* acc) {
  for (int g = 0; g < cols / kGroup; g++, block += block_bytes(Form::Q8))
    for (int r = 0; r < kPanelRows; r++) {
      int32_t sum = 0;
      for (int c = 0; c < kGroup; c++)
        sum += int32_t(int8_t(block[16 + (c / 2) * 16 + r * 2 + c % 2])) * x.q16[g * kGroup + c];
      acc[r] += float(sum) * (load_half(block + 2 * r) * x.scale16[g]);
    }
}

// Column 4 * i + k of a row.
template <Form F>
int code(const uint8_t* block, int r, int i, int k) {
  constexpr int extra = extra_bits(F);
  const int at = extra * i, byte = r * 4 + (F == Form::Q6 ? pair_order(k) : k);
  const int low = block[kCodes + 32 * (i / 2) + byte] >> 4 * (i % 2) & 15;
  return extra ? low | (block[kCodes + 128 + 32 * (at / 8) + byte] >> at % 8 & ((1 << extra) - 1)) << 4 : low;
}

// Loops over quads, then columns: LLVM 20 to 22 compile an index of c % 4 in one loop over c wrongly (llvm-project#156849).
void panel_q6(const uint8_t* block, int cols, const Row& x, float* acc) {
  for (int g = 0; g < cols / kGroup; g++, block += block_bytes(Form::Q6))
    for (int r = 0; r < kPanelRows; r++)
      for (int part = 0; part < 2; part++) {
        int32_t sum = 0;
        for (int i = 4 * part; i < 4 * part + 4; i++)
          for (int k = 0; k < 4; k++) sum += (code<Form::Q6>(block, r, i, k) - 32) * x.q16[g * kGroup + 4 * i + k];
        acc[r] += float(sum) * (load_half(block + 2 * r) * float(int8_t(block[16 + 8 * part + r])) * x.scale16[g]);
      }
}

template <Form F>
void panel_minimum(const uint8_t* block, int cols, const Row& x, float* acc) {
  for (int g = 0; g < cols / kGroup; g++, block += block_bytes(F))
    for (int r = 0; r < kPanelRows; r++) {
      int32_t sum = 0;
      for (int i = 0; i < kGroup / 4; i++)
        for (int k = 0; k < 4; k++) sum += code<F>(block, r, i, k) * x.q8[g * kGroup + 4 * i + k];
      acc[r] += float(sum) * (load_half(block + 2 * r) * x.scale8[g]) + load_half(block + 16 + 2 * r) * x.sum8[g];
    }
}

using Panel = void (*)(const uint8_t* panel, int cols, const Row& x, float* acc);

Panel panel_of(Form form) {
  switch (form) {
    case Form::F32: return panel_floats<Form::F32>;
    case Form::F16: return panel_floats<Form::F16>;
    case Form::BF16: return panel_floats<Form::BF16>;
    case Form::Q8: return panel_q8;
    case Form::Q4: return panel_minimum<Form::Q4>;
    case Form::Q5: return panel_minimum<Form::Q5>;
    case Form::Q6: return panel_q6;
  }
  return nullptr;
}

void matmul(const Matrix& w, int p0, int p1, const Row* x, float* const* out, int count) {
  const Panel panel = panel_of(w.form);
  for (int p = p0; p < p1; p++)
    for (int t = 0; t < count; t++) {
      float acc[kPanelRows] = {};
      panel(w.data + size_t(p) * w.panel_bytes, w.cols, x[t], acc);
      std::memcpy(out[t] + p * kPanelRows, acc, sizeof acc);
    }
}

float largest(const float* x) {
  float value = 0;
  for (int i = 0; i < kGroup; i++) value = std::max(value, std::fabs(x[i]));
  return value;
}

void quantize16(const float* x, int cols, int16_t* q, float* scale) {
  for (int g = 0; g < cols / kGroup; g++) {
    float top = largest(x + g * kGroup), inverse = top > kTiny ? 32767.f / top : 0;
    scale[g] = top / 32767.f;
    for (int i = 0; i < kGroup; i++) q[g * kGroup + i] = int16_t(std::nearbyint(x[g * kGroup + i] * inverse));
  }
}

void quantize8(const float* x, int cols, int8_t* q, float* scale, float* sum) {
  for (int g = 0; g < cols / kGroup; g++) {
    float top = largest(x + g * kGroup), inverse = top > kTiny ? 127.f / top : 0;
    scale[g] = top / 127.f;
    int total = 0;
    for (int i = 0; i < kGroup; i++) {
      q[g * kGroup + i] = int8_t(std::nearbyint(x[g * kGroup + i] * inverse));
      total += q[g * kGroup + i];
    }
    sum[g] = scale[g] * float(total);
  }
}

float dot(const float* a, const float* b, int n) {
  float sum = 0;
  for (int i = 0; i < n; i++) sum += a[i] * b[i];
  return sum;
}

void rms_norm(const float* x, const float* weight, float eps, float* out, int n) {
  float scale = 1.f / std::sqrt(dot(x, x, n) / float(n) + eps);
  for (int i = 0; i < n; i++) out[i] = x[i] * scale * weight[i];
}

void silu_pairs(const float* pairs, float* out, int p0, int p1) {
  for (int p = p0; p < p1; p++)
    for (int r = 0; r < kPanelRows; r++) {
      float gate = pairs[p * 16 + r];
      out[p * 8 + r] = gate / (1.f + std::exp(-gate)) * pairs[p * 16 + 8 + r];
    }
}

void add(float* x, const float* y, float weight, int n) {
  for (int i = 0; i < n; i++) x[i] += weight * y[i];
}

// Number d of the key (or value) at a position of a page.
float cached(Cache cache, const uint8_t* block, bool is_key, int position, int d, int dim) {
  const size_t at = is_key ? size_t(d) * kPage + position : size_t(position) * dim + d;
  if (cache == Cache::F32) return load<float>(block + 4 * at);
  if (cache == Cache::F16) return load_half(block + 2 * at);
  const size_t scale = is_key ? size_t(d / kGroup) * kPage + position : size_t(position) * (dim / kGroup) + d / kGroup;
  return float(int8_t(block[at])) * load_half(block + size_t(kPage) * dim + 2 * scale);
}

void attend(Cache cache, const uint8_t* keys, const uint8_t* values, int valid, int dim, const float* const* q, float* const* states, int rows) {
  for (int r = 0; r < rows; r++) {
    float *state = states[r], *top = state + dim, *sum = state + dim + 1;
    float score[kPage], highest = *top;
    for (int j = 0; j < valid; j++) {
      score[j] = 0;
      for (int d = 0; d < dim; d++) score[j] += q[r][d] * cached(cache, keys, true, j, d, dim);
      highest = std::max(highest, score[j]);
    }
    const float kept = std::exp(*top - highest);
    for (int d = 0; d < dim; d++) state[d] *= kept;
    *sum *= kept;
    *top = highest;
    for (int j = 0; j < valid; j++) {
      const float weight = std::exp(score[j] - highest);
      *sum += weight;
      for (int d = 0; d < dim; d++) state[d] += weight * cached(cache, values, false, j, d, dim);
    }
  }
}

void to_f16(const float* x, uint16_t* out, int n) {
  for (int i = 0; i < n; i++) out[i] = float_to_half(x[i]);
}

void summarize(const float* x, const uint8_t* allowed, int n, int* best, float* log_sum) {
  auto is_allowed = [&](int i) { return !allowed || allowed[i / 8] >> i % 8 & 1; };
  *best = -1;
  for (int i = 0; i < n; i++)
    if (is_allowed(i) && (*best < 0 || x[i] > x[*best])) *best = i;
  double sum = 0;
  for (int i = 0; i < n; i++)
    if (is_allowed(i)) sum += std::exp(x[i] - x[*best]);
  *log_sum = *best < 0 ? -INFINITY : x[*best] + float(std::log(sum));
}

}  // namespace

const Kernels& plain_kernels() {
  static const Kernels table{"plain", matmul, quantize16, quantize8, rms_norm, dot, silu_pairs, add, attend, to_f16, summarize};
  return table;
}

}  // namespace openarctic
