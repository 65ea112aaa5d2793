// Observables on the device: integer atomics only, so the counts are exact and the same in every run.
#include "kernels.h"
#include "observe.h"
#include "rollout_kernel.cuh"

namespace nanomd::cuda {

namespace {

constexpr unsigned kObserveThreads = 128;

struct AtomicAdd {
  std::int64_t* table;
  __device__ __forceinline__ void operator()(std::size_t cell, std::int64_t amount) const {
    atomicAdd(reinterpret_cast<unsigned long long*>(table + cell), static_cast<unsigned long long>(amount));
  }
};

// Threads: x trajectories, y lags and then visits, z pieces of kStepsPerThread steps.
__global__ void __launch_bounds__(kObserveThreads) pair_kernel(const __grid_constant__ ObserveArguments arguments) {
  const int trajectory = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (trajectory >= arguments.n_trajs) return;
  const int begin = static_cast<int>(blockIdx.z) * kStepsPerThread;
  const int end = begin + kStepsPerThread < arguments.n_steps ? begin + kStepsPerThread : arguments.n_steps;
  observe_pairs(arguments, static_cast<int>(blockIdx.y), trajectory, begin, end, AtomicAdd{arguments.table});
}

// Threads: trajectories.
__global__ void __launch_bounds__(kObserveThreads) set_kernel(const __grid_constant__ ObserveArguments arguments) {
  const int trajectory = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (trajectory < arguments.n_trajs) observe_sets(arguments, trajectory, AtomicAdd{arguments.table});
}

}  // namespace

cudaError_t launch_observe(const ObserveArguments& arguments, cudaStream_t stream) {
  const unsigned blocks = (static_cast<unsigned>(arguments.n_trajs) + kObserveThreads - 1) / kObserveThreads;
  const unsigned pieces = static_cast<unsigned>((arguments.n_steps + kStepsPerThread - 1) / kStepsPerThread);
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(blocks, static_cast<unsigned>(arguments.n_lags) + 1, pieces);
  config.blockDim = dim3(kObserveThreads);
  config.stream = stream;
  const cudaError_t status = cudaLaunchKernelEx(&config, pair_kernel, arguments);
  if (status != cudaSuccess) return status;
  config.gridDim = dim3(blocks);
  return cudaLaunchKernelEx(&config, set_kernel, arguments);
}

}  // namespace nanomd::cuda
