// What Python sees of the number types: a tensor's bytes from one type to another, rows shared over threads.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <atomic>
#include <optional>
#include <stdexcept>
#include <thread>
#include <vector>

#include "blocks.h"
#include "coder.h"
#include "processor.h"

namespace nb = nanobind;
using namespace openarctic;

using Bytes = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Out = nb::ndarray<uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Weights = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

namespace {

constexpr size_t kUnit = 8192;  // values that a thread takes at once; a multiple of every block

// Fastest first.
std::vector<const Coder*> coders() {
  std::vector<const Coder*> all;
#if defined(__GNUC__)
#if defined(__x86_64__)
  const Processor can = processor();
  const bool avx2 = can.avx2 && can.f16c;
  if (avx2 && can.avx512f && can.avx512bw) all.push_back(&avx512_coder());
  if (avx2) all.push_back(&avx2_coder());
#endif
  all.push_back(&vector_coder());
#endif
  all.push_back(&plain_coder());
  return all;
}

const Coder& coder_named(const std::string& name) {
  for (const Coder* coder : coders())
    if (name.empty() || name == coder->name) return *coder;
  throw std::invalid_argument("this processor has no coder named " + name);
}

Layout known_layout(int type) {
  Layout layout = layout_of(type);
  if (!layout.values) throw std::invalid_argument("unknown tensor type " + std::to_string(type));
  return layout;
}

size_t values_in(const Bytes& raw, Layout layout) {
  if (raw.size() % layout.bytes) throw std::invalid_argument("the bytes are no whole number of blocks");
  return raw.size() / layout.bytes * layout.values;
}

// Calls job(i) for i < count from up to `threads` threads.
template <class Job>
void share(size_t count, int threads, Job job) {
  std::atomic<size_t> next{0};
  const auto work = [&] {
    for (size_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < count;) job(i);
  };
  std::vector<std::thread> others;
  for (int i = 1; i < threads && size_t(i) < count; i++) others.emplace_back(work);
  work();
  for (std::thread& thread : others) thread.join();
}

// `weights`, if any, has one row for all rows of the tensor, or one for each of its equal parts (experts).
void encode(Bytes raw, int from, Out out, int to, std::optional<Weights> weights, int threads, const std::string& name) {
  const Coder& coder = coder_named(name);
  const Layout source = known_layout(from), target = known_layout(to);
  const size_t count = values_in(raw, source);
  if (count % target.values || out.size() != count / target.values * target.bytes) throw std::invalid_argument("out has another size");
  size_t unit = kUnit, units = (count + unit - 1) / unit, rows_each = 1;
  if (weights) {
    unit = weights->shape(1);
    units = unit ? count / unit : 0;
    if (!units || unit % target.values || unit % source.values || count % (unit * weights->shape(0))) throw std::invalid_argument("the weights do not fit the rows");
    rows_each = units / weights->shape(0);
  }
  nb::gil_scoped_release released;
  share(units, threads, [&](size_t i) {
    static thread_local std::vector<float> values;
    const size_t at = i * unit, size = std::min(unit, count - at);
    values.resize(size);
    coder.read(from, raw.data() + at / source.values * source.bytes, size, values.data());
    coder.write(to, values.data(), size, weights ? weights->data() + i / rows_each * unit : nullptr, out.data() + at / target.values * target.bytes);
  });
}

template <class Word>
bool is_finite(const uint8_t* at, Word exponent) {
  return (load<Word>(at) & exponent) != exponent;
}

// Index of the first value that is not finite (of blocks: in the first block whose scale or minimum is not).
std::optional<size_t> first_not_finite(Bytes raw, int type) {
  const Layout layout = known_layout(type);
  values_in(raw, layout);
  nb::gil_scoped_release released;
  const auto search = [&](size_t bytes, auto is_good) -> std::optional<size_t> {
    constexpr size_t kStep = 1024;
    for (size_t from = 0; from < raw.size(); from += kStep * bytes) {
      const size_t end = std::min(raw.size(), from + kStep * bytes);
      bool good = true;
      for (size_t at = from; at < end; at += bytes) good &= is_good(raw.data() + at);
      if (good) continue;
      for (size_t at = from; at < end; at += bytes)
        if (!is_good(raw.data() + at)) return at / bytes * layout.values;
    }
    return std::nullopt;
  };
  const auto half = [](const uint8_t* at) { return is_finite<uint16_t>(at, 0x7c00); };
  switch (type) {
    case F32: return search(4, [](const uint8_t* at) { return is_finite<uint32_t>(at, 0x7f800000); });
    case BF16: return search(2, [](const uint8_t* at) { return is_finite<uint16_t>(at, 0x7f80); });
    case F16: return search(2, half);
    case Q6_K: return search(layout.bytes, [&](const uint8_t* at) { return half(at + kScaleQ6K); });
    case Q4_0: case Q5_0: case Q8_0: return search(layout.bytes, half);
  }
  return search(layout.bytes, [&](const uint8_t* at) { return half(at) && half(at + 2); });
}

}  // namespace

NB_MODULE(_quants, module) {
  module.doc() = "Number types of GGUF tensors.";
  module.def("coders", [] {
    std::vector<std::string> names;
    for (const Coder* coder : coders()) names.push_back(coder->name);
    return names;
  });
  module.def("encode", &encode, nb::arg("raw"), nb::arg("source_type"), nb::arg("out"), nb::arg("type"), nb::arg("weights").none(), nb::arg("threads"), nb::arg("coder"));
  module.def("first_not_finite", &first_not_finite, nb::arg("raw"), nb::arg("type"));
}
