// What the machine can do at most: the bounds that measured speeds are a share of.
#pragma once
#include <cstddef>
#include <map>
#include <string>

namespace openarctic {

// Bytes a second that `threads` threads read together, each its own part of a buffer: the best of `repetitions` passes.
double read_bandwidth(size_t bytes, int threads, int repetitions);

// Operations a second (a multiply-add is two) of `threads` threads in registers alone, with the instructions that the kernels of
// that name use: "fp32", "int8" (8-bit by 8-bit into 32) and "int16" (16 by 16 into 32). Empty where nothing is known.
std::map<std::string, double> arithmetic_peaks(const std::string& kernels, int threads);

}  // namespace openarctic
