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
  (void)cudaGetLastError();  // told here, and not again to whoever asks next
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

// What a constructor has made is undone where a later one throws.
struct Stream {
  cudaStream_t handle = nullptr;
  Stream() { require(cudaStreamCreateWithFlags(&handle, cudaStreamNonBlocking), "cudaStreamCreate"); }
  ~Stream() {
    (void)cudaStreamSynchronize(handle);
    (void)cudaStreamDestroy(handle);
  }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
};

struct Event {
  cudaEvent_t handle = nullptr;
  Event() { require(cudaEventCreateWithFlags(&handle, cudaEventDisableTiming), "cudaEventCreate"); }
  ~Event() { (void)cudaEventDestroy(handle); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
};

class CudaQueue final : public Queue {
 public:
  // On the calling thread's device.
  CudaQueue(int device, std::size_t shared_limit) : device_(device), shared_limit_(shared_limit) {}

  void upload(void* device, const void* pinned, std::size_t bytes) override {
    const UseDevice use(device_);
    require(cudaMemcpyAsync(device, pinned, bytes, cudaMemcpyHostToDevice, work_.handle), "copy to the device");
  }

  void launch(const Arguments& arguments, int n_tiles) override {
    const UseDevice use(device_);
    const Layout& layout = arguments.layout;
    if (!layout.shape.learned_position) {
      const int n = arguments.n_steps * (layout.d_head / 2);
      cudaLaunchConfig_t config{};
      config.gridDim = dim3(static_cast<unsigned>((n + 127) / 128));
      config.blockDim = dim3(128);
      config.stream = work_.handle;
      require(cudaLaunchKernelEx(&config, angle_kernel, arguments), "launch of angle_kernel");
    }
    const bool cluster = layout.latency;
    const int group = group_constant(layout.shape), tiles = layout.tile / kTileColumns;
    const Kernel kernel = cluster             ? latency_kernel(group, layout.precise)
                          : layout.resident() ? resident_kernel_half(tiles, group)
                          : layout.precise    ? throughput_kernel_precise(group)
                                              : throughput_kernel_half(tiles, group);
    // As much as there is: sessions of other models, in other threads, may launch the same kernel.
    require(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_limit_)),
            "request for shared memory");
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(static_cast<unsigned>((n_tiles + layout.teams - 1) / layout.teams * layout.ranks));
    config.blockDim = dim3(kThreads, static_cast<unsigned>(layout.teams));
    config.dynamicSmemBytes = layout.shared.total_bytes;
    config.stream = work_.handle;
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
    require(launch_observe(arguments, work_.handle), "launch of the observables' kernels");
  }

  void download(int slot, void* pinned, const void* device, std::size_t bytes) override {
    const UseDevice use(device_);
    require(cudaEventRecord(worked_.handle, work_.handle), "cudaEventRecord");
    require(cudaStreamWaitEvent(copies_.handle, worked_.handle, 0), "cudaStreamWaitEvent");
    require(cudaMemcpyAsync(pinned, device, bytes, cudaMemcpyDeviceToHost, copies_.handle), "copy from the device");
    require(cudaEventRecord(copied_[slot].handle, copies_.handle), "cudaEventRecord");
  }

  void wait(int slot) override {
    const UseDevice use(device_);
    require(cudaEventSynchronize(copied_[slot].handle), "the rollout kernel");
  }

 private:
  int device_;
  std::size_t shared_limit_;
  Stream work_, copies_;
  Event worked_, copied_[kSlots];
};

class CudaPlatform final : public Platform {
 public:
  explicit CudaPlatform(int device) : device_(device) {
    const UseDevice use(device);
    cudaDeviceProp properties;
    require(cudaGetDeviceProperties(&properties, device), "cudaGetDeviceProperties");
    name_ = properties.name;
    shared_limit_ = properties.sharedMemPerBlockOptin;
    multiprocessors_ = properties.multiProcessorCount;
    const std::string capability = join(properties.major, ".", properties.minor);
    if (properties.major < 8)
      throw UnsupportedError(join("the cuda engine needs compute capability 8.0 or later, ", name_, " has ", capability,
                                  "; use backend=\"cpu\""));
    // Code for clusters: that of an earlier architecture, translated for this device, has none.
    cudaFuncAttributes attributes;
    const cudaError_t found = cudaFuncGetAttributes(&attributes, latency_kernel(1, false));
    if (found == cudaErrorNoKernelImageForDevice)
      throw UnsupportedError(join("this build of the cuda engine has no code for ", name_, " (compute capability ",
                                  capability, "); build with it in NANOMD_CUDA_ARCHITECTURES, or use backend=\"cpu\""));
    require(found, "cudaFuncGetAttributes");
    int clusters = 0;
    require(cudaDeviceGetAttribute(&clusters, cudaDevAttrClusterLaunch, device), "cudaDeviceGetAttribute");
    if (clusters != 0 && attributes.ptxVersion >= 90) largest_cluster_ = kLargestRanks;
  }
  std::string name() const override { return "cuda/" + name_; }
  std::size_t shared_limit() const override { return shared_limit_; }
  int multiprocessors() const override { return multiprocessors_; }
  int largest_cluster() const override { return largest_cluster_; }
  int largest_teams(int tile, int group) const override {
    const UseDevice use(device_);
    cudaFuncAttributes attributes;
    require(cudaFuncGetAttributes(&attributes, resident_kernel_half(tile / kTileColumns, group)),
            "cudaFuncGetAttributes");
    return attributes.maxThreadsPerBlock / kThreads;
  }
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
  std::unique_ptr<Queue> make_queue() override {
    const UseDevice use(device_);
    return std::make_unique<CudaQueue>(device_, shared_limit_);
  }

 private:
  int device_;
  std::string name_;
  std::size_t shared_limit_ = 0;
  int multiprocessors_ = 0, largest_cluster_ = 1;
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
