#include "rollout_kernel.cuh"

namespace nanomd::cuda {

// Tiles of 16 would spill, and single precision is not for speed.
Kernel throughput_kernel_precise(int group) {
  return group == 1 ? rollout_kernel<1, 1, true> : rollout_kernel<1, 4, true>;
}

}  // namespace nanomd::cuda
