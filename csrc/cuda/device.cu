// Finding devices. Errors 35 (no driver, or one older than the runtime) and 100 (no device) mean "no GPU here".
#include <cuda_runtime.h>

#include "nanomd/cuda_info.h"

namespace nanomd {

CudaInfo cuda_info_built() {
  CudaInfo info;
  info.built = true;
  if (cudaDriverGetVersion(&info.driver) != cudaSuccess) info.driver = 0;
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status == cudaErrorInsufficientDriver || status == cudaErrorNoDevice) {
    info.reason =
        status == cudaErrorNoDevice ? "no CUDA device is visible" : "no CUDA driver, or one too old for this build";
    return info;
  }
  if (status != cudaSuccess) {
    info.reason = cudaGetErrorString(status);
    return info;
  }
  for (int i = 0; i < count; ++i) {
    cudaDeviceProp properties;
    if (cudaGetDeviceProperties(&properties, i) != cudaSuccess) continue;
    info.devices.push_back({properties.name, properties.major, properties.minor, properties.multiProcessorCount,
                            properties.totalGlobalMem});
  }
  if (info.devices.empty()) info.reason = "no CUDA device is visible";
  return info;
}

}  // namespace nanomd
