// The kernels: one tile of trajectories per thread block, or per cluster of blocks.
#pragma once

#include "device_exec.cuh"
#include "observe.h"
#include "tile.h"

namespace nanomd::cuda {

// Two blocks of a multiprocessor hide each other's barriers, at 128 registers a thread. Where the compiler would spill,
// one: for compute capability 10 it takes up to 240, and in single precision it lacks a few with four heads a group.
#if !defined(__CUDA_ARCH__)
constexpr int least_blocks(int, bool) { return 1; }
#elif __CUDA_ARCH__ >= 1000
constexpr int least_blocks(int, bool) { return 1; }
#else
constexpr int least_blocks(int group, bool precise) { return precise && group > 1 ? 1 : 2; }
#endif

// kTiles, kGroup, kPrecise, in all kernels: as in tile.h. A block for each tile.
template <int kTiles, int kGroup, bool kPrecise>
__global__ void __launch_bounds__(kThreads, least_blocks(kGroup, kPrecise))
    rollout_kernel(const __grid_constant__ Arguments arguments) {
  extern __shared__ __align__(128) unsigned char memory[];
  DeviceExec<false> exec{memory};
  RolloutTile<DeviceExec<false>, kTiles, kGroup, kPrecise>(exec, arguments, static_cast<int>(blockIdx.x)).run();
}

// As many threads a multiprocessor, in one block that holds the weights: teams of it have a tile each.
template <int kTiles, int kGroup>
__global__ void __launch_bounds__(kThreads* least_blocks(kGroup, false), 1)
    resident_kernel(const __grid_constant__ Arguments arguments) {
  extern __shared__ __align__(128) unsigned char memory[];
  TeamExec exec(memory, arguments.layout.shared.team_bytes);
  const int tile = static_cast<int>(blockIdx.x * blockDim.y + threadIdx.y);
  RolloutTile<TeamExec, kTiles, kGroup, false>(exec, arguments, tile).run();
}

// A cluster of blocks, the ranks, for each tile of eight.
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
Kernel throughput_kernel_precise(int group);
Kernel resident_kernel_half(int tiles, int group);
Kernel latency_kernel(int group, bool precise);
cudaError_t launch_observe(const ObserveArguments& arguments, cudaStream_t stream);

}  // namespace nanomd::cuda
