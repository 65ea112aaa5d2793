#pragma once

#include <memory>
#include <vector>

#include "nanomd/cuda_engine.h"
#include "platform.h"

namespace nanomd::cuda {

// guard: unused bytes between the regions of shared memory, for tests.
std::unique_ptr<CudaEngine> make_tiled_engine(std::shared_ptr<Platform> platform, const ModelShape& shape,
                                              const TensorMap& tensors, const std::vector<std::uint32_t>& multipliers,
                                              const CudaOptions& options, std::size_t guard);

}  // namespace nanomd::cuda
