// The kernels compiled for sse2.
#include "simd/sse2.h"
// The vectors come first: the templates find their functions by argument.
#include "kernel_table.h"

namespace nanomd {

namespace {
bool supported() {
  return true;  // part of x86-64
}
}  // namespace

const Kernels& sse2_kernels() {
  static constexpr Kernels kernels = kernels_of<sse2::Vec>("sse2", 16, supported);
  return kernels;
}

}  // namespace nanomd
