// A panel is made in one pass over its 8 rows, groups of 32 columns at a time, codes four to a word.
#include "repack.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <stdexcept>

#include "../formats/blocks.h"
#include "transpose.h"

namespace openarctic {
namespace {

constexpr float kLargestHalf = 65504;
constexpr size_t kPieceBytes = 1 << 18;  // what a thread takes at a time

size_t row_bytes(const Source& s) { return size_t(s.cols / layout_of(s.type).values) * layout_of(s.type).bytes; }
int panels_of(const Source& s) { return (s.rows + kPanelRows - 1) / kPanelRows; }

// Unless a product of scales does not fit f16, see Packer.
Form form_of(int type) {
  switch (type) {
    case F16: return Form::F16;
    case BF16: return Form::BF16;
    case Q8_0: return Form::Q8;
    case Q4_0: case Q4_1: case Q4_K: return Form::Q4;
    case Q5_0: case Q5_1: case Q5_K: return Form::Q5;
    case Q6_K: return Form::Q6;
  }
  return Form::F32;
}

// 32 columns of a row.
struct Codes {
  uint8_t head[4];    // f16 scale and f16 minimum; Q6: f16 scale and two int8 scales
  uint32_t words[8];  // byte k of word i is the code of column 4i + k
};

constexpr uint32_t kNibbles = 0x0f0f0f0f;

// Bits 0..3 in the lowest bits of four bytes.
uint32_t spread(uint32_t bits) { return (bits & 15) * 0x00204081u & 0x01010101u; }

void set_half(uint8_t* to, uint16_t half) { std::memcpy(to, &half, 2); }

// Writes `factor` times a scale. False: no f16 holds it.
bool set_product(uint8_t* to, const uint8_t* scale, float factor) {
  const float product = load_half(scale) * factor;
  set_half(to, float_to_half(product));
  return !(std::fabs(product) > kLargestHalf);
}

// Writes -(2 ^ power) times a scale. False: no f16 holds it.
bool set_negative(uint8_t* to, const uint8_t* scale, int power) {
  const uint16_t half = load<uint16_t>(scale), exponent = half >> 10 & 31;
  if (exponent == 0 || exponent + power > 30) return set_product(to, scale, -float(1 << power));
  set_half(to, uint16_t((half + (power << 10)) ^ 0x8000));
  return true;
}

// Blocks of 32: a scale, perhaps a minimum, perhaps fifth bits, nibbles.
template <int type>
bool read_simple(const uint8_t* block, Codes& out) {
  constexpr bool has_minimum = type == Q4_1 || type == Q5_1, has_fifth = type == Q5_0 || type == Q5_1;
  constexpr int head = has_minimum ? 4 : 2;
  bool fits = true;
  std::memcpy(out.head, block, head);
  if (!has_minimum) fits = set_negative(out.head + 2, block, has_fifth ? 4 : 3);
  const uint32_t fifth = has_fifth ? load<uint32_t>(block + head) : 0;
  block += has_fifth ? head + 4 : head;
  for (int i = 0; i < 4; i++) {
    const uint32_t word = load<uint32_t>(block + 4 * i);
    out.words[i] = word & kNibbles;
    out.words[4 + i] = word >> 4 & kNibbles;
  }
  if (has_fifth)
    for (int i = 0; i < 8; i++) out.words[i] |= spread(fifth >> 4 * i) << 4;
  return fits;
}

// Sub-block s of Q4_K or Q5_K (formats/blocks.h).
template <int type>
bool read_k(const uint8_t* block, int s, Codes& out) {
  int scale, minimum;
  scale_and_minimum(block + kScalesK, s, &scale, &minimum);
  const bool fits = set_product(out.head, block, float(scale)) & set_product(out.head + 2, block + 2, -float(minimum));
  const uint8_t* nibbles = block + (type == Q4_K ? kLowQ4K : kLowQ5K) + 32 * (s / 2);
  for (int i = 0; i < 8; i++) {
    out.words[i] = load<uint32_t>(nibbles + 4 * i) >> 4 * (s % 2) & kNibbles;
    if (type == Q5_K) out.words[i] |= (load<uint32_t>(block + kHighQ5K + 4 * i) >> s & 0x01010101u) << 4;
  }
  return fits;
}

// Values 32 * s ... of Q6_K (formats/blocks.h).
bool read_q6(const uint8_t* block, int s, Codes& out) {
  std::memcpy(out.head, block + kScaleQ6K, 2);
  std::memcpy(out.head + 2, block + kScalesQ6K + 2 * s, 2);
  const uint8_t *low = block + 64 * (s / 4) + 32 * (s % 2), *high = block + kHighQ6K + 32 * (s / 4);
  for (int i = 0; i < 8; i++) out.words[i] = (load<uint32_t>(low + 4 * i) >> 4 * (s % 4 / 2) & kNibbles) | (load<uint32_t>(high + 4 * i) >> 2 * (s % 4) & 0x03030303u) << 4;
  return true;
}

template <int type>
bool read_codes(const uint8_t* row, int group, Codes& out) {
  constexpr int groups = layout_of(type).values / kGroup;
  const uint8_t* block = row + size_t(group / groups) * layout_of(type).bytes;
  if constexpr (groups == 1) return read_simple<type>(block, out);
  else if constexpr (type == Q6_K) return read_q6(block, group % groups, out);
  else return read_k<type>(block, group % groups, out);
}

// pair_order of the bytes of a word.
template <Form F>
uint32_t ordered(uint32_t word) {
  return F == Form::Q6 ? (word & 0xff0000ffu) | (word & 0xff00) << 8 | (word >> 8 & 0xff00) : word;
}

template <Form F>
void write_codes(const Codes& from, int r, uint8_t* block) {
  constexpr int extra = extra_bits(F);
  std::memcpy(block + 2 * r, from.head, 2);
  if (F == Form::Q6) {
    block[16 + r] = from.head[2];
    block[24 + r] = from.head[3];
  } else {
    std::memcpy(block + 16 + 2 * r, from.head + 2, 2);
  }
  uint32_t vectors[4 + extra] = {};
  for (int j = 0; j < 4; j++) vectors[j] = (from.words[2 * j] & kNibbles) | (from.words[2 * j + 1] & kNibbles) << 4;
  if constexpr (extra > 0)
    for (int i = 0; i < 8; i++) vectors[4 + extra * i / 8] |= (from.words[i] >> 4 & kNibbles) << extra * i % 8;
  for (int j = 0; j < 4 + extra; j++) {
    const uint32_t word = ordered<F>(vectors[j]);
    std::memcpy(block + kCodes + 32 * j + 4 * r, &word, 4);
  }
}

using Rows = const uint8_t* const*;  // 8 of them

template <int type>
bool pack_codes(Rows rows, int cols, uint8_t* panel) {
  constexpr Form form = type == Q6_K ? Form::Q6 : type == Q5_0 || type == Q5_1 || type == Q5_K ? Form::Q5 : Form::Q4;
  bool fits = true;
  for (int g = 0; g < cols / kGroup; g++, panel += block_bytes(form))
    for (int r = 0; r < kPanelRows; r++) {
      Codes codes;
      fits &= read_codes<type>(rows[r], g, codes);
      write_codes<form>(codes, r, panel);
    }
  return fits;
}

void pack_q8(Rows rows, int cols, uint8_t* panel) {
  const size_t bytes = layout_of(Q8_0).bytes;
  for (int g = 0; g < cols / kGroup; g++, panel += block_bytes(Form::Q8)) {
    for (int r = 0; r < kPanelRows; r++) std::memcpy(panel + 2 * r, rows[r] + g * bytes, 2);
    transpose_8_halves(rows, g * bytes + 2, panel + 16);
    transpose_8_halves(rows, g * bytes + 18, panel + 16 + 128);
  }
}

void pack_halves(Rows rows, int cols, uint8_t* panel) {
  int c = 0;
  for (; c + 8 <= cols; c += 8) transpose_8_halves(rows, size_t(c) * 2, panel + size_t(c) * 16);
  transpose_plain<2>(rows, size_t(c) * 2, cols - c, panel + size_t(c) * 16);
}

void pack_words(Rows rows, int cols, uint8_t* panel) {
  int c = 0;
  for (; c + 4 <= cols; c += 4) transpose_4_words(rows, size_t(c) * 4, panel + size_t(c) * 32);
  transpose_plain<4>(rows, size_t(c) * 4, cols - c, panel + size_t(c) * 32);
}

// Any type as floats: what is read together with another form, or what no narrower form holds.
void pack_values(int type, Rows rows, int cols, float* scratch, uint8_t* panel) {
  const uint8_t* read[kPanelRows];
  for (int r = 0; r < kPanelRows; r++) {
    float* values = scratch + size_t(r) * cols;
    read_values(type, rows[r], cols, values);
    read[r] = reinterpret_cast<const uint8_t*>(values);
  }
  pack_words(read, cols, panel);
}

// False: `form` cannot hold what stands there. `scratch` has room for 8 rows of floats.
bool pack_panel(int type, Form form, Rows rows, int cols, float* scratch, uint8_t* panel) {
  if (form == Form::F32) {
    pack_values(type, rows, cols, scratch, panel);
    return true;
  }
  switch (type) {
    case F16: case BF16: pack_halves(rows, cols, panel); return true;
    case Q8_0: pack_q8(rows, cols, panel); return true;
    case Q4_0: return pack_codes<Q4_0>(rows, cols, panel);
    case Q4_1: return pack_codes<Q4_1>(rows, cols, panel);
    case Q4_K: return pack_codes<Q4_K>(rows, cols, panel);
    case Q5_0: return pack_codes<Q5_0>(rows, cols, panel);
    case Q5_1: return pack_codes<Q5_1>(rows, cols, panel);
    case Q5_K: return pack_codes<Q5_K>(rows, cols, panel);
    case Q6_K: return pack_codes<Q6_K>(rows, cols, panel);
  }
  return false;
}

// Which rows make up which panels.
struct Packer {
  const std::vector<Source>& sources;
  const bool interleave;
  const int count;
  int panels = 0;  // of one matrix
  std::vector<uint8_t> zeros;  // a row that is not there

  Packer(const std::vector<Source>& all, bool alternate, int matrices) : sources(all), interleave(alternate), count(matrices) {
    size_t longest = 0;
    for (const Source& s : sources) {
      if (s.cols != sources[0].cols) throw std::invalid_argument("matrices that are read together must be equally wide");
      if (interleave && s.rows != sources[0].rows) throw std::invalid_argument("matrices that alternate must be equally high");
      panels += panels_of(s);
      longest = std::max(longest, row_bytes(s));
    }
    zeros.assign(longest, 0);
  }

  bool pack(int matrix, int panel, Form form, float* scratch, uint8_t* to) const {
    int source = 0;
    if (interleave) {
      source = panel % int(sources.size());
      panel /= int(sources.size());
    } else {
      for (; panel >= panels_of(sources[source]); source++) panel -= panels_of(sources[source]);
    }
    const Source& s = sources[source];
    const size_t bytes = row_bytes(s);
    const uint8_t* rows[kPanelRows];
    for (int r = 0; r < kPanelRows; r++) {
      const int row = panel * kPanelRows + r;
      rows[r] = row < s.rows ? s.data + (size_t(matrix) * s.rows + row) * bytes : zeros.data();
    }
    return pack_panel(s.type, form, rows, s.cols, scratch, to);
  }

  // False: `form` cannot hold all of it.
  bool run(Form form, size_t panel_bytes, uint8_t* to, Pool& pool) const {
    const size_t total = size_t(panels) * count, piece = std::max<size_t>(1, kPieceBytes / panel_bytes);
    std::atomic<size_t> next{0};
    std::atomic<bool> fits{true};
    const size_t floats = form == Form::F32 ? size_t(kPanelRows) * sources[0].cols : 0;
    std::vector<float> scratch(floats * pool.size());
    pool.run([&](int thread) {
      for (size_t start = next.fetch_add(piece); start < total && fits; start = next.fetch_add(piece))
        for (size_t i = start; i < std::min(total, start + piece); i++)
          if (!pack(int(i / panels), int(i % panels), form, scratch.data() + thread * floats, to + i * panel_bytes)) fits = false;
    });
    return fits;
  }
};

constexpr uint64_t kPrime = 0x9e3779b97f4a7c15;
constexpr size_t kSumBytes = 1 << 20;
constexpr int kLanes = 4;  // one multiplication a cycle

// Every step of a lane is one-to-one in what it has and in what it takes in, so that no single change is lost.
uint64_t piece_sum(const uint8_t* bytes, size_t count) {
  uint64_t lanes[kLanes];
  for (int i = 0; i < kLanes; i++) lanes[i] = uint64_t(i + 1);
  size_t at = 0;
  for (; at + 8 * kLanes <= count; at += 8 * kLanes)
    for (int i = 0; i < kLanes; i++) lanes[i] = (lanes[i] + load<uint64_t>(bytes + at + 8 * i)) * kPrime;
  uint64_t sum = count;
  for (uint64_t lane : lanes) sum = (sum + (lane ^ lane >> 29)) * kPrime;
  for (; at < count; at++) sum = (sum + bytes[at]) * kPrime;
  return sum ^ sum >> 32;
}

}  // namespace

uint64_t checksum_of(const uint8_t* bytes, size_t count, Pool& pool) {
  const size_t pieces = (count + kSumBytes - 1) / kSumBytes;
  std::vector<uint64_t> sums(pieces);
  std::atomic<size_t> next{0};
  pool.run([&](int) {
    for (size_t i = next++; i < pieces; i = next++) sums[i] = piece_sum(bytes + i * kSumBytes, std::min(kSumBytes, count - i * kSumBytes));
  });
  uint64_t total = count;
  for (uint64_t sum : sums) {
    total = (total ^ sum) * kPrime;
    total ^= total >> 32;
  }
  return total;
}

std::vector<Weights> repack(const std::vector<Source>& sources, bool interleave, int count, Arena& arena, Pool& pool) {
  const Packer packer(sources, interleave, count);
  Form form = form_of(sources[0].type);
  for (const Source& s : sources)
    if (form_of(s.type) != form) form = Form::F32;
  const int cols = sources[0].cols;
  size_t panel_bytes = 0;
  uint8_t* data = nullptr;
  for (;; form = Form::F32) {
    panel_bytes = block_bytes(form) * cols / kGroup;
    const size_t bytes = packer.panels * panel_bytes * count;
    data = arena.take(bytes);
    if (packer.run(form, panel_bytes, data, pool)) break;
    arena.give_back(bytes);
  }
  std::vector<Weights> out(count);
  for (int i = 0; i < count; i++) out[i].matrix = {form, packer.panels * kPanelRows, cols, data + i * packer.panels * panel_bytes, panel_bytes};
  return out;
}

void dequantize_row(const Source& s, int row, float* out) { read_values(s.type, s.data + row * row_bytes(s), s.cols, out); }

}  // namespace openarctic
