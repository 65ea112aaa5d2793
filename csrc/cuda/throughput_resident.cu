#include "rollout_kernel.cuh"

namespace nanomd::cuda {

Kernel resident_kernel_half(int tiles, int group) {
  if (tiles == 1) return group == 1 ? resident_kernel<1, 1> : resident_kernel<1, 4>;
  return group == 1 ? resident_kernel<2, 1> : resident_kernel<2, 4>;
}

}  // namespace nanomd::cuda
