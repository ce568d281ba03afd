// A whole model: weights repacked into panels, a key-value cache, and one call for one step over all layers.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "kernels.h"
#include "threads.h"

namespace openarctic {

struct Shape {
  int hidden, layers, heads, kv_heads, head_dim, vocab, experts, top_k;
  float eps, theta;
  int max_sequences, max_context, threads;
  bool f16_cache;
};

// Raw GGUF bytes of a matrix: `type` is the GGUF type number.
struct Source {
  int type, rows, cols;
  const uint8_t* data;
};

// Owns the bytes of a repacked matrix.
struct Weights {
  Matrix matrix;
  std::vector<uint8_t> bytes;
  bool empty() const { return bytes.empty(); }
};

// Rows of several sources one after the other; with `interleave`, panels of two sources alternate (gate, up).
Weights repack(const std::vector<Source>& sources, bool interleave);
void dequantize_row(const Source& source, int row, float* out);

// Fastest first.
std::vector<const Kernels*> available_kernels();

// Which form of activations a matrix reads, as one bit.
inline int form_bit(const Weights& w) { return 1 << int(reads_of(w.matrix.form)); }

struct Layer {
  std::vector<float> attn_norm, ffn_norm, moe_norm, router;  // no router: no experts
  Weights q, k, v, o, gate_up, down;
  std::vector<Weights> expert_gate_up, expert_down;
  bool has_experts() const { return !router.empty(); }
  bool has_mlp() const { return !gate_up.empty(); }
  bool is_parallel() const { return !moe_norm.empty(); }  // experts read the layer's input, beside a residual MLP
};

// Activations of all tokens of a step, in the forms that the next matrices read.
struct Activations {
  int cols = 0, forms = 0;  // forms: form_bit of every matrix that reads them
  std::vector<float> f32, scale16, scale8, sum8;
  std::vector<int16_t> q16;
  std::vector<int8_t> q8;
  std::vector<Row> rows;
  void resize(int count, int cols, int forms);
  float* row(int i) { return f32.data() + size_t(i) * cols; }
  void finish(const Kernels& kernels, int i);  // quantise row i after it was written
};

class Model {
 public:
  // `kernels` names a table, "" the fastest; throws std::invalid_argument for one that this processor has not.
  Model(const Shape& shape, const std::string& kernels);
  Shape shape;
  std::vector<Layer> layers;
  std::vector<float> output_norm;
  Weights head;
  std::vector<uint8_t> embedding;  // raw rows of `embedding_source`
  Source embedding_source{};
  const Kernels& kernels;

  // One step: token i of sequence sequences[i] at positions[i]. Writes a row of vocab logits for each wanted token.
  void step(int count, const int* tokens, const int* sequences, const int* positions, const std::vector<int>& wanted, float* logits);
  // Sequence `to` becomes a copy of the first `length` positions of `from`.
  void copy(int from, int to, int length);
  // Held by matrices and the embedding table.
  size_t weight_bytes() const;
  int padded_vocab() const { return (shape.vocab + kPanelRows - 1) / kPanelRows * kPanelRows; }

 private:
  struct Batch;
  void prepare(Batch& batch);
  void run_layer(Batch& batch, Layer& layer, int index, int thread);
  void attention(Batch& batch, int index, int thread);
  void rotate_and_store(Batch& batch, int index, int thread);
  void route(Batch& batch, const Layer& layer, int token);
  void group_by_expert(Batch& batch);
  void expert_gate_up(Batch& batch, const Layer& layer, int thread);
  void expert_down(Batch& batch, const Layer& layer, int thread);
  void add_experts(Batch& batch, int token);
  void combine(Batch& batch, Layer& layer, int thread);
  void dense_mlp(Batch& batch, const Layer& layer, int thread);
  void sequential_experts(Batch& batch, const Layer& layer, int thread);
  size_t slot(int layer, int sequence, int head) const;
  std::vector<float> cos_, sin_;
  std::unique_ptr<Pool> pool_;
  struct Free {
    void operator()(void* p) const;
  };
  std::unique_ptr<uint8_t, Free> keys_, values_;
  std::unique_ptr<Batch> batch_;

 public:
  ~Model();
};

}  // namespace openarctic
