// For processors of any kind through the vectors of GCC and clang (on arm64: NEON).
#if defined(__GNUC__)
#define OPENARCTIC_VECTORS
#include "coder.h"
#include "quantize.h"

namespace openarctic {

const Coder& vector_coder() {
  static const Coder coder{"vectors", read_values, write_values};
  return coder;
}

}  // namespace openarctic

#endif
