// From GGUF rows to panels (kernels.h).
#pragma once
#include <vector>

#include "arena.h"
#include "kernels.h"
#include "threads.h"

namespace openarctic {

// Raw GGUF bytes of a matrix, or of several of one shape that follow each other: `type` is the GGUF type number.
struct Source {
  int type, rows, cols;
  const uint8_t* data;
};

// A matrix in panels, whose bytes lie in an arena.
struct Weights {
  Matrix matrix;
  bool empty() const { return matrix.data == nullptr; }
};

// `count` matrices. Each takes its rows of all sources one after the other; with `interleave`, panels of the sources alternate
// (gate, up). All have one form. On all threads of the pool. Throws std::invalid_argument, std::bad_alloc.
std::vector<Weights> repack(const std::vector<Source>& sources, bool interleave, int count, Arena& arena, Pool& pool);
// Of panels that lie in a file, see binding.cpp.
uint64_t checksum_of(const uint8_t* bytes, size_t count, Pool& pool);
void dequantize_row(const Source& source, int row, float* out);

}  // namespace openarctic
