// Many tokens at once: activations of a tile are gathered so that two weight panels, unpacked once, meet all of them.
// Everything here has internal linkage: each file that includes it compiles it for its own processor.
#pragma once
#include <algorithm>
#include <cstring>
#include <vector>

#include "kernels.h"

namespace openarctic {
namespace {

constexpr int kTile = 128;  // tokens of a block whose activations stay in L2

struct Tile {
  std::vector<uint8_t> values;    // [group][token][32] of float, int16 or int8
  std::vector<float> scale, sum;  // [group][token]
  int columns = 0;                // of the group that is being multiplied: below 32 at the end of odd rows of floats
  alignas(64) float out[kTile * 16];

  template <class T>
  const T* at(size_t i) const { return reinterpret_cast<const T*>(values.data()) + i * kGroup; }

  void gather(const Matrix& w, const Row* x, int count) {
    switch (reads_of(w.form)) {
      case Reads::F32: return gather_values(&Row::f32, w.cols, x, count);
      case Reads::Int16:
        gather_values(&Row::q16, w.cols, x, count);
        return gather_scales(scale, &Row::scale16, w.cols / kGroup, x, count);
      case Reads::Int8:
        gather_values(&Row::q8, w.cols, x, count);
        gather_scales(scale, &Row::scale8, w.cols / kGroup, x, count);
        return gather_scales(sum, &Row::sum8, w.cols / kGroup, x, count);
    }
  }

 private:
  template <class T>
  void gather_values(const T* Row::*row, int cols, const Row* x, int count) {
    const int groups = cols / kGroup, rest = cols % kGroup;
    values.resize(size_t(groups + (rest > 0)) * count * kGroup * sizeof(T));
    T* to = reinterpret_cast<T*>(values.data());
    for (int t = 0; t < count; t++) {
      const T* from = x[t].*row;
      for (int g = 0; g < groups; g++) std::memcpy(to + (size_t(g) * count + t) * kGroup, from + g * kGroup, kGroup * sizeof(T));
      if (rest) std::memcpy(to + (size_t(groups) * count + t) * kGroup, from + groups * kGroup, rest * sizeof(T));
    }
  }

  void gather_scales(std::vector<float>& to, const float* Row::*row, int groups, const Row* x, int count) {
    to.resize(size_t(groups) * count);
    for (int t = 0; t < count; t++)
      for (int g = 0; g < groups; g++) to[size_t(g) * count + t] = (x[t].*row)[g];
  }
};

// Adds one group of columns of two panels to out[token][16], for `count` tokens whose activations begin at `at`.
using GroupStep = void (*)(const uint8_t* p0, const uint8_t* p1, const Tile& tile, size_t at, int count, float* out);

template <int N, class Several, class One>
inline void over_tokens(int count, Several by_several, One by_one) {
  int t = 0;
  for (; t + N <= count; t += N) by_several(t);
  for (; t < count; t++) by_one(t);
}

inline void tiled(const Matrix& w, int p0, int p1, const Row* x, float* const* out, int count, GroupStep step) {
  static thread_local Tile tile;
  const size_t block = block_bytes(w.form);
  for (int m = 0; m < count; m += kTile) {
    int n = std::min(kTile, count - m);
    tile.gather(w, x + m, n);
    for (int p = p0; p < p1; p += 2) {
      bool both = p + 1 < p1;
      const uint8_t* d0 = w.data + size_t(p) * w.panel_bytes;
      const uint8_t* d1 = both ? d0 + w.panel_bytes : d0;
      std::memset(tile.out, 0, sizeof(float) * 16 * n);
      for (int g = 0; g * kGroup < w.cols; g++) {
        tile.columns = std::min(kGroup, w.cols - g * kGroup);
        fetch(d0 + 2 * w.panel_bytes + g * block, block);
        fetch(d1 + 2 * w.panel_bytes + g * block, block);
        step(d0 + g * block, d1 + g * block, tile, size_t(g) * n, n, tile.out);
      }
      for (int t = 0; t < n; t++) std::memcpy(out[m + t] + p * 8, tile.out + t * 16, both ? 64 : 32);
    }
  }
}

}  // namespace
}  // namespace openarctic
