// The CUDA engine with the kernels' code run by an emulation of CUDA threads on the host (emulator.h). Very slow; for
// tests, and no part of a wheel.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "nanomd/cuda_engine.h"

namespace nanomd {

// The device to be emulated.
struct EmulationOptions {
  std::uint64_t order_seed = 0;  // shuffles the order of threads between barriers; 0: ascending
  std::size_t shared_limit = 227 << 10;
  std::size_t free_memory = std::size_t{1} << 30;
  int multiprocessors = 132;
  int largest_cluster = 8;
  int largest_teams = 2;  // tiles of a block that holds the weights
};

std::unique_ptr<CudaEngine> make_emulated_cuda_engine(const ModelShape& shape, const TensorMap& tensors,
                                                      const std::vector<std::uint32_t>& rope_multipliers,
                                                      const CudaOptions& options, const EmulationOptions& emulation);

}  // namespace nanomd
