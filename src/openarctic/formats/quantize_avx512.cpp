// For processors with AVX-512.
#if defined(__GNUC__)
#define OPENARCTIC_VECTORS
#include "coder.h"
#include "quantize.h"

namespace openarctic {

const Coder& avx512_coder() {
  static const Coder coder{"avx512", read_values, write_values};
  return coder;
}

}  // namespace openarctic

#endif
