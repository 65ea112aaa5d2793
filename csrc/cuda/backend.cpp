// The engine of a real device, where this build has one.
#include "nanomd/check.h"
#include "nanomd/cuda_engine.h"
#include "nanomd/cuda_info.h"

namespace nanomd {

#if defined(NANOMD_HAS_CUDA)
namespace cuda {
std::unique_ptr<CudaEngine> make_cuda_engine_built(const ModelShape& shape, const TensorMap& tensors,
                                                   const std::vector<std::uint32_t>& rope_multipliers,
                                                   const CudaOptions& options);  // cuda_platform.cu
}
std::unique_ptr<CudaEngine> make_cuda_engine(const ModelShape& shape, const TensorMap& tensors,
                                             const std::vector<std::uint32_t>& rope_multipliers,
                                             const CudaOptions& options) {
  return cuda::make_cuda_engine_built(shape, tensors, rope_multipliers, options);
}
#else
std::unique_ptr<CudaEngine> make_cuda_engine(const ModelShape&, const TensorMap&, const std::vector<std::uint32_t>&,
                                             const CudaOptions&) {
  throw UnsupportedError("the cuda engine is not available: " + cuda_info().reason);
}
#endif

}  // namespace nanomd
