#include "model.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <stdexcept>

#include "../formats/processor.h"

namespace openarctic {
namespace {

// The table of that name, or the fastest for "".
const Kernels& choose_kernels(const std::string& name, int head_dim) {
  for (const Kernels* table : available_kernels())
    if ((name.empty() || name == table->name) && (head_dim % 8 == 0 || table == &plain_kernels())) return *table;
  throw std::invalid_argument("for heads of this width this processor has no kernels named " + name);
}

struct Range {
  int begin, end;
};

Range share(int count, int thread, int threads) {
  int size = (count + threads - 1) / threads;
  return {std::min(count, thread * size), std::min(count, (thread + 1) * size)};
}

}  // namespace

std::vector<const Kernels*> available_kernels() {
  std::vector<const Kernels*> tables;
#if defined(__x86_64__)
  const Processor can = processor();
  const bool avx2 = can.avx2 && can.fma && can.f16c;
  const bool avx512 = avx2 && can.avx512f && can.avx512bw && can.avx512vnni;
  if (avx512) tables.push_back(&avx512_kernels());
  if (avx2) tables.push_back(&avx2_kernels());
#endif
  tables.push_back(&plain_kernels());
  return tables;
}

void Activations::resize(int count, int width, int needed) {
  cols = width;
  forms = needed;
  size_t n = size_t(count) * cols, groups = size_t(count) * ((cols + kGroup - 1) / kGroup);
  if (f32.size() < n + 16) f32.resize(n + 16);
  if (forms & 2 && q16.size() < n + 16) q16.resize(n + 16);
  if (forms & 4 && q8.size() < n + 16) q8.resize(n + 16);
  for (auto* v : {&scale16, &scale8, &sum8})
    if (v->size() < groups) v->resize(groups);
  rows.resize(count);
  size_t per_row = (cols + kGroup - 1) / kGroup;
  for (int i = 0; i < count; i++)
    rows[i] = {f32.data() + size_t(i) * cols, q16.data() + size_t(i) * cols, q8.data() + size_t(i) * cols, scale16.data() + i * per_row, scale8.data() + i * per_row, sum8.data() + i * per_row};
}

void Activations::finish(const Kernels& k, int i) {
  size_t per_row = (cols + kGroup - 1) / kGroup, at = size_t(i) * cols;
  if (forms & 2) k.quantize16(f32.data() + at, cols, q16.data() + at, scale16.data() + i * per_row);
  if (forms & 4) k.quantize8(f32.data() + at, cols, q8.data() + at, scale8.data() + i * per_row, sum8.data() + i * per_row);
}

// Scratch of one step; kept between steps, grown when needed.
struct Model::Batch {
  int count = 0;
  const int *tokens = nullptr, *sequences = nullptr, *positions = nullptr;
  std::vector<float> x, h, q, k, v, attended, projected, gate_up, down, expert_pairs, expert_out, weights;
  Activations attn_in, moe_in, attn_out, ffn_in, ffn_mid, expert_mid, head_in;
  std::vector<float*> q_out, k_out, v_out, o_out, gate_up_out, down_out, pairs_out, expert_rows;
  std::vector<int> chosen, start, order, place;  // experts of tokens; tokens grouped by expert
  std::vector<Row> grouped;
  std::vector<std::vector<float>> scores;  // per thread
};

Model::Model(const Shape& s, const std::string& kernel_name) : shape(s), layers(s.layers), kernels(choose_kernels(kernel_name, s.head_dim)), pool_(new Pool(s.threads)), batch_(new Batch) {
  int half = s.head_dim / 2;
  cos_.resize(size_t(s.max_context) * half);
  sin_.resize(cos_.size());
  for (int p = 0; p < s.max_context; p++)
    for (int d = 0; d < half; d++) {
      float angle = float(p) * std::pow(s.theta, -2.f * float(d) / float(s.head_dim));
      cos_[size_t(p) * half + d] = std::cos(angle);
      sin_[size_t(p) * half + d] = std::sin(angle);
    }
  // calloc: pages that no token reached cost nothing
  size_t bytes = size_t(s.layers) * s.max_sequences * s.kv_heads * s.max_context * s.head_dim * (s.f16_cache ? 2 : 4);
  keys_.reset(static_cast<uint8_t*>(std::calloc(bytes, 1)));
  values_.reset(static_cast<uint8_t*>(std::calloc(bytes, 1)));
  if (!keys_ || !values_) throw std::bad_alloc();
}

Model::~Model() = default;
void Model::Free::operator()(void* p) const { std::free(p); }

size_t Model::slot(int layer, int sequence, int head) const {
  size_t index = (size_t(layer) * shape.max_sequences + sequence) * shape.kv_heads + head;
  return index * shape.max_context * shape.head_dim * (shape.f16_cache ? 2 : 4);
}

size_t Model::weight_bytes() const {
  size_t total = embedding.size() + head.bytes.size();
  for (const Layer& l : layers) {
    for (const Weights* w : {&l.q, &l.k, &l.v, &l.o, &l.gate_up, &l.down}) total += w->bytes.size();
    for (const auto* experts : {&l.expert_gate_up, &l.expert_down})
      for (const Weights& w : *experts) total += w.bytes.size();
  }
  return total;
}

void Model::copy(int from, int to, int length) {
  size_t bytes = size_t(length) * shape.head_dim * (shape.f16_cache ? 2 : 4);
  for (int l = 0; l < shape.layers; l++)
    for (int h = 0; h < shape.kv_heads; h++) {
      std::memcpy(keys_.get() + slot(l, to, h), keys_.get() + slot(l, from, h), bytes);
      std::memcpy(values_.get() + slot(l, to, h), values_.get() + slot(l, from, h), bytes);
    }
}

namespace {
void spread(std::vector<float>& buffer, std::vector<float*>& rows, int count, int width) {
  buffer.resize(size_t(count) * width);
  rows.resize(count);
  for (int i = 0; i < count; i++) rows[i] = buffer.data() + size_t(i) * width;
}
}  // namespace

// Sizes every buffer for the widest layer.
void Model::prepare(Batch& b) {
  const int n = b.count, hidden = shape.hidden, k = shape.top_k;
  int in_forms = 0, o_forms = 0, ffn_forms = 0, down_forms = 0, moe_forms = 0, mid_forms = 0;
  int pairs = 0, mid = 0, expert_pairs = 0, expert_mid = 0;
  for (const Layer& l : layers) {
    in_forms |= form_bit(l.q) | form_bit(l.k) | form_bit(l.v);
    o_forms |= form_bit(l.o);
    if (l.has_mlp()) {
      ffn_forms |= form_bit(l.gate_up);
      down_forms |= form_bit(l.down);
      pairs = std::max(pairs, l.gate_up.matrix.rows);
      mid = std::max(mid, l.down.matrix.cols);
    }
    if (!l.has_experts()) continue;
    moe_forms |= form_bit(l.expert_gate_up[0]);
    mid_forms |= form_bit(l.expert_down[0]);
    expert_pairs = std::max(expert_pairs, l.expert_gate_up[0].matrix.rows);
    expert_mid = std::max(expert_mid, l.expert_down[0].matrix.cols);
  }
  const int padded = (hidden + 7) / 8 * 8;
  b.x.resize(size_t(n) * hidden);
  b.h.resize(size_t(n) * hidden);
  spread(b.q, b.q_out, n, layers[0].q.matrix.rows);
  spread(b.k, b.k_out, n, layers[0].k.matrix.rows);
  spread(b.v, b.v_out, n, layers[0].v.matrix.rows);
  spread(b.projected, b.o_out, n, padded);
  spread(b.gate_up, b.gate_up_out, n, pairs);
  spread(b.down, b.down_out, n, padded);
  b.attn_in.resize(n, hidden, in_forms);
  b.attn_out.resize(n, shape.heads * shape.head_dim, o_forms);
  b.ffn_in.resize(n, hidden, ffn_forms);
  b.ffn_mid.resize(n, mid, down_forms);
  if (expert_mid) {
    b.moe_in.resize(n, hidden, moe_forms);
    spread(b.expert_pairs, b.pairs_out, n * k, expert_pairs);
    spread(b.expert_out, b.expert_rows, n * k, padded);
    b.expert_mid.resize(n * k, expert_mid, mid_forms);
    b.chosen.resize(n * k);
    b.weights.resize(n * k);
    b.order.resize(n * k);
    b.place.resize(n * k);
    b.grouped.resize(n * k);
    b.start.resize(shape.experts + 1);
  }
  b.scores.resize(shape.threads);
  for (auto& s : b.scores) s.resize(size_t(shape.heads / shape.kv_heads) * shape.max_context + 8);
}

// Softmax over all experts, the top k, renormalised when k > 1 (the first wins a tie).
void Model::route(Batch& b, const Layer& layer, int token) {
  const int experts = shape.experts, k = shape.top_k;
  std::vector<float> p(experts);
  float top = -INFINITY, total = 0, kept = 0;
  for (int e = 0; e < experts; e++) {
    p[e] = kernels.dot(b.moe_in.row(token), layer.router.data() + size_t(e) * shape.hidden, shape.hidden);
    top = std::max(top, p[e]);
  }
  for (float& v : p) total += v = std::exp(v - top);
  for (int j = 0; j < k; j++) {
    int best = int(std::max_element(p.begin(), p.end()) - p.begin());
    b.chosen[token * k + j] = best;
    b.weights[token * k + j] = p[best] / total;
    kept += p[best] / total;
    p[best] = -1;
  }
  if (k > 1)
    for (int j = 0; j < k; j++) b.weights[token * k + j] /= kept;
}

void Model::group_by_expert(Batch& b) {
  const int n = b.count * shape.top_k;
  std::fill(b.start.begin(), b.start.end(), 0);
  for (int i = 0; i < n; i++) b.start[b.chosen[i] + 1]++;
  for (int e = 0; e < shape.experts; e++) b.start[e + 1] += b.start[e];
  std::vector<int> next(b.start.begin(), b.start.end() - 1);
  for (int i = 0; i < n; i++) {
    int at = next[b.chosen[i]]++;
    b.order[at] = i;
    b.place[i] = at;
    b.grouped[at] = b.moe_in.rows[i / shape.top_k];
  }
}

// Interleaved rotary positions: GGUF stores the rows of q and k permuted for them.
void Model::rotate_and_store(Batch& b, int index, int thread) {
  const int dim = shape.head_dim, half = dim / 2;
  Range mine = share(b.count, thread, shape.threads);
  for (int i = mine.begin; i < mine.end; i++) {
    const float *c = &cos_[size_t(b.positions[i]) * half], *s = &sin_[size_t(b.positions[i]) * half];
    auto rotate = [&](float* v) {
      for (int d = 0; d < half; d++) {
        float a = v[2 * d], e = v[2 * d + 1];
        v[2 * d] = a * c[d] - e * s[d];
        v[2 * d + 1] = a * s[d] + e * c[d];
      }
    };
    for (int h = 0; h < shape.heads; h++) rotate(b.q_out[i] + h * dim);
    for (int h = 0; h < shape.kv_heads; h++) {
      float *k = b.k_out[i] + h * dim, *v = b.v_out[i] + h * dim;
      rotate(k);
      size_t at = slot(index, b.sequences[i], h) + size_t(b.positions[i]) * dim * (shape.f16_cache ? 2 : 4);
      if (shape.f16_cache) {
        kernels.to_f16(k, reinterpret_cast<uint16_t*>(keys_.get() + at), dim);
        kernels.to_f16(v, reinterpret_cast<uint16_t*>(values_.get() + at), dim);
      } else {
        std::memcpy(keys_.get() + at, k, size_t(dim) * 4);
        std::memcpy(values_.get() + at, v, size_t(dim) * 4);
      }
    }
  }
}

void Model::attention(Batch& b, int index, int thread) {
  const int dim = shape.head_dim, group = shape.heads / shape.kv_heads;
  float* scratch = b.scores[thread].data();
  for (int item = thread; item < b.count * shape.kv_heads; item += shape.threads) {
    int i = item / shape.kv_heads, h = item % shape.kv_heads;
    const float* q = b.q_out[i] + h * group * dim;
    float* out = b.attn_out.row(i) + h * group * dim;
    const uint8_t *k = keys_.get() + slot(index, b.sequences[i], h), *v = values_.get() + slot(index, b.sequences[i], h);
    int count = b.positions[i] + 1;
    if (shape.f16_cache) kernels.attend_f16(q, reinterpret_cast<const uint16_t*>(k), reinterpret_cast<const uint16_t*>(v), count, dim, group, out, scratch);
    else kernels.attend_f32(q, reinterpret_cast<const float*>(k), reinterpret_cast<const float*>(v), count, dim, group, out, scratch);
  }
}

// Each thread computes its share of every expert's panels, for all tokens that chose the expert.
void Model::expert_gate_up(Batch& b, const Layer& layer, int thread) {
  for (int e = 0; e < shape.experts; e++) {
    int first = b.start[e], count = b.start[e + 1] - first;
    if (!count) continue;
    Range p = share(layer.expert_gate_up[e].matrix.panels() / 2, thread, shape.threads);
    if (p.begin == p.end) continue;
    kernels.matmul(layer.expert_gate_up[e].matrix, 2 * p.begin, 2 * p.end, &b.grouped[first], &b.pairs_out[first], count);
    for (int t = first; t < first + count; t++) kernels.silu_pairs(b.pairs_out[t], b.expert_mid.row(t), p.begin, p.end);
  }
}

void Model::expert_down(Batch& b, const Layer& layer, int thread) {
  for (int e = 0; e < shape.experts; e++) {
    int first = b.start[e], count = b.start[e + 1] - first;
    Range p = share(layer.expert_down[e].matrix.panels(), thread, shape.threads);
    if (count && p.begin < p.end) kernels.matmul(layer.expert_down[e].matrix, p.begin, p.end, &b.expert_mid.rows[first], &b.expert_rows[first], count);
  }
}

void Model::add_experts(Batch& b, int token) {
  const int k = shape.top_k;
  float* x = &b.x[size_t(token) * shape.hidden];
  for (int j = 0; j < k; j++) kernels.add(x, b.expert_rows[b.place[token * k + j]], b.weights[token * k + j], shape.hidden);
}

// x becomes the layer's residual stream after attention (and parallel experts); what follows reads the norm of x + attention
// alone.
void Model::combine(Batch& b, Layer& layer, int thread) {
  const int hidden = shape.hidden;
  Range mine = share(b.count, thread, shape.threads);
  for (int i = mine.begin; i < mine.end; i++) {
    float* x = &b.x[size_t(i) * hidden];
    kernels.add(x, b.o_out[i], 1.f, hidden);
    Activations& next = layer.has_mlp() ? b.ffn_in : b.moe_in;
    kernels.rms_norm(x, layer.ffn_norm.data(), shape.eps, next.row(i), hidden);
    next.finish(kernels, i);
    if (layer.is_parallel()) add_experts(b, i);
    else if (layer.has_experts()) route(b, layer, i);
  }
}

// The MLP of a dense layer, or the residual MLP of a parallel one.
void Model::dense_mlp(Batch& b, const Layer& layer, int thread) {
  const int threads = shape.threads, n = b.count, hidden = shape.hidden;
  Range p = share(layer.gate_up.matrix.panels() / 2, thread, threads);
  if (p.begin < p.end) {
    kernels.matmul(layer.gate_up.matrix, 2 * p.begin, 2 * p.end, b.ffn_in.rows.data(), b.gate_up_out.data(), n);
    for (int i = 0; i < n; i++) kernels.silu_pairs(b.gate_up_out[i], b.ffn_mid.row(i), p.begin, p.end);
  }
  pool_->barrier();
  for (int i = thread; i < n; i += threads) b.ffn_mid.finish(kernels, i);
  pool_->barrier();
  Range down = share(layer.down.matrix.panels(), thread, threads);
  if (down.begin < down.end) kernels.matmul(layer.down.matrix, down.begin, down.end, b.ffn_mid.rows.data(), b.down_out.data(), n);
  pool_->barrier();
  Range mine = share(n, thread, threads);
  for (int i = mine.begin; i < mine.end; i++) kernels.add(&b.x[size_t(i) * hidden], b.down_out[i], 1.f, hidden);
}

// Experts in the MLP's place, as in Mixtral: they read the norm of the residual stream after attention.
void Model::sequential_experts(Batch& b, const Layer& layer, int thread) {
  if (thread == 0) group_by_expert(b);
  pool_->barrier();
  expert_gate_up(b, layer, thread);
  pool_->barrier();
  for (int t = thread; t < b.count * shape.top_k; t += shape.threads) b.expert_mid.finish(kernels, t);
  pool_->barrier();
  expert_down(b, layer, thread);
  pool_->barrier();
  Range mine = share(b.count, thread, shape.threads);
  for (int i = mine.begin; i < mine.end; i++) add_experts(b, i);
}

void Model::run_layer(Batch& b, Layer& layer, int index, int thread) {
  const int threads = shape.threads, n = b.count, hidden = shape.hidden, k = shape.top_k;
  auto multiply = [&](const Weights& w, const std::vector<Row>& x, std::vector<float*>& out) {
    Range p = share(w.matrix.panels(), thread, threads);
    if (p.begin < p.end) kernels.matmul(w.matrix, p.begin, p.end, x.data(), out.data(), n);
  };
  for (int item = thread; item < 2 * n; item += threads) {  // both norms of every token
    int i = item / 2;
    const float* x = &b.x[size_t(i) * hidden];
    if (item % 2 == 0) {
      kernels.rms_norm(x, layer.attn_norm.data(), shape.eps, b.attn_in.row(i), hidden);
      b.attn_in.finish(kernels, i);
    } else if (layer.is_parallel()) {
      kernels.rms_norm(x, layer.moe_norm.data(), shape.eps, b.moe_in.row(i), hidden);
      b.moe_in.finish(kernels, i);
      route(b, layer, i);
    }
  }
  pool_->barrier();
  if (thread == 0 && layer.is_parallel()) group_by_expert(b);
  multiply(layer.q, b.attn_in.rows, b.q_out);
  multiply(layer.k, b.attn_in.rows, b.k_out);
  multiply(layer.v, b.attn_in.rows, b.v_out);
  pool_->barrier();
  rotate_and_store(b, index, thread);
  if (layer.is_parallel()) expert_gate_up(b, layer, thread);  // needs nothing of attention
  pool_->barrier();
  attention(b, index, thread);
  if (layer.is_parallel())
    for (int t = thread; t < n * k; t += threads) b.expert_mid.finish(kernels, t);
  pool_->barrier();
  for (int i = thread; i < n; i += threads) b.attn_out.finish(kernels, i);
  pool_->barrier();
  multiply(layer.o, b.attn_out.rows, b.o_out);
  if (layer.is_parallel()) expert_down(b, layer, thread);
  pool_->barrier();
  combine(b, layer, thread);
  pool_->barrier();
  if (layer.has_mlp()) dense_mlp(b, layer, thread);
  else sequential_experts(b, layer, thread);
  pool_->barrier();
}

void Model::step(int count, const int* tokens, const int* sequences, const int* positions, const std::vector<int>& wanted, float* logits) {
  Batch& b = *batch_;
  b.count = count;
  b.tokens = tokens;
  b.sequences = sequences;
  b.positions = positions;
  prepare(b);
  const int hidden = shape.hidden, rows = int(wanted.size());
  b.head_in.resize(std::max(rows, 1), hidden, form_bit(head));
  std::vector<float*> out(rows);
  for (int r = 0; r < rows; r++) out[r] = logits + size_t(r) * padded_vocab();
  pool_->run([&](int thread) {
    for (int i = thread; i < count; i += shape.threads) dequantize_row(embedding_source, tokens[i], &b.x[size_t(i) * hidden]);
    pool_->barrier();
    for (int l = 0; l < shape.layers; l++) run_layer(b, layers[l], l, thread);
    for (int r = thread; r < rows; r += shape.threads) {
      kernels.rms_norm(&b.x[size_t(wanted[r]) * hidden], output_norm.data(), shape.eps, b.head_in.row(r), hidden);
      b.head_in.finish(kernels, r);
    }
    pool_->barrier();
    Range p = share(head.matrix.panels(), thread, shape.threads);
    if (rows && p.begin < p.end) kernels.matmul(head.matrix, p.begin, p.end, b.head_in.rows.data(), out.data(), rows);
  });
}

}  // namespace openarctic
