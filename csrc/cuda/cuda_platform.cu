// The CUDA device: memory, streams, launches. Every status is checked where it arises.
#include <cuda_runtime.h>

#include <algorithm>
#include <new>

#include "engine_common.h"
#include "kernels.h"
#include "nanomd/check.h"
#include "nanomd/cuda_info.h"
#include "rollout_kernel.cuh"

namespace nanomd::cuda {

namespace {

void require(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  if (status == cudaErrorMemoryAllocation) throw std::bad_alloc();
  throw std::runtime_error(join("CUDA: ", what, " failed: ", cudaGetErrorString(status)));
}

// The calling thread's device for as long as this lives: a library must not change it behind its user's back.
class UseDevice {
 public:
  explicit UseDevice(int device) {
    require(cudaGetDevice(&before_), "cudaGetDevice");
    require(cudaSetDevice(device), "cudaSetDevice");
  }
  ~UseDevice() { (void)cudaSetDevice(before_); }
  UseDevice(const UseDevice&) = delete;
  UseDevice& operator=(const UseDevice&) = delete;

 private:
  int before_ = 0;
};

// Threads: one per (step, pair).
__global__ void angle_kernel(const __grid_constant__ Arguments arguments) {
  const int half = arguments.layout.d_head / 2;
  const int index = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (index < arguments.n_steps * half) fill_angle(arguments, index / half, index % half);
}

class CudaQueue final : public Queue {
 public:
  explicit CudaQueue(int device) : device_(device) {
    const UseDevice use(device_);
    require(cudaStreamCreateWithFlags(&work_, cudaStreamNonBlocking), "cudaStreamCreate");
    require(cudaStreamCreateWithFlags(&copies_, cudaStreamNonBlocking), "cudaStreamCreate");
    require(cudaEventCreateWithFlags(&worked_, cudaEventDisableTiming), "cudaEventCreate");
    for (cudaEvent_t& event : copied_)
      require(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreate");
  }
  ~CudaQueue() override {
    (void)cudaStreamSynchronize(work_);
    (void)cudaStreamSynchronize(copies_);
    for (cudaEvent_t event : copied_) (void)cudaEventDestroy(event);
    (void)cudaEventDestroy(worked_);
    (void)cudaStreamDestroy(copies_);
    (void)cudaStreamDestroy(work_);
  }

  void upload(void* device, const void* pinned, std::size_t bytes) override {
    const UseDevice use(device_);
    require(cudaMemcpyAsync(device, pinned, bytes, cudaMemcpyHostToDevice, work_), "copy to the device");
  }

  void launch(const Arguments& arguments, int n_tiles) override {
    const UseDevice use(device_);
    const Layout& layout = arguments.layout;
    if (!layout.shape.learned_position) {
      const int n = arguments.n_steps * (layout.d_head / 2);
      angle_kernel<<<(n + 127) / 128, 128, 0, work_>>>(arguments);
      require(cudaGetLastError(), "launch of angle_kernel");
    }
    const bool cluster = layout.latency;
    const int group = group_constant(layout.shape), tiles = layout.tile / kTileColumns;
    const Kernel kernel = cluster          ? latency_kernel(group, layout.precise)
                          : layout.precise ? throughput_kernel_precise(group)
                                           : throughput_kernel_half(tiles, group);
    require(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 static_cast<int>(layout.shared.total_bytes)),
            "request for shared memory");
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(static_cast<unsigned>(n_tiles * layout.ranks));
    config.blockDim = dim3(kThreads);
    config.dynamicSmemBytes = layout.shared.total_bytes;
    config.stream = work_;
    cudaLaunchAttribute attribute{};
    if (cluster) {
      attribute.id = cudaLaunchAttributeClusterDimension;
      attribute.val.clusterDim.x = static_cast<unsigned>(layout.ranks);
      attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
      config.attrs = &attribute;
      config.numAttrs = 1;
    }
    require(cudaLaunchKernelEx(&config, kernel, arguments), "launch of the rollout kernel");
  }

  void observe(const ObserveArguments& arguments) override {
    const UseDevice use(device_);
    launch_observe(arguments, work_);
    require(cudaGetLastError(), "launch of the observables' kernels");
  }

  void download(int slot, void* pinned, const void* device, std::size_t bytes) override {
    const UseDevice use(device_);
    require(cudaEventRecord(worked_, work_), "cudaEventRecord");
    require(cudaStreamWaitEvent(copies_, worked_, 0), "cudaStreamWaitEvent");
    require(cudaMemcpyAsync(pinned, device, bytes, cudaMemcpyDeviceToHost, copies_), "copy from the device");
    require(cudaEventRecord(copied_[slot], copies_), "cudaEventRecord");
  }

  void wait(int slot) override {
    const UseDevice use(device_);
    require(cudaEventSynchronize(copied_[slot]), "the rollout kernel");
  }

 private:
  int device_;
  cudaStream_t work_ = nullptr, copies_ = nullptr;
  cudaEvent_t worked_ = nullptr, copied_[kSlots] = {};
};

class CudaPlatform final : public Platform {
 public:
  explicit CudaPlatform(int device) : device_(device) {
    const UseDevice use(device);
    cudaDeviceProp properties;
    require(cudaGetDeviceProperties(&properties, device), "cudaGetDeviceProperties");
    name_ = properties.name;
    shared_limit_ = properties.sharedMemPerBlockOptin - kSharedReserve;
    multiprocessors_ = properties.multiProcessorCount;
    major_ = properties.major;
    if (major_ < 8)
      throw UnsupportedError(join("the cuda engine needs compute capability 8.0 or later, ", name_, " has ", major_,
                                  ".", properties.minor, "; use backend=\"cpu\""));
  }
  std::string name() const override { return "cuda/" + name_; }
  std::size_t shared_limit() const override { return shared_limit_; }
  int multiprocessors() const override { return multiprocessors_; }
  int largest_cluster() const override { return major_ >= 9 ? kLargestRanks : 1; }
  std::size_t free_memory() const override {
    const UseDevice use(device_);
    std::size_t free = 0, total = 0;
    require(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
    return free;
  }
  void* allocate(std::size_t bytes) override {
    const UseDevice use(device_);
    void* memory = nullptr;
    require(cudaMalloc(&memory, bytes), "cudaMalloc");
    return memory;
  }
  void free(void* memory) noexcept override { (void)cudaFree(memory); }
  void* allocate_pinned(std::size_t bytes) override {
    const UseDevice use(device_);
    void* memory = nullptr;
    require(cudaMallocHost(&memory, bytes), "cudaMallocHost");
    return memory;
  }
  void free_pinned(void* memory) noexcept override { (void)cudaFreeHost(memory); }
  void copy_in(void* device, const void* host, std::size_t bytes) override {
    const UseDevice use(device_);
    require(cudaMemcpy(device, host, bytes, cudaMemcpyHostToDevice), "copy to the device");
    require(cudaDeviceSynchronize(), "copy to the device");  // the queues do not wait for the default stream
  }
  void copy_out(void* host, const void* device, std::size_t bytes) override {
    const UseDevice use(device_);
    require(cudaDeviceSynchronize(), "the work before a copy");
    require(cudaMemcpy(host, device, bytes, cudaMemcpyDeviceToHost), "copy from the device");
  }
  std::unique_ptr<Queue> make_queue() override { return std::make_unique<CudaQueue>(device_); }

 private:
  int device_;
  std::string name_;
  std::size_t shared_limit_ = 0;
  int multiprocessors_ = 0, major_ = 0;
};

}  // namespace

std::unique_ptr<CudaEngine> make_cuda_engine_built(const ModelShape& shape, const TensorMap& tensors,
                                                   const std::vector<std::uint32_t>& rope_multipliers,
                                                   const CudaOptions& options) {
  const CudaInfo info = cuda_info();
  if (info.devices.empty()) throw UnsupportedError("the cuda engine has no device: " + info.reason);
  check(options.device >= 0 && options.device < static_cast<int>(info.devices.size()), "device must be in [0, ",
        info.devices.size() - 1, "], got ", options.device);
  return make_tiled_engine(std::make_shared<CudaPlatform>(options.device), shape, tensors, rope_multipliers, options,
                           0);
}

}  // namespace nanomd::cuda
