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
  std::vector<int16_t> q;         // [group][token][32], int8 inside for Q4
  std::vector<float> scale, sum;  // [group][token]
  alignas(64) float out[kTile * 16];
  void gather(const Matrix& w, const Row* x, int count) {
    int groups = w.cols / kGroup;
    q.resize(size_t(groups) * count * kGroup);
    scale.resize(size_t(groups) * count);
    sum.resize(size_t(groups) * count);
    int8_t* q8 = reinterpret_cast<int8_t*>(q.data());
    for (int t = 0; t < count; t++)
      for (int g = 0; g < groups; g++) {
        size_t at = size_t(g) * count + t;
        if (w.form == Form::Q8) {
          std::memcpy(q.data() + at * kGroup, x[t].q16 + g * kGroup, 2 * kGroup);
          scale[at] = x[t].scale16[g];
        } else {
          std::memcpy(q8 + at * kGroup, x[t].q8 + g * kGroup, kGroup);
          scale[at] = x[t].scale8[g];
          sum[at] = x[t].sum8[g];
        }
      }
  }
};

// Adds one group of 32 columns of two panels to out[token][16], for `count` tokens whose activations begin at `at`.
using GroupStep = void (*)(const uint8_t* p0, const uint8_t* p1, const Tile& tile, size_t at, int count, float* out);

template <int N, class Several, class One>
inline void over_tokens(int count, Several by_several, One by_one) {
  int t = 0;
  for (; t + N <= count; t += N) by_several(t);
  for (; t < count; t++) by_one(t);
}

inline void tiled(const Matrix& w, int p0, int p1, const Row* x, float* const* out, int count, GroupStep q8, GroupStep q4) {
  static thread_local Tile tile;
  const size_t block = w.form == Form::Q8 ? kQ8Block : kQ4Block;
  const GroupStep step = w.form == Form::Q8 ? q8 : q4;
  for (int m = 0; m < count; m += kTile) {
    int n = std::min(kTile, count - m);
    tile.gather(w, x + m, n);
    for (int p = p0; p < p1; p += 2) {
      bool both = p + 1 < p1;
      const uint8_t* d0 = w.data + size_t(p) * w.panel_bytes;
      const uint8_t* d1 = both ? d0 + w.panel_bytes : d0;
      std::memset(tile.out, 0, sizeof(float) * 16 * n);
      for (int g = 0; g < w.cols / kGroup; g++) step(d0 + g * block, d1 + g * block, tile, size_t(g) * n, n, tile.out);
      for (int t = 0; t < n; t++) std::memcpy(out[m + t] + p * 8, tile.out + t * 16, both ? 64 : 32);
    }
  }
}

}  // namespace
}  // namespace openarctic
