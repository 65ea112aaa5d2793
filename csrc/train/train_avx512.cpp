// The training step compiled for avx512.
#include "simd/avx512.h"
// The vectors come first: the templates find their functions by argument.
#include "train/kernel_table.h"

namespace nanomd::train {

namespace {
bool supported() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
}  // namespace

const Kernels& avx512_kernels() {
  static constexpr Kernels kernels = kernels_of<avx512::Vec>("avx512", supported);
  return kernels;
}

}  // namespace nanomd::train
