// Every table of kernels against the plain one, over odd sizes and all forms, and a tiny model against itself in other ways.
//
// A program of its own, without Python or a test framework, so that it runs under sanitizers and on emulated processors
// (CONTRIBUTING.md). Inputs stand in allocations of their exact size, so that an address sanitizer sees every read beyond them.
// Prints the number of checks, and the first failures; the exit status says whether there were any.
#include <algorithm>
#include <cmath>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "../../src/openarctic/formats/blocks.h"
#include "../../src/openarctic/native/model.h"

namespace {

using namespace openarctic;

long checks = 0, failures = 0;

__attribute__((format(printf, 2, 3))) void check(bool holds, const char* format, ...) {
  checks++;
  if (holds || ++failures > 20) return;
  va_list values;
  va_start(values, format);
  std::printf("FAILED: ");
  std::vprintf(format, values);
  std::printf("\n");
  va_end(values);
}

// The same numbers on every platform.
struct Random {
  uint64_t state;
  explicit Random(uint64_t seed) : state(seed * 0x9e3779b97f4a7c15u + 1) {}
  uint32_t bits() {
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return uint32_t(state * 0x2545f4914f6cdd1du >> 32);
  }
  int below(int n) { return int(bits() % uint32_t(n)); }
  float uniform() { return float(bits() >> 8) / 8388608.f - 1; }                              // -1 to 1
  float normal() { return (uniform() + uniform() + uniform()) * 1.f; }                        // variance 1
};

std::vector<float> normals(Random& random, int n, float scale = 1) {
  std::vector<float> out(n);
  for (float& v : out) v = scale * random.normal();
  return out;
}

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && (a.empty() || !std::memcmp(a.data(), b.data(), a.size() * sizeof(T)));
}

// ---- raw tensors of files

struct Named {
  int type;
  const char* name;
  std::vector<int> halves;  // where the f16 numbers of a block stand
  float error;              // of a product with quantised activations, relative to the norms of both vectors
};

constexpr float kFloat = 1e-6f, kInt16 = 5e-5f, kInt8 = 1e-2f;

const std::vector<Named> kTypes{{F32, "F32", {}, kFloat},       {F16, "F16", {}, kFloat},       {BF16, "BF16", {}, kFloat},
                                {Q8_0, "Q8_0", {0}, kInt16},    {Q4_0, "Q4_0", {0}, kInt8},     {Q4_1, "Q4_1", {0, 2}, kInt8},
                                {Q5_0, "Q5_0", {0}, kInt8},     {Q5_1, "Q5_1", {0, 2}, kInt8},  {Q4_K, "Q4_K", {0, 2}, kInt8},
                                {Q5_K, "Q5_K", {0, 2}, kInt8},  {Q6_K, "Q6_K", {kScaleQ6K}, kInt16}};

const Named& named(int type) {
  for (const Named& t : kTypes)
    if (t.type == type) return t;
  return kTypes[0];
}

void put_half(uint8_t* to, float value) {
  const uint16_t half = float_to_half(value);
  std::memcpy(to, &half, 2);
}

// Random codes under scales near `scale`.
std::vector<uint8_t> raw_tensor(Random& random, int type, int rows, int cols, float scale = 1) {
  const Layout layout = layout_of(type);
  const size_t count = size_t(rows) * cols;
  std::vector<uint8_t> out(count / layout.values * layout.bytes);
  if (layout.values == 1) {
    for (size_t i = 0; i < count; i++) {
      const float value = scale * random.normal();
      if (type == F32) std::memcpy(&out[4 * i], &value, 4);
      else if (type == F16) put_half(&out[2 * i], value);
      else std::memcpy(&out[2 * i], reinterpret_cast<const uint8_t*>(&value) + 2, 2);
    }
    return out;
  }
  for (uint8_t& byte : out) byte = uint8_t(random.bits());
  for (size_t at = 0; at < out.size(); at += layout.bytes)
    for (int h : named(type).halves) put_half(&out[at + h], scale * (random.uniform() + (random.below(2) ? 2 : -2)));
  return out;
}

// A repacked matrix in an allocation of its own.
struct Panels {
  Matrix matrix;
  struct Free {
    void operator()(uint8_t* p) const { ::operator delete(p, std::align_val_t(64)); }
  };
  std::unique_ptr<uint8_t, Free> bytes;

  Panels(const Source& source) {
    Arena arena;
    Pool pool(1);
    matrix = repack({source}, false, 1, arena, pool)[0].matrix;
    const size_t size = matrix.panel_bytes * matrix.panels();
    bytes.reset(static_cast<uint8_t*>(::operator new(size, std::align_val_t(64))));
    std::memcpy(bytes.get(), matrix.data, size);
    matrix.data = bytes.get();
  }
};

// Of random raw rows, for values of standard deviation 1 or so.
float usual_scale(int type) {
  switch (type) {
    case Q8_0: return 0.007f;
    case Q4_0: case Q4_1: return 0.1f;
    case Q5_0: case Q5_1: return 0.05f;
    case Q4_K: case Q5_K: return 0.002f;
    case Q6_K: return 0.0004f;
  }
  return 1;
}

// ---- activations, quantised by the plain kernels

struct Inputs {
  std::vector<std::vector<float>> f32, scale16, scale8, sum8;
  std::vector<std::vector<int16_t>> q16;
  std::vector<std::vector<int8_t>> q8;
  std::vector<Row> rows;

  void add(const std::vector<float>& x) {
    const int cols = int(x.size()), groups = cols / kGroup;
    f32.push_back(x);
    q16.emplace_back(cols);
    q8.emplace_back(cols);
    for (auto* v : {&scale16, &scale8, &sum8}) v->emplace_back(groups);
    plain_kernels().quantize16(f32.back().data(), cols, q16.back().data(), scale16.back().data());
    plain_kernels().quantize8(f32.back().data(), cols, q8.back().data(), scale8.back().data(), sum8.back().data());
    rows.push_back({f32.back().data(), q16.back().data(), q8.back().data(), scale16.back().data(), scale8.back().data(), sum8.back().data()});
  }
};

using Outputs = std::vector<std::vector<float>>;

// Panels p0..p1 for tokens first..first+count; what was not written is NaN.
Outputs multiply(const Kernels& table, const Matrix& w, int p0, int p1, const Inputs& x, int first, int count) {
  Outputs out(count, std::vector<float>(w.rows, std::nanf("")));
  std::vector<float*> rows;
  for (auto& row : out) rows.push_back(row.data());
  table.matmul(w, p0, p1, x.rows.data() + first, rows.data(), count);
  return out;
}

double norm(const std::vector<float>& v) {
  double sum = 0;
  for (float x : v) sum += double(x) * x;
  return std::sqrt(sum);
}

void check_product(int type, int rows, int cols, int count) {
  Random random(uint64_t(type) * 7919 + uint64_t(rows) * 131 + cols + count);
  const std::vector<uint8_t> raw = raw_tensor(random, type, rows, cols, usual_scale(type));
  const Source source{type, rows, cols, raw.data()};
  const Panels w(source);
  const int panels = w.matrix.panels();
  Inputs x;
  for (int t = 0; t < count; t++) x.add(normals(random, cols));
  const Outputs plain = multiply(plain_kernels(), w.matrix, 0, panels, x, 0, count);
  const char* name = named(type).name;
  std::vector<double> norms(rows);
  for (int r = 0; r < rows; r++) {
    std::vector<float> values(cols);
    dequantize_row(source, r, values.data());
    norms[r] = norm(values);
    for (int t = 0; t < count; t++) {
      double sum = 0;
      for (int c = 0; c < cols; c++) sum += double(values[c]) * x.f32[t][c];
      check(std::fabs(sum - plain[t][r]) <= named(type).error * norms[r] * norm(x.f32[t]), "plain %s %dx%d, token %d of %d, row %d: %g, not %g", name, rows, cols, t, count, r, plain[t][r], sum);
    }
  }
  for (const Kernels* table : available_kernels()) {
    const Outputs all = multiply(*table, w.matrix, 0, panels, x, 0, count);
    for (int t = 0; t < count; t++) {
      for (int r = 0; r < w.matrix.rows; r++) {
        const double limit = r < rows ? kFloat * norms[r] * norm(x.f32[t]) : 0;
        check(std::fabs(double(all[t][r]) - plain[t][r]) <= limit, "%s %s %dx%d, token %d of %d, row %d: %.9g, plain %.9g", table->name, name, rows, cols, t, count, r, all[t][r], plain[t][r]);
      }
      check(same_bits(all[t], multiply(*table, w.matrix, 0, panels, x, t, 1)[0]), "%s %s %dx%d: token %d of %d alone has other bits", table->name, name, rows, cols, t, count);
    }
    const int p0 = panels / 3, p1 = panels - panels / 4;
    const Outputs part = multiply(*table, w.matrix, p0, p1, x, 0, count);
    for (int t = 0; t < count; t++)
      for (int r = 0; r < w.matrix.rows; r++) {
        const bool inside = r / kPanelRows >= p0 && r / kPanelRows < p1;
        check(inside ? part[t][r] == all[t][r] : std::isnan(part[t][r]), "%s %s %dx%d, panels %d to %d, row %d: %g", table->name, name, rows, cols, p0, p1, r, part[t][r]);
      }
  }
}

// One scale and no minimum a row: only the integer sum can differ, and it must not.
void check_integer_sums(int type, int mode) {
  Random random(uint64_t(type) * 31 + mode);
  const int rows = 13, cols = layout_of(type).values;
  std::vector<uint8_t> raw = raw_tensor(random, type, rows, cols);
  const Layout layout = layout_of(type);
  for (int r = 0; r < rows; r++) {
    uint8_t* block = &raw[size_t(r) * layout.bytes];
    if (mode) std::memset(block, mode == 1 ? 0xff : type == Q8_0 ? 0x80 : 0, layout.bytes);
    for (int h : named(type).halves) put_half(block + h, h == 2 ? 0.f : 1.f);
    if (type != Q6_K) continue;
    std::memset(block + kScalesQ6K, 0, 16);
    block[kScalesQ6K + random.below(16)] = uint8_t(1 + random.below(255));
  }
  const Panels w({type, rows, cols, raw.data()});
  Inputs x;
  for (int t = 0; t < 9; t++) x.add(mode ? std::vector<float>(cols, t % 2 ? 1.f : -1.f) : normals(random, cols));
  for (const Kernels* table : available_kernels())
    for (int count : {1, 2, 3, 4, 9})
      check(multiply(*table, w.matrix, 0, 2, x, 0, count) == multiply(plain_kernels(), w.matrix, 0, 2, x, 0, count), "%s %s: integer sums (mode %d, %d tokens)", table->name, named(type).name, mode, count);
}

// ---- single functions

void check_quantize(const Kernels& table) {
  Random random(5);
  for (int groups = 1; groups <= 9; groups++)
    for (float scale : {1.f, 1e-30f, 1e30f, 1e-42f, 0.f}) {
      const int cols = groups * kGroup;
      std::vector<float> x = normals(random, cols, scale);
      if (groups == 3)
        for (int i = 0; i < kGroup; i++) x[i] = float(i % 2 ? i : -i) / 2;  // halves: ties
      if (groups == 3) x[0] = 127;
      std::vector<int16_t> q16[2] = {std::vector<int16_t>(cols), std::vector<int16_t>(cols)};
      std::vector<int8_t> q8[2] = {std::vector<int8_t>(cols), std::vector<int8_t>(cols)};
      std::vector<float> s16[2], s8[2], sum[2];
      for (int i = 0; i < 2; i++) {
        const Kernels& k = i ? plain_kernels() : table;
        for (auto* v : {&s16[i], &s8[i], &sum[i]}) v->resize(groups);
        k.quantize16(x.data(), cols, q16[i].data(), s16[i].data());
        k.quantize8(x.data(), cols, q8[i].data(), s8[i].data(), sum[i].data());
      }
      check(same_bits(q16[0], q16[1]) && same_bits(s16[0], s16[1]), "%s quantize16 of %d groups times %g", table.name, groups, scale);
      check(same_bits(q8[0], q8[1]) && same_bits(s8[0], s8[1]) && same_bits(sum[0], sum[1]), "%s quantize8 of %d groups times %g", table.name, groups, scale);
      for (int i = 0; i < cols; i++) {
        const float step16 = s16[0][i / kGroup], step8 = s8[0][i / kGroup], tiny = 1e-30f;
        check(std::fabs(float(q16[0][i]) * step16 - x[i]) <= 0.501f * step16 + tiny, "%s quantize16: %g is %d", table.name, x[i], q16[0][i]);
        check(std::fabs(float(q8[0][i]) * step8 - x[i]) <= 0.501f * step8 + tiny, "%s quantize8: %g is %d", table.name, x[i], q8[0][i]);
      }
    }
}

void check_vectors(const Kernels& table) {
  Random random(6);
  for (int n = 1; n <= 150; n++) {
    const std::vector<float> a = normals(random, n), b = normals(random, n);
    double sum = 0, squares = 0;
    for (int i = 0; i < n; i++) {
      sum += double(a[i]) * b[i];
      squares += double(a[i]) * a[i];
    }
    check(std::fabs(table.dot(a.data(), b.data(), n) - sum) <= 1e-6 * norm(a) * norm(b), "%s dot of %d", table.name, n);
    std::vector<float> out(n), in_place = a, added = a;
    table.rms_norm(a.data(), b.data(), 1e-5f, out.data(), n);
    table.rms_norm(in_place.data(), b.data(), 1e-5f, in_place.data(), n);
    check(same_bits(out, in_place), "%s rms_norm of %d in place", table.name, n);
    table.add(added.data(), b.data(), 0.37f, n);
    for (int i = 0; i < n; i++) {
      const double wanted = a[i] / std::sqrt(squares / n + double(1e-5f)) * b[i];
      check(std::fabs(out[i] - wanted) <= 1e-6 * std::fabs(wanted), "%s rms_norm of %d: %g, not %g", table.name, n, out[i], wanted);
      check(std::fabs(added[i] - (a[i] + double(0.37f) * b[i])) <= 1e-6, "%s add of %d", table.name, n);
    }
  }
}

void check_silu(const Kernels& table) {
  Random random(7);
  const int panels = 11;
  std::vector<float> pairs = normals(random, panels * 16, 4), out(panels * 8, 777.f);
  for (int r = 0; r < 8; r++) pairs[16 * 4 + r] = (r % 2 ? 1.f : -1.f) * std::pow(10.f, float(r - 3));  // 1e-3 to 1e4
  table.silu_pairs(pairs.data(), out.data(), 2, panels - 1);
  for (int i = 0; i < panels * 8; i++) {
    const int p = i / 8;
    const double gate = pairs[p * 16 + i % 8], wanted = gate / (1 + std::exp(-gate)) * pairs[p * 16 + 8 + i % 8];
    if (p < 2 || p == panels - 1) check(out[i] == 777.f, "%s silu_pairs wrote outside", table.name);
    else check(std::fabs(out[i] - wanted) <= 2e-6 * std::fabs(wanted) + 1e-30, "%s silu_pairs of %g: %g, not %g", table.name, gate, out[i], wanted);
  }
}

// Every half, what lies between two of them, and random bits.
void check_to_f16(const Kernels& table) {
  Random random(8);
  std::vector<float> x;
  for (uint32_t h = 0; h < 0x10000; h += 1 + (h & 7)) {
    const float value = half_to_float(uint16_t(h)), next = half_to_float(uint16_t(h + 1));
    if (std::isfinite(value) && std::isfinite(next)) x.insert(x.end(), {value, value + (next - value) / 2, value + (next - value) * 0.501f});
  }
  for (float v : {0.f, -0.f, 65504.f, 65519.99f, 65520.f, 1e30f, -1e30f, 1e-40f, INFINITY, -INFINITY}) x.push_back(v);
  while (x.size() % 8 || x.size() < 90000) {
    const float value = bits_as<float>(random.bits());
    if (!std::isnan(value)) x.push_back(value);
  }
  std::vector<uint16_t> out(x.size()), plain(x.size());
  table.to_f16(x.data(), out.data(), int(x.size()));
  plain_kernels().to_f16(x.data(), plain.data(), int(x.size()));
  for (size_t i = 0; i < x.size(); i++) {
    check(out[i] == plain[i], "%s to_f16 of %.9g: %04x, plain %04x", table.name, x[i], out[i], plain[i]);
    check(std::fabs(x[i]) >= 65520 || std::fabs(double(half_to_float(out[i])) - x[i]) <= std::fabs(x[i]) / 2048 + 3e-8, "%s to_f16 of %g: %04x", table.name, x[i], out[i]);
  }
}

void check_summarize(const Kernels& table) {
  Random random(11);
  for (int n : {1, 2, 7, 8, 9, 15, 31, 32, 63, 64, 65, 130, 1000, 1027})
    for (int share : {0, 1, 50, 100}) {  // percent that is allowed; 100: no mask
      std::vector<float> x = normals(random, n, share == 1 ? 40.f : 3.f);
      for (float& v : x) v = std::min(std::round(8 * v) / 8, 2.f);  // the largest occurs several times
      std::vector<uint8_t> bits((n + 7) / 8);
      for (uint8_t& byte : bits)
        for (int b = 0; b < 8; b++) byte = uint8_t(byte | int(random.below(100) < share) << b);
      int wanted = -1, best;
      float log_sum;
      const auto allowed = [&](int i) { return share == 100 || bits[i / 8] >> i % 8 & 1; };
      for (int i = 0; i < n; i++)
        if (allowed(i) && (wanted < 0 || x[i] > x[wanted])) wanted = i;
      double sum = 0;
      for (int i = 0; i < n; i++)
        if (allowed(i)) sum += std::exp(double(x[i]) - x[wanted]);
      table.summarize(x.data(), share == 100 ? nullptr : bits.data(), n, &best, &log_sum);
      check(best == wanted, "%s summarize of %d, %d %% allowed: place %d, not %d", table.name, n, share, best, wanted);
      if (wanted < 0) check(log_sum == -INFINITY, "%s summarize of %d without any allowed: %g", table.name, n, log_sum);
      else check(std::fabs(log_sum - (x[wanted] + std::log(sum))) <= 2e-6 + 3e-7 * std::fabs(x[wanted]), "%s summarize of %d, %d %% allowed: %.9g, not %.9g", table.name, n, share, log_sum, x[wanted] + std::log(sum));
    }
}

// ---- attention

const char* const kCaches[] = {"f32", "f16", "q8_0"};

// Keys (or values) of several pages, as bytes and as numbers [position][dim]. Behind the last position everything is NaN.
struct CacheRows {
  std::vector<std::vector<uint8_t>> pages;
  std::vector<std::vector<float>> numbers;

  CacheRows(Random& random, Cache cache, bool is_key, int positions, int dim) {
    for (int j = 0; j < positions; j++) {
      if (j % kPage == 0) pages.emplace_back(cache_bytes(cache, dim), 0xff);
      std::vector<float> x = normals(random, dim);
      uint8_t* page = pages.back().data();
      for (int d = 0; d < dim; d++) {
        const int p = j % kPage;
        const size_t at = is_key ? size_t(d) * kPage + p : size_t(p) * dim + d;
        if (cache == Cache::F32) std::memcpy(page + 4 * at, &x[d], 4);
        if (cache == Cache::F16) put_half(page + 2 * at, x[d]), x[d] = load_half(page + 2 * at);
        if (cache != Cache::Q8) continue;
        uint8_t* scale = page + size_t(kPage) * dim + 2 * (is_key ? size_t(d / kGroup) * kPage + p : size_t(p) * (dim / kGroup) + d / kGroup);
        if (d % kGroup == 0) put_half(scale, 0.02f + 0.01f * random.uniform());
        page[at] = uint8_t(random.bits());
        x[d] = float(int8_t(page[at])) * load_half(scale);
      }
      numbers.push_back(x);
    }
  }
};

// The states of all rows after all pages.
Outputs attend(const Kernels& table, Cache cache, const CacheRows& keys, const CacheRows& values, const Outputs& q, int dim) {
  Outputs states;
  std::vector<const float*> queries;
  std::vector<float*> rows;
  for (const auto& query : q) {
    states.push_back(std::vector<float>(dim + 2));
    states.back()[dim] = -INFINITY;
    queries.push_back(query.data());
  }
  for (auto& state : states) rows.push_back(state.data());
  const int positions = int(keys.numbers.size());
  for (size_t p = 0; p < keys.pages.size(); p++)
    table.attend(cache, keys.pages[p].data(), values.pages[p].data(), std::min(kPage, positions - int(p) * kPage), dim, queries.data(), rows.data(), int(q.size()));
  return states;
}

void check_attention(const Kernels& table, Cache cache, int dim, int positions, int rows, float loud) {
  Random random(uint64_t(dim) * 1000 + positions * 10 + rows);
  const CacheRows keys(random, cache, true, positions, dim), values(random, cache, false, positions, dim);
  Outputs q;
  for (int r = 0; r < rows; r++) q.push_back(normals(random, dim, loud / std::sqrt(float(dim))));
  const Outputs states = attend(table, cache, keys, values, q, dim);
  for (int r = 0; r < rows; r++) {
    std::vector<double> score(positions), wanted(dim);
    double top = -INFINITY, total = 0;
    for (int j = 0; j < positions; j++) {
      for (int d = 0; d < dim; d++) score[j] += double(q[r][d]) * keys.numbers[j][d];
      top = std::max(top, score[j]);
    }
    for (double& s : score) total += s = std::exp(s - top);
    for (int j = 0; j < positions; j++)
      for (int d = 0; d < dim; d++) wanted[d] += score[j] / total * values.numbers[j][d];
    bool near = std::fabs(states[r][dim] - top) <= 2e-6 * loud * (std::fabs(top) + 1);
    for (int d = 0; d < dim; d++) near = near && std::fabs(states[r][d] / states[r][dim + 1] - wanted[d]) <= 1e-5 * loud;
    check(near, "%s attend %s, dim %d, %d positions, row %d of %d", table.name, kCaches[int(cache)], dim, positions, r, rows);
    check(same_bits(states[r], attend(table, cache, keys, values, {q[r]}, dim)[0]), "%s attend %s, dim %d, %d positions: row %d of %d alone has other bits", table.name, kCaches[int(cache)], dim, positions, r, rows);
  }
}

void check_attentions(const Kernels& table) {
  for (Cache cache : {Cache::F32, Cache::F16, Cache::Q8})
    for (int dim : {8, 24, 32, 64, 96, 128}) {
      if (cache == Cache::Q8 && dim % kGroup) continue;
      for (int positions : {1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 70, 96}) {
        for (int rows : {1, 3, 6}) check_attention(table, cache, dim, positions, rows, 1);
        check_attention(table, cache, dim, positions, 2, 30);
        check_attention(table, cache, dim, positions, 4, 1);
        check_attention(table, cache, dim, positions, 16, 1);
      }
    }
}

// ---- a whole model

constexpr int kHidden = 64, kLayers = 2, kHeads = 4, kKvHeads = 2, kDim = 32, kWide = 96, kExperts = 5, kChosen = 2, kVocab = 75, kPages = 12;

struct Setting {
  const char* name;
  int type;
  Cache cache;
  bool is_parallel, has_norms;
};

// `count` matrices of `parts` blocks of rows that alternate.
std::vector<Weights> matrices(Model& model, Random& random, int type, int parts, int rows, int cols, int count) {
  std::vector<std::vector<uint8_t>> raws;
  std::vector<Source> sources;
  for (int i = 0; i < parts; i++) raws.push_back(raw_tensor(random, type, rows * count, cols, usual_scale(type) / std::sqrt(float(cols))));
  for (const auto& raw : raws) sources.push_back({type, rows, cols, raw.data()});
  return repack(sources, parts > 1, count, model.arena, model.pool());
}

std::vector<float> norm_weights(Random& random, int n) {
  std::vector<float> out = normals(random, n, 0.2f);
  for (float& v : out) v += 1;
  return out;
}

std::unique_ptr<Model> tiny_model(const Setting& s, const std::string& kernels, int threads) {
  Random random(9);
  const Shape shape{kHidden, kLayers, kHeads, kKvHeads, kDim, kVocab, kExperts, kChosen, 1e-5f, 1e4f, threads, kPages, s.cache, s.has_norms, true};
  auto model = std::make_unique<Model>(shape, kernels);
  for (Layer& l : model->layers) {
    l.attn_norm = norm_weights(random, kHidden);
    l.ffn_norm = norm_weights(random, kHidden);
    l.router = normals(random, kExperts * kHidden, 0.3f);
    if (s.has_norms) {
      l.q_norm = norm_weights(random, kDim);
      l.k_norm = norm_weights(random, kKvHeads * kDim);
      l.q_bias = normals(random, kHeads * kDim, 0.1f);
      l.k_bias = normals(random, kKvHeads * kDim, 0.1f);
      l.v_bias = normals(random, kKvHeads * kDim, 0.1f);
    }
    const auto one = [&](int rows, int cols) { return matrices(*model, random, s.type, 1, rows, cols, 1)[0]; };
    l.q = one(kHeads * kDim, kHidden);
    l.k = one(kKvHeads * kDim, kHidden);
    l.v = one(kKvHeads * kDim, kHidden);
    l.o = one(kHidden, kHeads * kDim);
    l.expert_gate_up = matrices(*model, random, s.type, 2, kWide, kHidden, kExperts);
    l.expert_down = matrices(*model, random, s.type, 1, kHidden, kWide, kExperts);
    if (!s.is_parallel) continue;
    l.moe_norm = norm_weights(random, kHidden);
    l.gate_up = matrices(*model, random, s.type, 2, kWide, kHidden, 1)[0];
    l.down = one(kHidden, kWide);
  }
  model->output_norm = norm_weights(random, kHidden);
  model->head = matrices(*model, random, s.type, 1, kVocab, kHidden, 1)[0];
  const std::vector<uint8_t> raw = raw_tensor(random, F32, kVocab, kHidden);
  uint8_t* own = model->arena.take(raw.size());
  std::memcpy(own, raw.data(), raw.size());
  model->embedding = {F32, kVocab, kHidden, own};
  return model;
}

// A token of sequence 0 or 1 at its position there.
struct Place {
  int id, sequence, position;
};

// Logits of all tokens, computed in steps of the given sizes. `pages` holds one row of four pages a sequence.
Outputs logits(Model& model, const std::vector<Place>& places, const std::vector<int>& steps, const std::vector<int>& pages) {
  Outputs out;
  size_t at = 0;
  for (int count : steps) {
    std::vector<int> ids, sequences, positions, wanted;
    for (int i = 0; i < count; i++, at++) {
      ids.push_back(places[at].id);
      sequences.push_back(places[at].sequence);
      positions.push_back(places[at].position);
      wanted.push_back(i);
    }
    std::vector<float> rows(size_t(count) * model.padded_vocab()), summaries(2 * size_t(count));
    model.step({count, ids.data(), sequences.data(), positions.data(), pages.data(), 4}, wanted, rows.data(), summaries.data());
    for (int i = 0; i < count; i++) {
      const float* row = &rows[size_t(i) * model.padded_vocab()];
      out.emplace_back(row, row + kVocab);
      check(summaries[2 * i] == float(std::max_element(row, row + kVocab) - row), "%s model: summary of token %d", model.kernels.name, i);
    }
  }
  return out;
}

double furthest(const Outputs& a, const Outputs& b) {
  double most = 0, size = 0;
  for (size_t t = 0; t < a.size(); t++)
    for (int v = 0; v < kVocab; v++) {
      const double difference = std::fabs(double(a[t][v]) - b[t][v]);
      most = difference <= most ? most : difference;  // keeps NaN
      size = std::max<double>(size, std::fabs(b[t][v]));
    }
  return most / size;
}

void check_model(const Setting& s) {
  Random random(10);
  std::vector<Place> one, both;
  for (int i = 0; i < 75; i++) one.push_back({random.below(kVocab), 0, i});
  for (int i = 0; i < 75; i++) {
    both.push_back(one[i]);
    if (i % 2) both.push_back({random.below(kVocab), 1, i / 2});
  }
  const std::vector<int> ordered{0, 1, 2, 3, 4, 5, 6, 7}, mixed{9, 2, 11, 4, 1, 7, 0, 3}, single(75, 1);
  const Outputs plain = logits(*tiny_model(s, "plain", 1), one, {75}, ordered);
  for (const Kernels* table : available_kernels()) {
    const auto model = [&](int threads) { return tiny_model(s, table->name, threads); };
    const Outputs whole = logits(*model(1), one, {75}, ordered);
    check(furthest(whole, plain) < 1e-4, "%s model %s: %g from the plain one", table->name, s.name, furthest(whole, plain));
    check(logits(*model(2), one, single, ordered) == whole, "%s model %s: one token at a time", table->name, s.name);
    check(logits(*model(3), one, {1, 4, 5, 33, 32}, mixed) == whole, "%s model %s: chunks, other pages, threads", table->name, s.name);
    const Outputs among = logits(*model(2), both, {3, 40, int(both.size()) - 43}, mixed);
    for (size_t i = 0; i < both.size(); i++)
      if (both[i].sequence == 0) check(among[i] == whole[both[i].position], "%s model %s: beside another sequence, token %d", table->name, s.name, both[i].position);
  }
}

void check_models() {
  const Setting settings[] = {{"F32", F32, Cache::F32, true, false},           {"F16, norms", F16, Cache::F32, false, true},
                              {"Q8_0", Q8_0, Cache::F32, true, true},          {"Q8_0, f16 cache", Q8_0, Cache::F16, true, false},
                              {"BF16, q8_0 cache", BF16, Cache::Q8, true, true}};
  for (const Setting& s : settings) check_model(s);
  // Activations of 8 bits turn differences of the last bit into steps: tables are not compared, only each with itself.
}

}  // namespace

int main() {
  for (const Named& t : kTypes) {
    const int values = layout_of(t.type).values;
    const std::vector<int> widths = values == 1 ? std::vector<int>{1, 7, 32, 40, 96} : values == 32 ? std::vector<int>{32, 96, 288} : std::vector<int>{256, 768};
    for (int rows : {1, 8, 13, 40})
      for (int cols : widths)
        for (int count : {1, 2, 3, 4, 5, 8, 13}) check_product(t.type, rows, cols, count);
    check_product(t.type, 29, widths.back(), 130);  // more than a tile
  }
  for (int type : {Q8_0, Q4_1, Q5_1, Q6_K})
    for (int mode = 0; mode < 3; mode++) check_integer_sums(type, mode);
  std::printf("products: %ld checks\n", checks);
  for (const Kernels* table : available_kernels()) {
    const long before = checks;
    check_quantize(*table);
    check_vectors(*table);
    check_silu(*table);
    check_to_f16(*table);
    check_summarize(*table);
    check_attentions(*table);
    std::printf("%s: %ld checks\n", table->name, checks - before);
  }
  check_models();
  std::printf("%ld checks, %ld failures\n", checks, failures);
  return failures > 0;
}
