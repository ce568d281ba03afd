// What a processor and its system can do. x86-64 is asked with CPUID: zig's runtime lets __builtin_cpu_supports say no to all.
#pragma once
#if defined(__x86_64__) && defined(__GNUC__)
#include <cpuid.h>

#include <cstdint>

namespace openarctic {

struct Processor {
  bool avx2 = false, fma = false, f16c = false, avx512f = false, avx512bw = false, avx512vnni = false;
};

inline Processor processor() {
  Processor can;
  uint32_t a, b, c, d, saved, unused;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !(c >> 27 & 1)) return can;  // the system saves no vector registers
  __asm__ volatile("xgetbv" : "=a"(saved), "=d"(unused) : "c"(0));
  const bool has_256 = (saved & 0x06) == 0x06, has_512 = (saved & 0xe6) == 0xe6;
  can.fma = has_256 && (c >> 12 & 1);
  can.f16c = has_256 && (c >> 29 & 1);
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return can;
  can.avx2 = has_256 && (b >> 5 & 1);
  can.avx512f = has_512 && (b >> 16 & 1);
  can.avx512bw = has_512 && (b >> 30 & 1);
  can.avx512vnni = has_512 && (c >> 11 & 1);
  return can;
}

}  // namespace openarctic
#elif defined(__aarch64__)
#if defined(__linux__)
#include <sys/auxv.h>
#endif

namespace openarctic {

struct Processor {
  bool dot_products = false;
};

inline Processor processor() {
  Processor can;
#if defined(__APPLE__)
  can.dot_products = true;  // since the first of these computers
#elif defined(__linux__)
  can.dot_products = getauxval(AT_HWCAP) >> 20 & 1;  // HWCAP_ASIMDDP
#endif
  return can;
}

}  // namespace openarctic
#endif
