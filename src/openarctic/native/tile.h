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
    const int groups = (w.cols + kGroup - 1) / kGroup;
    const Reads reads = reads_of(w.form);
    const size_t size = reads == Reads::F32 ? 4 : reads == Reads::Int16 ? 2 : 1;
    values.resize(size_t(groups) * count * kGroup * size);
    scale.resize(size_t(groups) * count);
    sum.resize(size_t(groups) * count);
    for (int t = 0; t < count; t++) {
      const void* row = reads == Reads::F32 ? static_cast<const void*>(x[t].f32) : reads == Reads::Int16 ? static_cast<const void*>(x[t].q16) : x[t].q8;
      for (int g = 0; g < groups; g++) {
        const size_t at = size_t(g) * count + t, first = size_t(g) * kGroup;
        std::memcpy(&values[at * kGroup * size], static_cast<const uint8_t*>(row) + first * size, std::min<size_t>(kGroup, w.cols - first) * size);
        if (reads == Reads::F32) continue;
        scale[at] = (reads == Reads::Int16 ? x[t].scale16 : x[t].scale8)[g];
        if (reads == Reads::Int8) sum[at] = x[t].sum8[g];
      }
    }
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
        step(d0 + g * block, d1 + g * block, tile, size_t(g) * n, n, tile.out);
      }
      for (int t = 0; t < n; t++) std::memcpy(out[m + t] + p * 8, tile.out + t * 16, both ? 64 : 32);
    }
  }
}

}  // namespace
}  // namespace openarctic
