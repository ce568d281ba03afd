// A whole model: weights repacked into panels, pages of keys and values, and one call for one step over all layers.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "arena.h"
#include "kernels.h"
#include "repack.h"
#include "threads.h"

namespace openarctic {

struct Shape {
  int hidden, layers, heads, kv_heads, head_dim, vocab, experts, top_k;
  float eps, theta;
  int threads, pages;
  Cache cache;
  bool rotates_halves;  // rotary pairs are (d, d + head_dim / 2), else (2d, 2d + 1)
  bool renormalizes;    // weights of the chosen experts are divided by their sum
};

// What one step computes: token i stands at positions[i] of the sequence whose pages are row sequences[i] of `tables`.
struct Tokens {
  int count;
  const int *ids, *sequences, *positions;
  const int* tables;  // [sequences][width]
  int width;
  int page(int i, int position) const { return tables[size_t(sequences[i]) * width + position / kPage]; }
};

// Fastest first.
const std::vector<const Kernels*>& available_kernels();

// Which form of activations a matrix reads, as one bit.
inline int form_bit(const Weights& w) { return 1 << int(reads_of(w.matrix.form)); }

struct Layer {
  std::vector<float> attn_norm, ffn_norm, moe_norm, router;  // no router: no experts
  std::vector<float> q_bias, k_bias, v_bias;  // empty: none
  std::vector<float> q_norm, k_norm;          // empty: none; of one head's width, or of all heads'
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
  Arena arena;  // holds the weights
  size_t lent_bytes = 0;  // of weights whose panels stand elsewhere
  std::vector<Layer> layers;
  std::vector<float> output_norm;
  Weights head;
  Source embedding{};  // raw rows
  const Kernels& kernels;

  // Writes a row of vocab logits for each wanted token, and where `summaries` is given its first largest one's number and the
  // logarithm of the sum of all exponentials.
  void step(const Tokens& tokens, const std::vector<int>& wanted, float* logits, float* summaries);
  size_t page_bytes() const { return size_t(shape.layers) * shape.kv_heads * 2 * cache_bytes(shape.cache, shape.head_dim); }
  void copy_page(int source, int target);
  void read_page(int index, uint8_t* out);
  void write_page(int index, const uint8_t* bytes);
  Pool& pool() { return *pool_; }
  int padded_vocab() const { return (shape.vocab + kPanelRows - 1) / kPanelRows * kPanelRows; }

 private:
  struct Batch;
  void prepare(Batch& batch);
  void run_layer(Batch& batch, Layer& layer, int index, int thread);
  void shape_heads(std::vector<float>& bias, std::vector<float>& norm, float* row, int heads) const;
  void rotate_and_store(Batch& batch, Layer& layer, int index, int thread);
  void store(const float* x, uint8_t* block, int position, bool is_key) const;
  void prepare_attention(Batch& batch);
  void attention(Batch& batch, int index, int thread);
  void attend_span(Batch& batch, int index, int tile, int head, int span, float* states);
  float* split_states(Batch& batch, int tile, int head, int span);
  void merge_span(Batch& batch, int tile, int head, int span, float* states, const float* others);
  void join_spans(Batch& batch, int thread);
  void route(Batch& batch, const Layer& layer, int token);
  void group_by_expert(Batch& batch);
  void expert_gate_up(Batch& batch, const Layer& layer, int thread);
  void expert_down(Batch& batch, const Layer& layer, int thread);
  void add_experts(Batch& batch, int token);
  void combine(Batch& batch, Layer& layer, int thread);
  void dense_mlp(Batch& batch, const Layer& layer, int thread);
  void sequential_experts(Batch& batch, const Layer& layer, int thread);
  // Of one layer in one page: head after head its keys, then its values.
  size_t block_bytes() const { return page_bytes() / shape.layers; }
  // A layer's pages lie side by side: a sequence's next page is near when its number is.
  uint8_t* block(int page, int layer) { return cache_ + (size_t(layer) * shape.pages + page) * block_bytes(); }
  // Keys of one head in one page; the values follow.
  uint8_t* keys(int page, int layer, int head) { return block(page, layer) + head * 2 * cache_bytes(shape.cache, shape.head_dim); }
  std::vector<float> frequencies_;
  std::unique_ptr<Pool> pool_;
  struct Free {
    void operator()(void* p) const;
  };
  std::unique_ptr<uint8_t, Free> cache_memory_;
  uint8_t* cache_ = nullptr;  // begins at a cache line
  std::unique_ptr<Batch> batch_;

 public:
  ~Model();
};

}  // namespace openarctic
