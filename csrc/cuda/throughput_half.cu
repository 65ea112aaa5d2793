#include "rollout_kernel.cuh"

namespace nanomd::cuda {

Kernel throughput_kernel_half(int tiles, int group) {
  if (tiles == 1) return group == 1 ? rollout_kernel<1, 1, false> : rollout_kernel<1, 4, false>;
  return group == 1 ? rollout_kernel<2, 1, false> : rollout_kernel<2, 4, false>;
}

}  // namespace nanomd::cuda
