// The arithmetic of one processor family: a table of functions, chosen once at run time.
//
// Weights are repacked into panels of 8 rows, so that one vector holds the same column of 8 rows:
//   F32  per column: 8 floats
//   Q8   per 32 columns: 8 f16 scales, then 16 x (8 rows x 2 columns) int8
//   Q4   per 32 columns: 8 f16 scales, 8 f16 minima, then 4 x 32 bytes; byte r*4+k of vector j holds columns 8j+k (low
//        nibble) and 8j+4+k (high nibble) of row r. Q4_0 is stored with minimum -8 * scale.
// Activations are quantised per 32 columns: to int16 for Q8 (W8A16), to int8 for Q4 (W4A8).
#pragma once
#include <cstddef>
#include <cstdint>

namespace openarctic {

enum class Form : int { F32 = 0, Q8 = 1, Q4 = 2 };

constexpr int kGroup = 32;
constexpr int kPanelRows = 8;
constexpr size_t kQ8Block = 16 + 256;
constexpr size_t kQ4Block = 32 + 128;

struct Matrix {
  Form form = Form::F32;
  int rows = 0, cols = 0;       // rows are padded to whole panels
  const uint8_t* data = nullptr;
  size_t panel_bytes = 0;
  int panels() const { return (rows + kPanelRows - 1) / kPanelRows; }
};

// One activation row in the forms that its readers need.
struct Row {
  const float* f32;
  const int16_t* q16;
  const int8_t* q8;
  const float* scale16;  // per group
  const float* scale8;   // per group
  const float* sum8;     // per group: scale8 * sum of q8
};

struct Kernels {
  const char* name;
  // out[t][panel*8 ...] = W[panel] . x[t] for panels p0..p1 and rows t < count
  void (*matmul)(const Matrix& w, int p0, int p1, const Row* x, float* const* out, int count);
  void (*quantize16)(const float* x, int cols, int16_t* q, float* scale);
  void (*quantize8)(const float* x, int cols, int8_t* q, float* scale, float* sum);
  void (*rms_norm)(const float* x, const float* weight, float eps, float* out, int n);
  float (*dot)(const float* a, const float* b, int n);
  // out[8p..] = silu(pairs[16p..]) * pairs[16p+8..]
  void (*silu_pairs)(const float* pairs, float* out, int p0, int p1);
  void (*add)(float* x, const float* y, float weight, int n);
  // One token, one kv head: `group` query rows of width `dim` over `count` keys. scratch: group * count floats.
  void (*attend_f32)(const float* q, const float* k, const float* v, int count, int dim, int group, float* out, float* scratch);
  void (*attend_f16)(const float* q, const uint16_t* k, const uint16_t* v, int count, int dim, int group, float* out, float* scratch);
  void (*to_f16)(const float* x, uint16_t* out, int n);
};

const Kernels& plain_kernels();
#if defined(__x86_64__) || defined(_M_X64)
const Kernels& avx2_kernels();
const Kernels& avx512_kernels();
#endif

float half_to_float(uint16_t h);
uint16_t float_to_half(float f);

}  // namespace openarctic
