#define NANOMD_LANGEVIN_KERNEL
#include "langevin_kernel.h"

namespace nanomd {

void langevin_avx2(const LangevinSettings& settings, std::int64_t first_frame, std::int64_t first_trajectory,
                   std::int64_t n_trajs, std::int64_t n_frames, Walker* walkers, double* frames) {
  run_lanes(settings, first_frame, first_trajectory, n_trajs, n_frames, walkers, frames);
}

}  // namespace nanomd
