// Reading and writing number types for one processor family: a table of functions, chosen at run time.
#pragma once
#include <cstddef>
#include <cstdint>

namespace openarctic {

struct Coder {
  const char* name;
  // `count` values, a whole number of blocks, as floats.
  void (*read)(int type, const uint8_t* from, size_t count, float* out);
  // Floats as blocks. `weights` is null, or one a value of exactly one row.
  void (*write)(int type, const float* x, size_t count, const float* weights, uint8_t* out);
};

// All give the same bits.
const Coder& plain_coder();
const Coder& vector_coder();
#if defined(__x86_64__)
const Coder& avx2_coder();
const Coder& avx512_coder();
#endif

}  // namespace openarctic
