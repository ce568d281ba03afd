// Memory for what is written once and read ever after: the weights.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace openarctic {

// Grows by large chunks, in huge pages where the system lends them quickly, which nobody fills with zeros first. Pieces begin at a
// cache line and live as long as the arena.
class Arena {
 public:
  Arena() = default;
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;
  ~Arena();
  // Throws std::bad_alloc.
  uint8_t* take(size_t bytes);
  // Takes back the last piece, which had `bytes`.
  void give_back(size_t bytes);
  // Of all pieces.
  size_t used() const { return used_; }

 private:
  struct Chunk {
    uint8_t* data;
    size_t size, filled;
  };
  std::vector<Chunk> chunks_;
  size_t used_ = 0;
  bool takes_huge_pages_ = true;
};

}  // namespace openarctic
