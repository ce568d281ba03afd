// The arithmetic of one processor family: a table of functions, chosen once at run time.
//
// Weights are repacked into panels of 8 rows, so that one vector holds the same column of 8 rows. The forms, with their bytes
// a weight, and the GGUF types that become them:
//   F32   4       per column 8 floats. Also types of different forms that are read together.
//   F16   2       per column 8 halves. F16
//   BF16  2       per column the upper halves of 8 floats. BF16
//   Q8    1.0625  per 32 columns 8 f16 scales, then 16 x (8 rows x 2 columns) int8. Q8_0
//   Q4    0.625   per 32 columns 8 f16 scales, 8 f16 minima, then codes. Q4_0 (minimum -8 * scale), Q4_1, Q4_K
//   Q5    0.75    as Q4, with a fifth bit. Q5_0 (minimum -16 * scale), Q5_1, Q5_K
//   Q6    0.875   per 32 columns 8 f16 scales, 2 x 8 int8 scales of 16 columns, then codes; a code stands for itself - 32. Q6_K
// Codes: 4 x 32 bytes, byte r*4+k of vector j holds the four low bits of columns 8j+k (low nibble) and 8j+4+k (high nibble) of
// row r; then one vector for each further bit: those bits of column 4i+k, lowest first, begin at bit e*i of their 8e in byte
// r*4+k. In Q6, bytes 1 and 2 of every four change places, so that even bytes hold the first two columns, odd ones the others.
// Products of two scales (Q4_K, Q5_K) are rounded to f16 once; everything else keeps the file's exact values.
//
// Activations stay f32 for floats and are quantised per 32 columns: to int16 for Q8 and Q6, to int8 for Q4 and Q5.
//
// Keys and values stand in pages of 32 positions. Keys of one head lie transposed, [dim][32 positions], so that one vector holds
// the same number of 8 keys and scores need no sums across a vector; values are [32 positions][dim]. As Q8 (int8 codes, one f16
// scale for 32 numbers along dim) the codes lie in the same order, and behind them the scales: [dim / 32][32] and [32][dim / 32].
#pragma once
#include <cstddef>
#include <cstdint>

namespace openarctic {

enum class Form : int { F32, F16, BF16, Q8, Q4, Q5, Q6 };
enum class Reads : int { F32, Int16, Int8 };

constexpr int kGroup = 32;
constexpr int kPanelRows = 8;
constexpr int kCodes = 32;  // where the codes of Q4, Q5 and Q6 begin
constexpr float kTiny = 1e-34f;  // activations of a group below it become zeros: 32767 / kTiny is still a float

constexpr bool is_float(Form form) { return form == Form::F32 || form == Form::F16 || form == Form::BF16; }
constexpr int extra_bits(Form form) { return form == Form::Q5 ? 1 : form == Form::Q6 ? 2 : 0; }
constexpr Reads reads_of(Form form) { return is_float(form) ? Reads::F32 : form == Form::Q8 || form == Form::Q6 ? Reads::Int16 : Reads::Int8; }
// Of a panel's 32 columns.
constexpr size_t block_bytes(Form form) {
  if (is_float(form)) return kGroup * kPanelRows * (form == Form::F32 ? 4 : 2);
  return form == Form::Q8 ? 16 + 256 : kCodes + 128 + 32 * extra_bits(form);
}
// The byte of each four of Q6 that holds a column.
constexpr int pair_order(int column) { return column == 1 ? 2 : column == 2 ? 1 : column; }

struct Matrix {
  Form form = Form::F32;
  int rows = 0, cols = 0;       // rows are padded to whole panels
  const uint8_t* data = nullptr;
  size_t panel_bytes = 0;
  int panels() const { return (rows + kPanelRows - 1) / kPanelRows; }
};

enum class Cache : int { F32, F16, Q8 };

constexpr int kPage = 32;  // positions
// Of one head's keys, or values, in one page.
constexpr size_t cache_bytes(Cache cache, int dim) {
  const size_t numbers = size_t(kPage) * dim;
  return cache == Cache::F32 ? 4 * numbers : cache == Cache::F16 ? 2 * numbers : numbers + 2 * (numbers / kGroup);
}

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
  // Adds the first `valid` keys and values of one head's page to `rows` softmaxes that run over pages: q[r] is a query of width
  // `dim`, divided by sqrt(dim); states[r] holds dim weighted sums of values, then the largest score, then the sum of weights.
  // The bits of a row depend on its own pages alone.
  void (*attend)(Cache cache, const uint8_t* keys, const uint8_t* values, int valid, int dim, const float* const* q, float* const* states, int rows);
  void (*to_f16)(const float* x, uint16_t* out, int n);
  // Of the allowed among n logits (bit i % 8 of byte i / 8; null: all): the first largest, -1 where none is, and the logarithm of
  // the sum of their exponentials.
  void (*summarize)(const float* x, const uint8_t* allowed, int n, int* best, float* log_sum);
};

const Kernels& plain_kernels();
#if defined(__x86_64__) || defined(_M_X64)
const Kernels& avx2_kernels();
const Kernels& avx512_kernels();
#elif defined(__aarch64__)
const Kernels& neon_kernels();
#endif

// Asks for memory that will be read soon: hardware does not look beyond a page of 4 KB, and starts late in each.
static inline void fetch(const uint8_t* bytes, size_t count) {
  for (size_t at = 0; at < count; at += 64) __builtin_prefetch(bytes + at);
}

float half_to_float(uint16_t h);
uint16_t float_to_half(float f);

}  // namespace openarctic
