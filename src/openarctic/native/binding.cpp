// What Python sees: a Model that takes raw tensors once and then runs steps.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <optional>
#include <stdexcept>

#include "../formats/blocks.h"
#include "limits.h"
#include "model.h"

namespace nb = nanobind;
using namespace openarctic;

using Bytes = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Floats = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Ints = nb::ndarray<const int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Tables = nb::ndarray<const int32_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Buffer = nb::ndarray<uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Values = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Logits = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

namespace {

// (type, rows, cols, bytes)
using Tensor = std::tuple<int, int, int, Bytes>;

size_t needed_bytes(int type, int rows, int cols) {
  const Layout layout = layout_of(type);
  if (!layout.values) throw std::invalid_argument("unknown tensor type " + std::to_string(type));
  if (cols % layout.values) throw std::invalid_argument("rows must be whole blocks of " + std::to_string(layout.values));
  return size_t(rows) * (cols / layout.values) * layout.bytes;
}

// `count` matrices of the shape that is told, one after the other.
Source source(nb::handle item, size_t count = 1) {
  nb::tuple t = nb::cast<nb::tuple>(item);
  Bytes bytes = nb::cast<Bytes>(t[3]);
  Source s{nb::cast<int>(t[0]), nb::cast<int>(t[1]), nb::cast<int>(t[2]), bytes.data()};
  if (s.rows < 1 || s.cols < 1 || bytes.size() != count * needed_bytes(s.type, s.rows, s.cols)) throw std::invalid_argument("tensor has " + std::to_string(bytes.size()) + " bytes, its shape needs others");
  return s;
}

std::vector<Source> sources(nb::list items, size_t count) {
  std::vector<Source> out;
  for (nb::handle item : items) out.push_back(source(item, count));
  if (out.empty()) throw std::invalid_argument("no matrix");
  return out;
}

std::vector<float> floats(const Floats& a) { return {a.data(), a.data() + a.size()}; }

struct Slot {
  std::vector<float>* values;
  std::vector<size_t> sizes;  // that are allowed
};

void set_vector(Model& m, int layer, const std::string& name, Floats values) {
  const Shape& s = m.shape;
  const size_t hidden = s.hidden, dim = s.head_dim, q = dim * s.heads, kv = dim * s.kv_heads;
  std::map<std::string, Slot> slots{{"output_norm", {&m.output_norm, {hidden}}}};
  if (layer >= 0) {
    Layer& l = m.layers.at(layer);
    slots = {{"attn_norm", {&l.attn_norm, {hidden}}}, {"ffn_norm", {&l.ffn_norm, {hidden}}}, {"moe_norm", {&l.moe_norm, {hidden}}}, {"router", {&l.router, {hidden * s.experts}}},
             {"q_bias", {&l.q_bias, {q}}}, {"k_bias", {&l.k_bias, {kv}}}, {"v_bias", {&l.v_bias, {kv}}}, {"q_norm", {&l.q_norm, {dim, q}}}, {"k_norm", {&l.k_norm, {dim, kv}}}};
  }
  const Slot& slot = slots.at(name);
  if (std::find(slot.sizes.begin(), slot.sizes.end(), values.size()) == slot.sizes.end()) throw std::invalid_argument(name + " has " + std::to_string(values.size()) + " numbers");
  *slot.values = floats(values);
}

std::vector<Weights> repacked(Model& m, nb::list items, bool interleave, int count) {
  const std::vector<Source> all = sources(items, count);
  nb::gil_scoped_release released;
  return repack(all, interleave, count, m.arena, m.pool());
}

// Where a matrix goes, or all experts' matrices.
struct Place {
  Weights* one = nullptr;
  std::vector<Weights>* experts = nullptr;
};

Place place_of(Model& m, int layer, const std::string& name) {
  if (layer < 0) {
    if (name != "head") throw std::invalid_argument("no matrix named " + name);
    return {&m.head};
  }
  Layer& l = m.layers.at(layer);
  if (name == "expert_gate_up") return {nullptr, &l.expert_gate_up};
  if (name == "expert_down") return {nullptr, &l.expert_down};
  std::map<std::string, Weights*> slots{{"q", &l.q}, {"k", &l.k}, {"v", &l.v}, {"o", &l.o}, {"gate_up", &l.gate_up}, {"down", &l.down}};
  return {slots.at(name)};
}

void put(const Place& place, std::vector<Weights> weights) {
  if (place.one) *place.one = weights[0];
  else *place.experts = std::move(weights);
}

// Each tensor of experts holds one matrix after the other.
void set_matrix(Model& m, int layer, const std::string& name, nb::list items, bool interleave) {
  const Place place = place_of(m, layer, name);
  put(place, repacked(m, items, interleave, place.one ? 1 : m.shape.experts));
}

// (form, rows with padding, cols, panels): what `lend_matrix` takes.
nb::tuple packed(nb::handle self, int layer, const std::string& name) {
  Model& m = nb::cast<Model&>(self);
  const Place place = place_of(m, layer, name);
  const size_t count = place.one ? 1 : place.experts->size();
  const Weights* first = place.one ? place.one : place.experts->data();
  if (!count || first->empty()) throw std::invalid_argument(name + " has not been set");
  const Matrix& matrix = first->matrix;
  const size_t bytes = count * matrix.panels() * matrix.panel_bytes;
  nb::ndarray<nb::numpy, const uint8_t, nb::ndim<1>> all(matrix.data, {bytes}, self);
  return nb::make_tuple(int(matrix.form), matrix.rows, matrix.cols, all);
}

// Panels that were packed before; they must stay as they are as long as the model lives.
void lend_matrix(Model& m, int layer, const std::string& name, int form, int rows, int cols, Bytes panels) {
  const Place place = place_of(m, layer, name);
  const size_t count = place.one ? 1 : m.shape.experts;
  if (form < 0 || form > int(Form::Q6) || rows < 1 || rows % kPanelRows || cols < 1 || (!is_float(Form(form)) && cols % kGroup)) throw std::invalid_argument("no panels have this form and shape");
  const size_t panel_bytes = block_bytes(Form(form)) * cols / kGroup, bytes = rows / kPanelRows * panel_bytes;
  if (panels.size() != count * bytes) throw std::invalid_argument("panels have " + std::to_string(panels.size()) + " bytes, their shape needs others");
  std::vector<Weights> weights(count);
  for (size_t i = 0; i < count; i++) weights[i].matrix = {Form(form), rows, cols, panels.data() + i * bytes, panel_bytes};
  put(place, std::move(weights));
  m.lent_bytes += panels.size();
}

void set_embedding(Model& m, nb::tuple item) {
  const Source s = source(item);
  const size_t bytes = needed_bytes(s.type, s.rows, s.cols);
  nb::gil_scoped_release released;
  uint8_t* own = m.arena.take(bytes);
  const size_t share = (bytes + m.shape.threads - 1) / m.shape.threads;
  m.pool().run([&](int thread) {
    const size_t start = std::min(bytes, thread * share);
    std::memcpy(own + start, s.data + start, std::min(bytes - start, share));
  });
  m.embedding = {s.type, s.rows, s.cols, own};
}

// Everything that a step will read or write stands within its bounds.
void check(const Model& m, const Tokens& t, size_t sequences) {
  std::map<int, int> ends;
  for (int i = 0; i < t.count; i++) {
    if (t.ids[i] < 0 || t.ids[i] >= m.shape.vocab) throw std::out_of_range("token " + std::to_string(t.ids[i]) + " is outside the vocabulary");
    if (t.sequences[i] < 0 || size_t(t.sequences[i]) >= sequences) throw std::out_of_range("sequence " + std::to_string(t.sequences[i]) + " has no table");
    if (t.positions[i] < 0 || t.positions[i] / kPage >= t.width) throw std::out_of_range("position " + std::to_string(t.positions[i]) + " is beyond the table");
    int& end = ends[t.sequences[i]];
    end = std::max(end, t.positions[i] / kPage + 1);
  }
  for (auto [sequence, end] : ends)
    for (int p = 0; p < end; p++) {
      const int page = t.tables[size_t(sequence) * t.width + p];
      if (page < 0 || page >= m.shape.pages) throw std::out_of_range("page " + std::to_string(page) + " does not exist");
    }
}

void step(Model& m, Ints ids, Ints sequences, Ints positions, Tables tables, std::vector<int> wanted, Logits logits, std::optional<Logits> summaries) {
  const int n = int(ids.size());
  if (!n || int(sequences.size()) != n || int(positions.size()) != n) throw std::invalid_argument("tokens, sequences and positions must have one length above 0");
  if (logits.shape(0) < wanted.size() || int(logits.shape(1)) != m.padded_vocab()) throw std::invalid_argument("logits must be [wanted, padded vocab]");
  if (summaries && (summaries->shape(0) < wanted.size() || summaries->shape(1) != 2)) throw std::invalid_argument("summaries must be [wanted, 2]");
  const Tokens tokens{n, ids.data(), sequences.data(), positions.data(), tables.data(), int(tables.shape(1))};
  check(m, tokens, tables.shape(0));
  for (int w : wanted)
    if (w < 0 || w >= n) throw std::out_of_range("wanted token out of range");
  nb::gil_scoped_release released;
  m.step(tokens, wanted, logits.data(), summaries ? summaries->data() : nullptr);
}

int page(const Model& m, int index) {
  if (index < 0 || index >= m.shape.pages) throw std::out_of_range("page " + std::to_string(index) + " does not exist");
  return index;
}

void copy_page(Model& m, int source, int target) { m.copy_page(page(m, source), page(m, target)); }

void read_page(Model& m, int index, Buffer out) {
  if (out.size() != m.page_bytes()) throw std::invalid_argument("a page has " + std::to_string(m.page_bytes()) + " bytes");
  m.read_page(page(m, index), out.data());
}

void write_page(Model& m, int index, Bytes bytes) {
  if (bytes.size() != m.page_bytes()) throw std::invalid_argument("a page has " + std::to_string(m.page_bytes()) + " bytes");
  m.write_page(page(m, index), bytes.data());
}

Cache cache_of(const std::string& name) {
  if (name == "f32") return Cache::F32;
  if (name == "f16") return Cache::F16;
  if (name == "q8_0") return Cache::Q8;
  throw std::invalid_argument("no cache type " + name);
}

const Kernels& kernels_named(const std::string& name) {
  for (const Kernels* table : available_kernels())
    if (name == table->name) return *table;
  throw std::invalid_argument("no kernels named " + name);
}

// A sum that any changed bit changes, at the speed of memory. No defence against an attacker.
uint64_t checksum(Bytes bytes, int threads) {
  if (threads < 1) throw std::invalid_argument("checksum needs a thread");
  nb::gil_scoped_release released;
  Pool pool(threads);
  return checksum_of(bytes.data(), bytes.size(), pool);
}

// The bytes of `count` matrices as panels, for tests.
nb::bytes panels(nb::list items, bool interleave, int count, int threads) {
  if (count < 1 || threads < 1) throw std::invalid_argument("panels need a matrix and a thread");
  Arena arena;
  Pool pool(threads);
  const std::vector<Weights> all = repack(sources(items, count), interleave, count, arena, pool);
  return nb::bytes(all[0].matrix.data, arena.used());
}

// out[t] = W x[t] by one table of kernels, quantised as in a step.
void matmul(const std::string& name, nb::tuple matrix, Values x, Logits out) {
  Arena arena;
  Pool pool(1);
  const Weights w = repack({source(matrix)}, false, 1, arena, pool)[0];
  const int count = int(x.shape(0));
  if (int(x.shape(1)) != w.matrix.cols || int(out.shape(0)) != count || int(out.shape(1)) != w.matrix.rows) throw std::invalid_argument("x must be [count, cols], out [count, rows in whole panels]");
  const Kernels& table = kernels_named(name);
  Activations activations;
  activations.resize(count, w.matrix.cols, form_bit(w));
  std::vector<float*> rows(count);
  for (int t = 0; t < count; t++) {
    std::memcpy(activations.row(t), x.data() + size_t(t) * w.matrix.cols, w.matrix.cols * sizeof(float));
    activations.finish(table, t);
    rows[t] = out.data() + size_t(t) * w.matrix.rows;
  }
  table.matmul(w.matrix, 0, w.matrix.panels(), activations.rows.data(), rows.data(), count);
}

double bandwidth(size_t bytes, int threads, int repetitions) {
  if (threads < 1 || repetitions < 1 || bytes < size_t(threads) * 256) throw std::invalid_argument("read_bandwidth needs a thread, a repetition and 256 bytes a thread");
  nb::gil_scoped_release released;
  return read_bandwidth(bytes, threads, repetitions);
}

std::map<std::string, double> peaks(const std::string& kernels, int threads) {
  if (threads < 1) throw std::invalid_argument("arithmetic_peaks needs a thread");
  nb::gil_scoped_release released;
  return arithmetic_peaks(kernels, threads);
}

// (first largest of the allowed logits or -1, log of the sum of their exponentials); `bits` has one bit a logit, empty: all.
std::pair<int, float> summarize(const std::string& name, Floats row, nb::bytes bits) {
  const size_t n = row.size();
  if (bits.size() && bits.size() < (n + 7) / 8) throw std::invalid_argument("fewer bits than logits");
  int best;
  float log_sum;
  kernels_named(name).summarize(row.data(), bits.size() ? reinterpret_cast<const uint8_t*>(bits.data()) : nullptr, int(n), &best, &log_sum);
  return {best, log_sum};
}

}  // namespace

NB_MODULE(_native, module) {
  module.doc() = "Whole-model steps over quantised weights.";
  module.def("available_kernels", [] {
    std::vector<std::string> names;
    for (const Kernels* table : available_kernels()) names.push_back(table->name);
    return names;
  });
  module.def("matmul", &matmul);
  module.def("checksum", &checksum, nb::arg("bytes"), nb::arg("threads"));
  module.def("panels", &panels, nb::arg("matrices"), nb::arg("interleave"), nb::arg("count"), nb::arg("threads"));
  module.def("read_bandwidth", &bandwidth, nb::arg("bytes"), nb::arg("threads"), nb::arg("repetitions"));
  module.def("arithmetic_peaks", &peaks, nb::arg("kernels"), nb::arg("threads"));
  module.def("summarize", &summarize);
  module.attr("PAGE_SIZE") = kPage;
  nb::class_<Model>(module, "Model")
      .def("__init__",
           [](Model* self, int hidden, int layers, int heads, int kv_heads, int head_dim, int vocab, int experts, int top_k, float eps, float theta, int threads, int pages, const std::string& cache_type, bool rotates_halves, bool renormalizes, const std::string& kernels) {
             new (self) Model(Shape{hidden, layers, heads, kv_heads, head_dim, vocab, experts, top_k, eps, theta, threads, pages, cache_of(cache_type), rotates_halves, renormalizes}, kernels);
           },
           nb::kw_only(), nb::arg("hidden"), nb::arg("layers"), nb::arg("heads"), nb::arg("kv_heads"), nb::arg("head_dim"), nb::arg("vocab"), nb::arg("experts"), nb::arg("top_k"), nb::arg("eps"), nb::arg("theta"), nb::arg("threads"), nb::arg("pages"), nb::arg("cache_type"), nb::arg("rotates_halves"), nb::arg("renormalizes"), nb::arg("kernels"))
      .def("set_vector", &set_vector)
      .def("set_matrix", &set_matrix)
      .def("packed", &packed)
      .def("lend_matrix", &lend_matrix, nb::keep_alive<1, 7>())
      .def("set_embedding", &set_embedding)
      .def("step", &step, nb::arg("tokens"), nb::arg("sequences"), nb::arg("positions"), nb::arg("tables"), nb::arg("wanted"), nb::arg("logits"), nb::arg("summaries") = nb::none())
      .def("copy_page", &copy_page)
      .def("read_page", &read_page)
      .def("write_page", &write_page)
      .def_prop_ro("page_bytes", &Model::page_bytes)
      .def_prop_ro("padded_vocab", &Model::padded_vocab)
      .def_prop_ro("weight_bytes", [](const Model& m) { return m.arena.used() + m.lent_bytes; })
      .def_prop_ro("kernels", [](const Model& m) { return std::string(m.kernels.name); });
}
