// The training step compiled for avx2.
#include "simd/avx2.h"
// The vectors come first: the templates find their functions by argument.
#include "train/kernel_table.h"

namespace nanomd::train {

namespace {
bool supported() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
}
}  // namespace

const Kernels& avx2_kernels() {
  static constexpr Kernels kernels = kernels_of<avx2::Vec>("avx2", supported);
  return kernels;
}

}  // namespace nanomd::train
