#include "nanomd/cuda_info.h"

namespace nanomd {

#if defined(NANOMD_HAS_CUDA)
CudaInfo cuda_info_built();  // csrc/cuda/device.cu
CudaInfo cuda_info() { return cuda_info_built(); }
#else
CudaInfo cuda_info() {
  CudaInfo info;
  info.reason = "nanomd was built without CUDA (no nvcc at build time, or NANOMD_CUDA=OFF)";
  return info;
}
#endif

}  // namespace nanomd
