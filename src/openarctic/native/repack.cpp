// From GGUF rows to panels. Types without a form of their own are widened to F32.
#include <cstring>
#include <stdexcept>

#include "../formats/blocks.h"
#include "model.h"

namespace openarctic {
namespace {

size_t row_bytes(const Source& s) { return size_t(s.cols / layout_of(s.type).values) * layout_of(s.type).bytes; }
Form form_of(int type) { return type == Q8_0 ? Form::Q8 : type == Q4_0 || type == Q4_1 ? Form::Q4 : Form::F32; }

int nibble(const uint8_t* bytes, int i) { return i < 16 ? bytes[i] & 15 : bytes[i - 16] >> 4; }

void pack_q8(const uint8_t* from, int r, uint8_t* block) {
  std::memcpy(block + 2 * r, from, 2);
  for (int c = 0; c < kGroup; c++) block[16 + (c / 2) * 16 + r * 2 + c % 2] = from[2 + c];
}

void pack_q4(const uint8_t* from, int type, int r, uint8_t* block) {
  std::memcpy(block + 2 * r, from, 2);
  uint16_t minimum;
  std::memcpy(&minimum, from, 2);
  if (type == Q4_0) minimum = float_to_half(-8 * half_to_float(minimum));
  else std::memcpy(&minimum, from + 2, 2);
  std::memcpy(block + 16 + 2 * r, &minimum, 2);
  const uint8_t* nibbles = from + (type == Q4_0 ? 2 : 4);
  for (int c = 0; c < kGroup; c++) {
    uint8_t& byte = block[32 + (c / 8) * 32 + r * 4 + c % 4];
    byte = uint8_t(byte | nibble(nibbles, c) << (c % 8 < 4 ? 0 : 4));
  }
}

void pack_row(const Source& s, Form form, int row, int r, uint8_t* panel) {
  if (form == Form::F32) {
    static thread_local std::vector<float> values;
    values.resize(s.cols);
    dequantize_row(s, row, values.data());
    for (int c = 0; c < s.cols; c++) std::memcpy(panel + (size_t(c) * kPanelRows + r) * 4, &values[c], 4);
    return;
  }
  const uint8_t* from = s.data + row * row_bytes(s);
  for (int g = 0; g < s.cols / kGroup; g++, from += layout_of(s.type).bytes) {
    if (s.type == Q8_0) pack_q8(from, r, panel + g * kQ8Block);
    else pack_q4(from, s.type, r, panel + g * kQ4Block);
  }
}

}  // namespace

Weights repack(const std::vector<Source>& sources, bool interleave) {
  const Source& first = sources.front();
  Weights w;
  Matrix& m = w.matrix;
  m.form = form_of(first.type);
  m.cols = first.cols;
  for (const Source& s : sources)
    if (form_of(s.type) != m.form) m.form = Form::F32;
  m.panel_bytes = m.form == Form::F32 ? size_t(first.cols) * 32 : size_t(first.cols / kGroup) * (m.form == Form::Q8 ? kQ8Block : kQ4Block);
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
