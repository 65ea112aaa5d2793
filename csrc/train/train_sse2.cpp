// The training step compiled for sse2.
#include "simd/sse2.h"
// The vectors come first: the templates find their functions by argument.
#include "train/kernel_table.h"

namespace nanomd::train {

namespace {
bool supported() { return true; }
}  // namespace

const Kernels& sse2_kernels() {
  static constexpr Kernels kernels = kernels_of<sse2::Vec>("sse2", supported);
  return kernels;
}

}  // namespace nanomd::train
