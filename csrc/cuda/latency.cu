#include "rollout_kernel.cuh"

namespace nanomd::cuda {

Kernel latency_kernel(int group, bool precise) {
  if (precise) return group == 1 ? cluster_kernel<1, true> : cluster_kernel<4, true>;
  return group == 1 ? cluster_kernel<1, false> : cluster_kernel<4, false>;
}

}  // namespace nanomd::cuda
