#include "rollout_kernel.cuh"

namespace nanomd::cuda {

Kernel throughput_kernel_precise(int tiles, int group) {
  if (tiles == 1) return group == 1 ? rollout_kernel<1, 1, true> : rollout_kernel<1, 4, true>;
  return group == 1 ? rollout_kernel<2, 1, true> : rollout_kernel<2, 4, true>;
}

}  // namespace nanomd::cuda
