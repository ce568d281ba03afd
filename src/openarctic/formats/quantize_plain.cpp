// The reference in plain C++: every other coder must give the same bits.
#include "coder.h"
#include "quantize.h"

namespace openarctic {

const Coder& plain_coder() {
  static const Coder coder{"plain", read_values, write_values};
  return coder;
}

}  // namespace openarctic
