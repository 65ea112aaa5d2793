// The CUDA rollout engine, behind the interface of engine.h.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "nanomd/engine.h"
#include "nanomd/observables.h"

namespace nanomd {

struct CudaOptions {
  // kFp16: 16-bit weights and cache, |ln p error| <= 2e-2. kFp32: weights split in two halves, fp32 cache, <= 1e-3.
  // There is no kFp16Cache: the matrix instructions take weights in 16 bits anyway.
  Precision precision = Precision::kFp16;
  // "throughput": one thread block per 8 or 16 trajectories. "latency": a cluster of blocks per 8. "auto" by their
  // number. The tokens do not depend on it.
  std::string regime = "auto";
  // "streamed" through L2 at every step, or "resident" in shared memory throughout a launch, where they fit; "auto" by
  // the arithmetic of docs/cuda.md. The tokens do not depend on it.
  std::string weights = "auto";
  int tile = 0;   // trajectories of a tile, 8 or 16; 0: chosen
  int ranks = 0;  // latency: thread blocks per cluster, 1 to 8; 0: chosen
  int device = 0;
};

struct CudaMemoryPlan {
  std::size_t weights = 0;          // taken when the engine is made
  std::size_t per_trajectory = 0;   // caches, history, output buffers, what the observables remember
  std::size_t fixed = 0;            // step tables, and the tables of the observables
  std::size_t total = 0;            // of a session: n_trajs * per_trajectory + fixed
  std::size_t free = 0;             // on the device now
  std::size_t largest_n_trajs = 0;  // that would fit
};

class CudaEngine : public RolloutEngine {
 public:
  // observed: what sessions accumulate on the device, if anything.
  virtual CudaMemoryPlan memory_plan(Mode mode, int n_trajs, const ObservablesSpec* observed = nullptr) const = 0;
  // "throughput, 16 trajectories a block", for provenance.
  virtual std::string describe(int n_trajs) const = 0;
};

// Throws UnsupportedError where this build or machine has no CUDA, or the model does not fit the engine.
std::unique_ptr<CudaEngine> make_cuda_engine(const ModelShape& shape, const TensorMap& tensors,
                                             const std::vector<std::uint32_t>& rope_multipliers,
                                             const CudaOptions& options);

}  // namespace nanomd
