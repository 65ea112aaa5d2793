// The kernels: one tile of trajectories per thread block, or per cluster of blocks.
#pragma once

#include "device_exec.cuh"
#include "tile.h"

namespace nanomd::cuda {

template <int kTiles, int kGroup, bool kPrecise>
__global__ void __launch_bounds__(kThreads, 2) rollout_kernel(const __grid_constant__ Arguments arguments) {
  extern __shared__ __align__(128) unsigned char memory[];
  DeviceExec<false> exec{memory};
  RolloutTile<DeviceExec<false>, kTiles, kGroup, kPrecise>(exec, arguments, static_cast<int>(blockIdx.x)).run();
}

template <int kGroup, bool kPrecise>
__global__ void __launch_bounds__(kThreads, 1) cluster_kernel(const __grid_constant__ Arguments arguments) {
#if __CUDA_ARCH__ >= 900
  extern __shared__ __align__(128) unsigned char memory[];
  DeviceExec<true> exec{memory};
  const int tile = static_cast<int>(blockIdx.x) / exec.ranks();
  RolloutTile<DeviceExec<true>, 1, kGroup, kPrecise>(exec, arguments, tile).run();
#endif
}

using Kernel = void (*)(const Arguments);
// Each in its own translation unit, so that they compile side by side.
Kernel throughput_kernel_half(int tiles, int group);
Kernel throughput_kernel_precise(int tiles, int group);
Kernel latency_kernel(int group, bool precise);

}  // namespace nanomd::cuda
