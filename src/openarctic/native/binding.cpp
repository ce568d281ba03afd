// What Python sees: a Model that takes raw tensors once and then runs steps.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cstring>
#include <map>
#include <stdexcept>

#include "../formats/blocks.h"
#include "model.h"

namespace nb = nanobind;
using namespace openarctic;

using Bytes = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Floats = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Ints = nb::ndarray<const int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
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

Source source(nb::handle item) {
  nb::tuple t = nb::cast<nb::tuple>(item);
  Bytes bytes = nb::cast<Bytes>(t[3]);
  Source s{nb::cast<int>(t[0]), nb::cast<int>(t[1]), nb::cast<int>(t[2]), bytes.data()};
  if (bytes.size() != needed_bytes(s.type, s.rows, s.cols)) throw std::invalid_argument("tensor has " + std::to_string(bytes.size()) + " bytes, its shape needs others");
  return s;
}

std::vector<Source> sources(nb::list items) {
  std::vector<Source> out;
  for (nb::handle item : items) out.push_back(source(item));
  return out;
}

std::vector<float> floats(const Floats& a) { return {a.data(), a.data() + a.size()}; }

void set_vector(Model& m, int layer, const std::string& name, Floats values) {
  if (layer < 0) {
    m.output_norm = floats(values);
    return;
  }
  Layer& l = m.layers.at(layer);
  std::map<std::string, std::vector<float>*> slots{{"attn_norm", &l.attn_norm}, {"ffn_norm", &l.ffn_norm}, {"moe_norm", &l.moe_norm}, {"router", &l.router}};
  *slots.at(name) = floats(values);
}

void set_matrix(Model& m, int layer, const std::string& name, nb::list items, bool interleave) {
  std::vector<Source> all = sources(items);
  Weights w = repack(all, interleave);
  if (layer < 0) {
    m.head = std::move(w);
    return;
  }
  Layer& l = m.layers.at(layer);
  if (name == "expert_gate_up") return l.expert_gate_up.push_back(std::move(w));
  if (name == "expert_down") return l.expert_down.push_back(std::move(w));
  std::map<std::string, Weights*> slots{{"q", &l.q}, {"k", &l.k}, {"v", &l.v}, {"o", &l.o}, {"gate_up", &l.gate_up}, {"down", &l.down}};
  *slots.at(name) = std::move(w);
}

void set_embedding(Model& m, nb::tuple item) {
  Source s = source(item);
  size_t bytes = needed_bytes(s.type, s.rows, s.cols);
  m.embedding.assign(s.data, s.data + bytes);
  m.embedding_source = {s.type, s.rows, s.cols, m.embedding.data()};
}

void step(Model& m, Ints tokens, Ints sequences, Ints positions, std::vector<int> wanted, Logits logits) {
  const int n = int(tokens.size());
  if (!n || int(sequences.size()) != n || int(positions.size()) != n) throw std::invalid_argument("tokens, sequences and positions must have one length above 0");
  if (logits.shape(0) < wanted.size() || int(logits.shape(1)) != m.padded_vocab()) throw std::invalid_argument("logits must be [wanted, padded vocab]");
  for (int i = 0; i < n; i++) {
    if (tokens.data()[i] < 0 || tokens.data()[i] >= m.shape.vocab) throw std::out_of_range("token " + std::to_string(tokens.data()[i]) + " is outside the vocabulary");
    if (sequences.data()[i] < 0 || sequences.data()[i] >= m.shape.max_sequences) throw std::out_of_range("sequence out of range");
    if (positions.data()[i] < 0 || positions.data()[i] >= m.shape.max_context) throw std::out_of_range("position out of range");
  }
  for (int w : wanted)
    if (w < 0 || w >= n) throw std::out_of_range("wanted token out of range");
  nb::gil_scoped_release released;
  m.step(n, tokens.data(), sequences.data(), positions.data(), wanted, logits.data());
}

void copy(Model& m, int from, int to, int length) {
  if (std::min(from, to) < 0 || std::max(from, to) >= m.shape.max_sequences || length < 0 || length > m.shape.max_context) throw std::out_of_range("copy out of range");
  if (from != to) m.copy(from, to, length);
}

// out[t] = W x[t] by one table of kernels, quantised as in a step.
void matmul(const std::string& name, nb::tuple matrix, Values x, Logits out) {
  const Weights w = repack({source(matrix)}, false);
  const int count = int(x.shape(0));
  if (int(x.shape(1)) != w.matrix.cols || int(out.shape(0)) != count || int(out.shape(1)) != w.matrix.rows) throw std::invalid_argument("x must be [count, cols], out [count, rows in whole panels]");
  for (const Kernels* table : available_kernels()) {
    if (name != table->name) continue;
    Activations activations;
    activations.resize(count, w.matrix.cols, form_bit(w));
    std::vector<float*> rows(count);
    for (int t = 0; t < count; t++) {
      std::memcpy(activations.row(t), x.data() + size_t(t) * w.matrix.cols, w.matrix.cols * sizeof(float));
      activations.finish(*table, t);
      rows[t] = out.data() + size_t(t) * w.matrix.rows;
    }
    return table->matmul(w.matrix, 0, w.matrix.panels(), activations.rows.data(), rows.data(), count);
  }
  throw std::invalid_argument("no kernels named " + name);
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
  nb::class_<Model>(module, "Model")
      .def("__init__",
           [](Model* self, int hidden, int layers, int heads, int kv_heads, int head_dim, int vocab, int experts, int top_k, float eps, float theta, int max_sequences, int max_context, int threads, bool f16_cache, const std::string& kernels) {
             new (self) Model(Shape{hidden, layers, heads, kv_heads, head_dim, vocab, experts, top_k, eps, theta, max_sequences, max_context, threads, f16_cache}, kernels);
           },
           nb::kw_only(), nb::arg("hidden"), nb::arg("layers"), nb::arg("heads"), nb::arg("kv_heads"), nb::arg("head_dim"), nb::arg("vocab"), nb::arg("experts"), nb::arg("top_k"), nb::arg("eps"), nb::arg("theta"), nb::arg("max_sequences"), nb::arg("max_context"), nb::arg("threads"), nb::arg("f16_cache"), nb::arg("kernels"))
      .def("set_vector", &set_vector)
      .def("set_matrix", &set_matrix)
      .def("set_embedding", &set_embedding)
      .def("step", &step)
      .def("copy", &copy)
      .def_prop_ro("padded_vocab", &Model::padded_vocab)
      .def_prop_ro("weight_bytes", &Model::weight_bytes)
      .def_prop_ro("kernels", [](const Model& m) { return std::string(m.kernels.name); });
}
