// From GGUF rows to panels.
#include <cstring>
#include <stdexcept>

#include "model.h"

namespace openarctic {
namespace {

enum : int { F32 = 0, F16 = 1, Q4_0 = 2, Q4_1 = 3, Q8_0 = 8 };

int block_bytes(int type) {
  switch (type) {
    case F32: return 4;
    case F16: return 2;
    case Q4_0: return 18;
    case Q4_1: return 20;
    case Q8_0: return 34;
  }
  throw std::invalid_argument("unknown tensor type " + std::to_string(type));
}

bool is_float(int type) { return type == F32 || type == F16; }
size_t row_bytes(const Source& s) { return size_t(is_float(s.type) ? s.cols : s.cols / kGroup) * block_bytes(s.type); }
Form form_of(int type) { return is_float(type) ? Form::F32 : type == Q8_0 ? Form::Q8 : Form::Q4; }

float float_at(const Source& s, int row, int col) {
  const uint8_t* p = s.data + row * row_bytes(s);
  if (s.type == F32) {
    float v;
    std::memcpy(&v, p + size_t(col) * 4, 4);
    return v;
  }
  uint16_t h;
  std::memcpy(&h, p + size_t(col) * 2, 2);
  return half_to_float(h);
}

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

void pack_row(const Source& s, int row, int r, uint8_t* panel) {
  if (is_float(s.type)) {
    for (int c = 0; c < s.cols; c++) {
      float v = float_at(s, row, c);
      std::memcpy(panel + (size_t(c) * kPanelRows + r) * 4, &v, 4);
    }
    return;
  }
  const uint8_t* from = s.data + row * row_bytes(s);
  for (int g = 0; g < s.cols / kGroup; g++, from += block_bytes(s.type)) {
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
  if (m.form != Form::F32 && first.cols % kGroup) throw std::invalid_argument("quantised rows must be whole groups of 32");
  m.panel_bytes = m.form == Form::F32 ? size_t(first.cols) * 32 : size_t(first.cols / kGroup) * (m.form == Form::Q8 ? kQ8Block : kQ4Block);
  int panels = 0;
  for (const Source& s : sources) {
    if (form_of(s.type) != m.form || s.cols != m.cols) throw std::invalid_argument("matrices that are read together must have one type");
    panels += (s.rows + kPanelRows - 1) / kPanelRows;
  }
  m.rows = panels * kPanelRows;
  w.bytes.assign(panels * m.panel_bytes, 0);
  int start = 0;
  for (size_t i = 0; i < sources.size(); i++) {
    for (int row = 0; row < sources[i].rows; row++) {
      int panel = interleave ? row / kPanelRows * int(sources.size()) + int(i) : start + row / kPanelRows;
      pack_row(sources[i], row, row % kPanelRows, w.bytes.data() + panel * m.panel_bytes);
    }
    start += (sources[i].rows + kPanelRows - 1) / kPanelRows;
  }
  m.data = w.bytes.data();
  return w;
}

void dequantize_row(const Source& s, int row, float* out) {
  if (is_float(s.type)) {
    for (int c = 0; c < s.cols; c++) out[c] = float_at(s, row, c);
    return;
  }
  const uint8_t* from = s.data + row * row_bytes(s);
  for (int g = 0; g < s.cols / kGroup; g++, from += block_bytes(s.type), out += kGroup) {
    uint16_t h;
    std::memcpy(&h, from, 2);
    float scale = half_to_float(h), minimum = 0;
    if (s.type == Q8_0) {
      for (int c = 0; c < kGroup; c++) out[c] = scale * int8_t(from[2 + c]);
      continue;
    }
    if (s.type == Q4_1) {
      std::memcpy(&h, from + 2, 2);
      minimum = half_to_float(h);
    }
    const uint8_t* nibbles = from + (s.type == Q4_0 ? 2 : 4);
    for (int c = 0; c < kGroup; c++) out[c] = s.type == Q4_0 ? scale * (nibble(nibbles, c) - 8) : scale * nibble(nibbles, c) + minimum;
  }
}

}  // namespace openarctic
