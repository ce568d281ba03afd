// What Python sees of the suffix tree: numbers of texts and lists of tokens.
#include <nanobind/nanobind.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>

#include "suffix.h"

namespace nb = nanobind;
using openarctic::SuffixDraft;
using openarctic::SuffixTree;

NB_MODULE(_suffix, m) {
  nb::class_<SuffixTree>(m, "SuffixTree")
      .def(
          "__init__",
          [](SuffixTree* self, int depth) {
            if (depth < 1) throw std::invalid_argument("the depth must be at least 1");
            new (self) SuffixTree(depth);
          },
          nb::arg("depth"))
      .def("append", &SuffixTree::append, nb::arg("text_id"), nb::arg("tokens"))
      .def("remove", &SuffixTree::remove, nb::arg("text_id"))
      .def("count", &SuffixTree::count, nb::arg("tokens"))
      .def("__contains__", &SuffixTree::contains)
      .def(
          "draft",
          [](const SuffixTree& tree, int64_t text, int limit, double alpha, double offset, double floor) {
            SuffixDraft draft = tree.draft(text, limit, alpha, offset, floor);
            return nb::make_tuple(std::move(draft.tokens), std::move(draft.probabilities), draft.match_length);
          },
          nb::arg("text_id"), nb::arg("limit"), nb::arg("alpha"), nb::arg("offset"), nb::arg("floor"))
      .def_prop_ro("depth", &SuffixTree::depth)
      .def_prop_ro("num_nodes", &SuffixTree::nodes)
      .def_prop_ro("num_bytes", &SuffixTree::bytes);
}
