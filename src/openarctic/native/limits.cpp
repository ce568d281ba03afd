#include "limits.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "../formats/processor.h"
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace openarctic {
namespace {

// Wall time of work(thread) on all threads together.
double seconds(int threads, const std::function<void(int)>& work) {
  const auto start = std::chrono::steady_clock::now();
  std::vector<std::thread> others;
  for (int t = 1; t < threads; t++) others.emplace_back(work, t);
  work(0);
  for (std::thread& other : others) other.join();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Eight sums, so that no load waits for an addition.
__attribute__((always_inline)) inline uint64_t sum_of(const uint64_t* p, size_t count) {
  uint64_t sums[32] = {};
  for (size_t i = 0; i + 32 <= count; i += 32)
    for (int j = 0; j < 32; j++) sums[j] += p[i + j];
  uint64_t total = 0;
  for (uint64_t s : sums) total += s;
  return total;
}

uint64_t sum_plain(const uint64_t* p, size_t count) { return sum_of(p, count); }
#if defined(__x86_64__)
__attribute__((target("avx2"))) uint64_t sum_avx2(const uint64_t* p, size_t count) { return sum_of(p, count); }
#endif

constexpr int kChains = 12;         // independent accumulators: latency times instructions a cycle
constexpr long kRounds = 20000000;  // about 0.1 s

// Keeps the compiler from moving a product of constants out of the loop; costs no instruction.
#if defined(__x86_64__)
#define OPENARCTIC_OPAQUE(x) asm volatile("" : "+x"(x))
#elif defined(__aarch64__)
#define OPENARCTIC_OPAQUE(x) asm volatile("" : "+w"(x))
#endif

// A loop of `step` over all chains in registers; `Vector` is what a register holds.
#define OPENARCTIC_PEAK(name, attributes, Vector, start, operand, step)                       \
  attributes void name(long rounds) {                                                         \
    Vector sums[kChains], a = operand, b = operand;                                           \
    for (Vector& s : sums) s = start;                                                         \
    for (long r = 0; r < rounds; r++) {                                                       \
      OPENARCTIC_OPAQUE(a);                                                                   \
      _Pragma("GCC unroll 12") for (int i = 0; i < kChains; i++) {                            \
        OPENARCTIC_OPAQUE(b);                                                                 \
        sums[i] = step;                                                                       \
      }                                                                                       \
    }                                                                                         \
    for (Vector& s : sums) OPENARCTIC_OPAQUE(s);                                              \
  }

#if defined(__x86_64__)
#define AVX2 __attribute__((target("avx2,fma")))
#define AVX512 __attribute__((target("avx512f,avx512bw,avx512vnni")))
OPENARCTIC_PEAK(fp32_avx2, AVX2, __m256, _mm256_setzero_ps(), _mm256_set1_ps(0.5f), _mm256_fmadd_ps(a, b, sums[i]))
OPENARCTIC_PEAK(int8_avx2, AVX2, __m256i, _mm256_setzero_si256(), _mm256_set1_epi16(1), _mm256_add_epi32(sums[i], _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), a)))
OPENARCTIC_PEAK(int16_avx2, AVX2, __m256i, _mm256_setzero_si256(), _mm256_set1_epi16(1), _mm256_add_epi32(sums[i], _mm256_madd_epi16(a, b)))
OPENARCTIC_PEAK(fp32_avx512, AVX512, __m512, _mm512_setzero_ps(), _mm512_set1_ps(0.5f), _mm512_fmadd_ps(a, b, sums[i]))
OPENARCTIC_PEAK(int8_avx512, AVX512, __m512i, _mm512_setzero_si512(), _mm512_set1_epi16(1), _mm512_dpbusd_epi32(sums[i], a, b))
OPENARCTIC_PEAK(int16_avx512, AVX512, __m512i, _mm512_setzero_si512(), _mm512_set1_epi16(1), _mm512_dpwssd_epi32(sums[i], a, b))
#elif defined(__aarch64__)
OPENARCTIC_PEAK(fp32_neon, , float32x4_t, vdupq_n_f32(0), vdupq_n_f32(0.5f), vfmaq_f32(sums[i], a, b))
OPENARCTIC_PEAK(int16_neon, , int32x4_t, vdupq_n_s32(0), vdupq_n_s32(1), vmlal_s16(sums[i], vget_low_s16(vreinterpretq_s16_s32(a)), vget_low_s16(vreinterpretq_s16_s32(b))))
#endif

// A loop, and the operations of one step of it.
struct Peak {
  const char* name;
  void (*loop)(long);
  int operations;
};

std::vector<Peak> peaks_of(const std::string& kernels) {
#if defined(__x86_64__)
  if (kernels == "avx2" && processor().avx2 && processor().fma) return {{"fp32", fp32_avx2, 16}, {"int8", int8_avx2, 64}, {"int16", int16_avx2, 32}};
  if (kernels == "avx512" && processor().avx512f && processor().avx512bw && processor().avx512vnni) return {{"fp32", fp32_avx512, 32}, {"int8", int8_avx512, 128}, {"int16", int16_avx512, 64}};
#elif defined(__aarch64__)
  if (kernels == "neon") return {{"fp32", fp32_neon, 8}, {"int16", int16_neon, 8}};
#endif
  return {};
}

}  // namespace

double read_bandwidth(size_t bytes, int threads, int repetitions) {
  const size_t words = bytes / sizeof(uint64_t) / threads;
  std::unique_ptr<uint64_t[]> buffer(new uint64_t[words * threads]);
  auto sum = sum_plain;
#if defined(__x86_64__)
  if (processor().avx2) sum = sum_avx2;
#endif
  seconds(threads, [&](int t) { std::fill_n(buffer.get() + t * words, words, uint64_t(t + 1)); });
  std::vector<uint64_t> sums(threads);
  double best = 0;
  for (int i = 0; i < repetitions; i++) {
    const double time = seconds(threads, [&](int t) { sums[t] += sum(buffer.get() + t * words, words); });
    best = std::max(best, double(words * threads * sizeof(uint64_t)) / time);
  }
  volatile uint64_t used = sums[0];  // or the sums would not be computed
  (void)used;
  return best;
}

std::map<std::string, double> arithmetic_peaks(const std::string& kernels, int threads) {
  std::map<std::string, double> out;
  for (const Peak& peak : peaks_of(kernels)) {
    double best = 0;
    for (int i = 0; i < 3; i++) {
      const double time = seconds(threads, [&](int) { peak.loop(kRounds); });
      best = std::max(best, double(kRounds) * kChains * peak.operations * threads / time);
    }
    out[peak.name] = best;
  }
  return out;
}

}  // namespace openarctic
