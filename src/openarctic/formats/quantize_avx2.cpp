// For processors with AVX2.
#if defined(__GNUC__)
#define OPENARCTIC_VECTORS
#include "coder.h"
#include "quantize.h"

namespace openarctic {

const Coder& avx2_coder() {
  static const Coder coder{"avx2", read_values, write_values};
  return coder;
}

}  // namespace openarctic

#endif
