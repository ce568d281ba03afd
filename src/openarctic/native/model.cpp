#include "model.h"

#include <algorithm>
#include <atomic>
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

constexpr int kSpan = 256;     // positions that one thread attends to; a longer context is several, merged in order
constexpr int kTileRows = 64;  // query rows that share a page
constexpr int kMostRows = 256; // queries of one head of keys

struct Range {
  int begin, end;
};

int spans_of(int positions) { return (positions + kSpan - 1) / kSpan; }

// Tokens that follow each other in one sequence.
struct Run {
  int first, count;
};

// Of a softmax that runs over pages, see Kernels::attend.
void begin_state(float* state, int dim) {
  std::fill(state, state + dim, 0.f);
  state[dim] = -INFINITY;
  state[dim + 1] = 0;
}

// `state` takes in what `other` saw after it.
void merge_state(float* state, const float* other, int dim) {
  const float top = std::max(state[dim], other[dim]), a = std::exp(state[dim] - top), b = std::exp(other[dim] - top);
  for (int d = 0; d < dim; d++) state[d] = state[d] * a + other[d] * b;
  state[dim] = top;
  state[dim + 1] = state[dim + 1] * a + other[dim + 1] * b;
}

Range share(int count, int thread, int threads) {
  int size = (count + threads - 1) / threads;
  return {std::min(count, thread * size), std::min(count, (thread + 1) * size)};
}

}  // namespace

namespace {
std::vector<const Kernels*> find_kernels() {
  std::vector<const Kernels*> tables;
#if defined(__x86_64__)
  const Processor can = processor();
  const bool avx2 = can.avx2 && can.fma && can.f16c;
  const bool avx512 = avx2 && can.avx512f && can.avx512bw && can.avx512vnni;
  if (avx512) tables.push_back(&avx512_kernels());
  if (avx2) tables.push_back(&avx2_kernels());
#elif defined(__aarch64__)
  if (processor().dot_products) tables.push_back(&neon_kernels());
#endif
  tables.push_back(&plain_kernels());
  return tables;
}
}  // namespace

// Asked once: a virtual machine takes tens of microseconds to answer what its processor can.
const std::vector<const Kernels*>& available_kernels() {
  static const std::vector<const Kernels*> tables = find_kernels();
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
  Tokens tokens{};
  std::vector<float> cos, sin;  // [token][head_dim / 2]
  std::vector<Run> tiles;
  int spans = 0;              // of the longest sequence
  bool is_split = false;      // few tokens: the spans of one tile go to several threads
  std::atomic<int> next{0};   // part of the attention that nobody has taken: parts differ in length
  std::vector<float> states;  // split: [tile][kv head][span][row][head_dim + 2]
  std::vector<float> x, h, q, k, v, attended, projected, gate_up, down, expert_pairs, expert_out, weights;
  Activations attn_in, moe_in, attn_out, ffn_in, ffn_mid, expert_mid, head_in;
  std::vector<float*> q_out, k_out, v_out, o_out, gate_up_out, down_out, pairs_out, expert_rows;
  std::vector<int> chosen, start, order, place;  // experts of tokens; tokens grouped by expert
  std::vector<Row> grouped;
  std::vector<std::vector<float>> scratch;  // per thread: states of a span and of all spans
};

Model::Model(const Shape& s, const std::string& kernel_name) : shape(s), layers(s.layers), kernels(choose_kernels(kernel_name, s.head_dim)), pool_(new Pool(s.threads)), batch_(new Batch) {
  for (int d = 0; d < s.head_dim / 2; d++) frequencies_.push_back(std::pow(s.theta, -2.f * float(d) / float(s.head_dim)));
  if (s.heads / s.kv_heads > kMostRows) throw std::invalid_argument("more than " + std::to_string(kMostRows) + " queries for one key");
  if (s.cache == Cache::Q8 && s.head_dim % kGroup) throw std::invalid_argument("a q8_0 cache needs heads whose width is a multiple of 32, not " + std::to_string(s.head_dim));
  const size_t bytes = size_t(s.pages) * page_bytes();
  cache_memory_.reset(static_cast<uint8_t*>(std::calloc(bytes + 64, 1)));  // pages that no token reached cost nothing
  if (!cache_memory_) throw std::bad_alloc();
  cache_ = cache_memory_.get() + (64 - reinterpret_cast<uintptr_t>(cache_memory_.get()) % 64) % 64;
}

void Model::copy_page(int source, int target) {
  for (int l = 0; l < shape.layers && source != target; l++) std::memcpy(block(target, l), block(source, l), block_bytes());
}

void Model::read_page(int index, uint8_t* out) {
  for (int l = 0; l < shape.layers; l++) std::memcpy(out + l * block_bytes(), block(index, l), block_bytes());
}

void Model::write_page(int index, const uint8_t* bytes) {
  for (int l = 0; l < shape.layers; l++) std::memcpy(block(index, l), bytes + l * block_bytes(), block_bytes());
}

Model::~Model() {
  if (pool_ && pool_->is_forked()) (void)pool_.release();  // waiting for its threads would never end
}
void Model::Free::operator()(void* p) const { std::free(p); }

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
  prepare_attention(b);
}

// Angles, and tiles of tokens that attend together.
void Model::prepare_attention(Batch& b) {
  const Tokens& t = b.tokens;
  const int half = shape.head_dim / 2, group = shape.heads / shape.kv_heads, state = shape.head_dim + 2;
  b.cos.resize(size_t(t.count) * half);
  b.sin.resize(b.cos.size());
  const int longest = 1 + *std::max_element(t.positions, t.positions + t.count), parts = shape.kv_heads * spans_of(longest);
  // As large as is useful, and so small that every thread has several parts of the work.
  const int most = std::min(kTileRows / group, (t.count * parts + 4 * shape.threads - 1) / (4 * shape.threads));
  b.tiles.clear();
  for (int i = 0; i < t.count; i++) {
    for (int d = 0; d < half; d++) {
      const float angle = float(t.positions[i]) * frequencies_[d];
      b.cos[size_t(i) * half + d] = std::cos(angle);
      b.sin[size_t(i) * half + d] = std::sin(angle);
    }
    const bool follows = i && t.sequences[i] == t.sequences[i - 1] && t.positions[i] == t.positions[i - 1] + 1;
    if (follows && b.tiles.back().count < most) b.tiles.back().count++;
    else b.tiles.push_back({i, 1});
  }
  b.spans = spans_of(longest);
  const size_t items = b.tiles.size() * shape.kv_heads, rows = std::max(kTileRows, group);
  b.is_split = b.spans > 1 && items < size_t(4 * shape.threads);
  if (b.is_split) b.states.resize(items * b.spans * rows * state);
  b.scratch.resize(shape.threads);
  for (auto& s : b.scratch) s.resize(2 * rows * state);
}

// Softmax over all experts, the top k (the first wins a tie).
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
  if (shape.renormalizes)
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

// What comes between a projection and its rotation.
void Model::shape_heads(std::vector<float>& bias, std::vector<float>& norm, float* row, int heads) const {
  const int dim = shape.head_dim, width = int(norm.size());
  if (!bias.empty()) kernels.add(row, bias.data(), 1.f, heads * dim);
  for (int at = 0; width && at < heads * dim; at += width) kernels.rms_norm(row + at, norm.data(), shape.eps, row + at, width);
}

void Model::rotate_and_store(Batch& b, Layer& layer, int index, int thread) {
  const int dim = shape.head_dim, half = dim / 2;
  const int apart = shape.rotates_halves ? half : 1, next = shape.rotates_halves ? 1 : 2;
  const float scale = 1.f / std::sqrt(float(dim));
  Range mine = share(b.count, thread, shape.threads);
  for (int i = mine.begin; i < mine.end; i++) {
    const float *c = &b.cos[size_t(i) * half], *s = &b.sin[size_t(i) * half];
    auto rotate = [&](float* v) {
      for (int d = 0; d < half; d++) {
        float &x = v[d * next], &y = v[d * next + apart], a = x, e = y;
        x = a * c[d] - e * s[d];
        y = a * s[d] + e * c[d];
      }
    };
    float *q = b.q_out[i], *k = b.k_out[i], *v = b.v_out[i];
    shape_heads(layer.q_bias, layer.q_norm, q, shape.heads);
    shape_heads(layer.k_bias, layer.k_norm, k, shape.kv_heads);
    if (!layer.v_bias.empty()) kernels.add(v, layer.v_bias.data(), 1.f, shape.kv_heads * dim);
    for (int h = 0; h < shape.heads; h++) rotate(q + h * dim);
    for (int d = 0; d < shape.heads * dim; d++) q[d] *= scale;
    const int position = b.tokens.positions[i], page = b.tokens.page(i, position);
    for (int h = 0; h < shape.kv_heads; h++) {
      rotate(k + h * dim);
      uint8_t* to = keys(page, index, h);
      store(k + h * dim, to, position % kPage, true);
      store(v + h * dim, to + cache_bytes(shape.cache, dim), position % kPage, false);
    }
  }
}

// Writes a key, or a value, at a position of a page.
void Model::store(const float* x, uint8_t* block, int position, bool is_key) const {
  static thread_local std::vector<uint8_t> encoded;
  static thread_local std::vector<float> scales, sums;
  const int dim = shape.head_dim, groups = dim / kGroup, size = shape.cache == Cache::F32 ? 4 : shape.cache == Cache::F16 ? 2 : 1;
  const uint8_t* numbers = reinterpret_cast<const uint8_t*>(x);
  if (shape.cache != Cache::F32) {
    encoded.resize(size_t(size) * dim + 32);
    numbers = encoded.data();
  }
  if (shape.cache == Cache::F16) kernels.to_f16(x, reinterpret_cast<uint16_t*>(encoded.data()), dim);
  if (shape.cache == Cache::Q8) {
    scales.resize(groups);
    sums.resize(groups);
    kernels.quantize8(x, dim, reinterpret_cast<int8_t*>(encoded.data()), scales.data(), sums.data());
  }
  const size_t step = is_key ? kPage : 1, first = is_key ? position : size_t(position) * dim;
  for (int d = 0; d < dim; d++) std::memcpy(block + (first + d * step) * size, numbers + d * size, size);
  if (shape.cache != Cache::Q8) return;
  const size_t first_scale = is_key ? position : size_t(position) * groups;
  for (int g = 0; g < groups; g++) {
    const uint16_t scale = float_to_half(scales[g]);
    std::memcpy(block + size_t(kPage) * dim + 2 * (first_scale + g * step), &scale, 2);
  }
}

// The states of one tile's rows after span number `span` alone; rows of a token that ends before it stay empty.
void Model::attend_span(Batch& b, int index, int tile, int head, int span, float* states) {
  const int dim = shape.head_dim, group = shape.heads / shape.kv_heads, width = dim + 2;
  const Run run = b.tiles[tile];
  const float* q[kMostRows];
  float* state[kMostRows];
  for (int r = 0; r < run.count * group; r++) {
    q[r] = b.q_out[run.first + r / group] + (head * group + r % group) * dim;
    state[r] = states + size_t(r) * width;
    begin_state(state[r], dim);
  }
  const int first = b.tokens.positions[run.first], end = std::min((span + 1) * kSpan, first + run.count);
  for (int start = span * kSpan; start < end; start += kPage) {
    const uint8_t* k = keys(b.tokens.page(run.first, start), index, head);
    const uint8_t* v = k + cache_bytes(shape.cache, dim);
    if (start + kPage < end) fetch(keys(b.tokens.page(run.first, start + kPage), index, head), 2 * cache_bytes(shape.cache, dim));
    if (start + kPage <= first + 1) {  // every token sees the whole page
      kernels.attend(shape.cache, k, v, kPage, dim, q, state, run.count * group);
      continue;
    }
    for (int t = 0; t < run.count; t++) {
      const int valid = std::min(kPage, first + t + 1 - start);
      if (valid > 0) kernels.attend(shape.cache, k, v, valid, dim, q + t * group, state + t * group, group);
    }
  }
}

float* Model::split_states(Batch& b, int tile, int head, int span) {
  const size_t group = shape.heads / shape.kv_heads, rows = std::max<size_t>(kTileRows, group);
  return b.states.data() + ((size_t(tile) * shape.kv_heads + head) * b.spans + span) * rows * (shape.head_dim + 2);
}

// `states` takes in the next span's `others`, then the last one leaves the attended values. `span` counts from 0.
void Model::merge_span(Batch& b, int tile, int head, int span, float* states, const float* others) {
  const int dim = shape.head_dim, group = shape.heads / shape.kv_heads, width = dim + 2;
  const Run run = b.tiles[tile];
  for (int r = 0; r < run.count * group; r++) {
    const int token = run.first + r / group, last = b.tokens.positions[token] / kSpan;
    if (span > last) continue;
    float* state = states + size_t(r) * width;
    if (span == 0) std::copy(others + size_t(r) * width, others + size_t(r + 1) * width, state);
    else merge_state(state, others + size_t(r) * width, dim);
    if (span < last) continue;
    float* out = b.attn_out.row(token) + (head * group + r % group) * dim;
    for (int d = 0; d < dim; d++) out[d] = state[d] / state[dim + 1];
  }
}

void Model::attention(Batch& b, int index, int thread) {
  const int items = int(b.tiles.size()) * shape.kv_heads * (b.is_split ? b.spans : 1);
  for (int item; (item = b.next.fetch_add(1, std::memory_order_relaxed)) < items;) {
    const int span = b.is_split ? item % b.spans : 0, pair = b.is_split ? item / b.spans : item;
    const int tile = pair / shape.kv_heads, head = pair % shape.kv_heads;
    const Run run = b.tiles[tile];
    const int spans = spans_of(b.tokens.positions[run.first] + run.count);
    if (b.is_split) {
      if (span < spans) attend_span(b, index, tile, head, span, split_states(b, tile, head, span));
      continue;
    }
    float *states = b.scratch[thread].data(), *others = states + b.scratch[thread].size() / 2;
    for (int s = 0; s < spans; s++) {
      attend_span(b, index, tile, head, s, others);
      merge_span(b, tile, head, s, states, others);
    }
  }
}

// Brings together what several threads attended to.
void Model::join_spans(Batch& b, int thread) {
  const int items = int(b.tiles.size()) * shape.kv_heads;
  for (int item = thread; item < items; item += shape.threads) {
    const int tile = item / shape.kv_heads, head = item % shape.kv_heads;
    const Run run = b.tiles[tile];
    float* states = b.scratch[thread].data();
    const int spans = spans_of(b.tokens.positions[run.first] + run.count);
    for (int s = 0; s < spans; s++) merge_span(b, tile, head, s, states, split_states(b, tile, head, s));
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
  if (thread == 0) b.next = 0;
  rotate_and_store(b, layer, index, thread);
  if (layer.is_parallel()) expert_gate_up(b, layer, thread);  // needs nothing of attention
  pool_->barrier();
  attention(b, index, thread);
  if (layer.is_parallel())
    for (int t = thread; t < n * k; t += threads) b.expert_mid.finish(kernels, t);
  pool_->barrier();
  if (b.is_split) {
    join_spans(b, thread);
    pool_->barrier();
  }
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

namespace {

// Of a part of a row: the number and value of its first largest logit, and the logarithm of the sum of exponentials.
struct Part {
  int best = -1;
  float top = -INFINITY, log_sum = -INFINITY;
};

// The parts of a row in order: number of the largest, and the whole sum.
void join(const Part* parts, int count, float* summary) {
  Part whole = parts[0];
  for (int i = 1; i < count; i++) {
    const Part& next = parts[i];
    if (next.best < 0) continue;
    if (whole.best < 0 || next.top > whole.top) {
      whole.best = next.best;
      whole.top = next.top;
    }
    const float high = std::max(whole.log_sum, next.log_sum), low = std::min(whole.log_sum, next.log_sum);
    whole.log_sum = high + std::log1p(std::exp(low - high));
  }
  summary[0] = float(whole.best);
  summary[1] = whole.log_sum;
}

}  // namespace

void Model::step(const Tokens& tokens, const std::vector<int>& wanted, float* logits, float* summaries) {
  Batch& b = *batch_;
  const int count = b.count = tokens.count;
  b.tokens = tokens;
  prepare(b);
  const int hidden = shape.hidden, rows = int(wanted.size());
  b.head_in.resize(std::max(rows, 1), hidden, form_bit(head));
  std::vector<float*> out(rows);
  std::vector<Part> parts(summaries ? size_t(rows) * shape.threads : 0);
  for (int r = 0; r < rows; r++) out[r] = logits + size_t(r) * padded_vocab();
  pool_->run([&](int thread) {
    for (int i = thread; i < count; i += shape.threads) dequantize_row(embedding, tokens.ids[i], &b.x[size_t(i) * hidden]);
    pool_->barrier();
    for (int l = 0; l < shape.layers; l++) run_layer(b, layers[l], l, thread);
    for (int r = thread; r < rows; r += shape.threads) {
      kernels.rms_norm(&b.x[size_t(wanted[r]) * hidden], output_norm.data(), shape.eps, b.head_in.row(r), hidden);
      b.head_in.finish(kernels, r);
    }
    pool_->barrier();
    Range p = share(head.matrix.panels(), thread, shape.threads);
    if (!rows || p.begin >= p.end) return;
    kernels.matmul(head.matrix, p.begin, p.end, b.head_in.rows.data(), out.data(), rows);
    if (!summaries) return;
    const int first = p.begin * kPanelRows, last = std::min(p.end * kPanelRows, shape.vocab);
    for (int r = 0; r < rows && first < last; r++) {  // still in this thread's cache
      Part& part = parts[size_t(r) * shape.threads + thread];
      kernels.summarize(out[r] + first, nullptr, last - first, &part.best, &part.log_sum);
      if (part.best >= 0) part = {part.best + first, out[r][part.best + first], part.log_sum};
    }
  });
  for (int r = 0; r < rows && summaries; r++) join(&parts[size_t(r) * shape.threads], shape.threads, summaries + 2 * r);
}

}  // namespace openarctic
