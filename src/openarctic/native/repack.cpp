// From GGUF rows to panels.
#include <cmath>
#include <cstring>
#include <stdexcept>

#include "../formats/blocks.h"
#include "model.h"

namespace openarctic {
namespace {

size_t row_bytes(const Source& s) { return size_t(s.cols / layout_of(s.type).values) * layout_of(s.type).bytes; }

// Whether f16 holds `factor` times each of the `count` f16 numbers at the head of every block.
bool fits_half(const Source& s, int count, float factor) {
  const size_t bytes = layout_of(s.type).bytes, blocks = s.rows * (row_bytes(s) / bytes);
  for (size_t i = 0; i < blocks; i++)
    for (int n = 0; n < count; n++)
      if (std::fabs(load_half(s.data + i * bytes + 2 * n)) * factor > 65504) return false;
  return true;
}

Form form_of(const Source& s) {
  switch (s.type) {
    case F16: return Form::F16;
    case BF16: return Form::BF16;
    case Q8_0: return Form::Q8;
    case Q4_0: return fits_half(s, 1, 8) ? Form::Q4 : Form::F32;
    case Q4_1: return Form::Q4;
    case Q4_K: return fits_half(s, 2, 63) ? Form::Q4 : Form::F32;
    case Q5_0: return fits_half(s, 1, 16) ? Form::Q5 : Form::F32;
    case Q5_1: return Form::Q5;
    case Q5_K: return fits_half(s, 2, 63) ? Form::Q5 : Form::F32;
    case Q6_K: return Form::Q6;
  }
  return Form::F32;
}

// 32 columns of a row.
struct Codes {
  uint8_t head[4];  // f16 scale and f16 minimum; Q6: f16 scale and two int8 scales
  uint8_t code[kGroup];
};

void set_half(uint8_t* to, float value) {
  const uint16_t half = float_to_half(value);
  std::memcpy(to, &half, 2);
}

// Blocks of 32: a scale, perhaps a minimum, perhaps fifth bits, nibbles.
template <int type>
Codes read_simple(const uint8_t* block) {
  constexpr bool has_minimum = type == Q4_1 || type == Q5_1, has_fifth = type == Q5_0 || type == Q5_1;
  constexpr int head = has_minimum ? 4 : 2;
  Codes out;
  std::memcpy(out.head, block, head);
  if (!has_minimum) set_half(out.head + 2, (has_fifth ? -16 : -8) * load_half(block));
  const uint32_t fifth = has_fifth ? load<uint32_t>(block + head) : 0;
  block += has_fifth ? head + 4 : head;
  for (int c = 0; c < 16; c++) {
    out.code[c] = uint8_t((block[c] & 15) | (fifth >> c & 1) << 4);
    out.code[16 + c] = uint8_t((block[c] >> 4) | (fifth >> (16 + c) & 1) << 4);
  }
  return out;
}

// Sub-block s of Q4_K or Q5_K (formats/blocks.h).
Codes read_k_codes(int type, const uint8_t* block, int s) {
  Codes out;
  int scale, minimum;
  scale_and_minimum(block + kScalesK, s, &scale, &minimum);
  set_half(out.head, load_half(block) * float(scale));
  set_half(out.head + 2, -load_half(block + 2) * float(minimum));
  const uint8_t* nibbles = block + (type == Q4_K ? kLowQ4K : kLowQ5K) + 32 * (s / 2);
  for (int c = 0; c < kGroup; c++) {
    const int fifth = type == Q5_K ? block[kHighQ5K + c] >> s & 1 : 0;
    out.code[c] = uint8_t((nibbles[c] >> 4 * (s % 2) & 15) | fifth << 4);
  }
  return out;
}

// Values 32 * s ... of Q6_K (formats/blocks.h).
Codes read_q6_codes(const uint8_t* block, int s) {
  Codes out;
  std::memcpy(out.head, block + kScaleQ6K, 2);
  std::memcpy(out.head + 2, block + kScalesQ6K + 2 * s, 2);
  const uint8_t *low = block + 64 * (s / 4) + 32 * (s % 2), *high = block + kHighQ6K + 32 * (s / 4);
  for (int c = 0; c < kGroup; c++) out.code[c] = uint8_t((low[c] >> 4 * (s % 4 / 2) & 15) | (high[c] >> 2 * (s % 4) & 3) << 4);
  return out;
}

Codes read_codes(const Source& s, const uint8_t* row, int group) {
  const int groups = layout_of(s.type).values / kGroup, within = group % groups;
  const uint8_t* block = row + size_t(group / groups) * layout_of(s.type).bytes;
  switch (s.type) {
    case Q4_0: return read_simple<Q4_0>(block);
    case Q4_1: return read_simple<Q4_1>(block);
    case Q5_0: return read_simple<Q5_0>(block);
    case Q5_1: return read_simple<Q5_1>(block);
    case Q6_K: return read_q6_codes(block, within);
  }
  return read_k_codes(s.type, block, within);
}

template <Form F>
void pack_codes(const Codes& from, int r, uint8_t* block) {
  constexpr int extra = extra_bits(F);
  std::memcpy(block + 2 * r, from.head, 2);
  if (F == Form::Q6) {
    block[16 + r] = from.head[2];
    block[24 + r] = from.head[3];
  } else {
    std::memcpy(block + 16 + 2 * r, from.head + 2, 2);
  }
  for (int k = 0; k < 4; k++) {
    uint8_t* byte = block + kCodes + r * 4 + (F == Form::Q6 ? pair_order(k) : k);
    for (int j = 0; j < 4; j++, byte += 32) *byte = uint8_t((from.code[8 * j + k] & 15) | from.code[8 * j + 4 + k] << 4);
    if constexpr (extra > 0)
      for (int i = 0; i < 8; i++) byte[32 * (extra * i / 8)] |= uint8_t(from.code[4 * i + k] >> 4 << extra * i % 8);
  }
}

void pack_q8(const uint8_t* from, int r, uint8_t* block) {
  std::memcpy(block + 2 * r, from, 2);
  for (int c = 0; c < kGroup; c++) block[16 + (c / 2) * 16 + r * 2 + c % 2] = from[2 + c];
}

// `from` holds a row's numbers of `size` bytes.
void pack_floats(const uint8_t* from, int size, int cols, int r, uint8_t* panel) {
  for (int c = 0; c < cols; c++) std::memcpy(panel + (size_t(c) * kPanelRows + r) * size, from + c * size, size);
}

void pack_row(const Source& s, Form form, int row, int r, uint8_t* panel) {
  const uint8_t* from = s.data + row * row_bytes(s);
  if (form == Form::F32) {
    static thread_local std::vector<float> values;
    values.resize(s.cols);
    dequantize_row(s, row, values.data());
    return pack_floats(reinterpret_cast<const uint8_t*>(values.data()), 4, s.cols, r, panel);
  }
  if (is_float(form)) return pack_floats(from, 2, s.cols, r, panel);
  for (int g = 0; g < s.cols / kGroup; g++, panel += block_bytes(form)) {
    if (form == Form::Q8) pack_q8(from + g * layout_of(Q8_0).bytes, r, panel);
    else if (form == Form::Q4) pack_codes<Form::Q4>(read_codes(s, from, g), r, panel);
    else if (form == Form::Q5) pack_codes<Form::Q5>(read_codes(s, from, g), r, panel);
    else pack_codes<Form::Q6>(read_codes(s, from, g), r, panel);
  }
}

}  // namespace

Weights repack(const std::vector<Source>& sources, bool interleave) {
  const Source& first = sources.front();
  Weights w;
  Matrix& m = w.matrix;
  m.form = form_of(first);
  m.cols = first.cols;
  for (const Source& s : sources)
    if (form_of(s) != m.form) m.form = Form::F32;
  m.panel_bytes = block_bytes(m.form) * first.cols / kGroup;
  int panels = 0;
  for (const Source& s : sources) {
    if (s.cols != m.cols) throw std::invalid_argument("matrices that are read together must be equally wide");
    panels += (s.rows + kPanelRows - 1) / kPanelRows;
  }
  m.rows = panels * kPanelRows;
  w.bytes.assign(panels * m.panel_bytes, 0);
  int start = 0;
  for (size_t i = 0; i < sources.size(); i++) {
    for (int row = 0; row < sources[i].rows; row++) {
      int panel = interleave ? row / kPanelRows * int(sources.size()) + int(i) : start + row / kPanelRows;
      pack_row(sources[i], m.form, row, row % kPanelRows, w.bytes.data() + panel * m.panel_bytes);
    }
    start += (sources[i].rows + kPanelRows - 1) / kPanelRows;
  }
  m.data = w.bytes.data();
  return w;
}

void dequantize_row(const Source& s, int row, float* out) { read_values(s.type, s.data + row * row_bytes(s), s.cols, out); }

}  // namespace openarctic
