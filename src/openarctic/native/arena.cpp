#include "arena.h"

#include <algorithm>
#include <new>
#if defined(__linux__)
#include <sys/mman.h>
#include <time.h>
#endif

namespace openarctic {
namespace {

constexpr size_t kLine = 64, kHugePage = size_t(1) << 21, kChunk = size_t(1) << 25;
constexpr double kPatience = 0.0015;  // seconds for one huge page

size_t rounded_up(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }

#if defined(__linux__)
double processor_seconds() {
  timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return double(now.tv_sec) + 1e-9 * double(now.tv_nsec);
}

// Whether the system lends a huge page in the time that clearing it takes. In a virtual machine whose host has taken its free
// memory away it can take twenty times as long, and small pages are given from what is still there.
bool is_quick(uint8_t* page) {
  const double start = processor_seconds();
  *static_cast<volatile uint8_t*>(page) = 0;
  return processor_seconds() - start < kPatience;
}

// Begins at a huge page. Pages that nobody touches cost nothing.
uint8_t* map(size_t bytes, bool& takes_huge_pages) {
  const size_t spare = bytes + kHugePage;
  void* whole = mmap(nullptr, spare, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (whole == MAP_FAILED) throw std::bad_alloc();
  uint8_t* start = static_cast<uint8_t*>(whole);
  uint8_t* data = reinterpret_cast<uint8_t*>(rounded_up(reinterpret_cast<size_t>(start), kHugePage));
  if (data > start) munmap(start, size_t(data - start));
  if (data + bytes < start + spare) munmap(data + bytes, size_t(start + spare - data) - bytes);
  if (takes_huge_pages) {
    madvise(data, bytes, MADV_HUGEPAGE);  // a wish: where there are none, small pages do
    takes_huge_pages = is_quick(data);
    if (!takes_huge_pages) madvise(data, bytes, MADV_NOHUGEPAGE);
  }
  return data;
}
void unmap(uint8_t* data, size_t bytes) { munmap(data, bytes); }
#else
uint8_t* map(size_t bytes, bool&) { return static_cast<uint8_t*>(::operator new(bytes, std::align_val_t(kLine))); }
void unmap(uint8_t* data, size_t) { ::operator delete(data, std::align_val_t(kLine)); }
#endif

}  // namespace

Arena::~Arena() {
  for (const Chunk& chunk : chunks_) unmap(chunk.data, chunk.size);
}

uint8_t* Arena::take(size_t bytes) {
  const size_t size = rounded_up(bytes, kLine);
  if (chunks_.empty() || chunks_.back().size - chunks_.back().filled < size) {
    const size_t whole = std::max(rounded_up(size, kHugePage), kChunk);
    chunks_.reserve(chunks_.size() + 1);
    chunks_.push_back({map(whole, takes_huge_pages_), whole, 0});
  }
  Chunk& chunk = chunks_.back();
  uint8_t* piece = chunk.data + chunk.filled;
  chunk.filled += size;
  used_ += bytes;
  return piece;
}

void Arena::give_back(size_t bytes) {
  chunks_.back().filled -= rounded_up(bytes, kLine);
  used_ -= bytes;
}

}  // namespace openarctic
