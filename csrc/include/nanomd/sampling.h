// Drawing a state from unnormalised probabilities: the contract of every rollout engine.
// Always inlined: files compiled for different instruction sets must not share a copy.
#pragma once

#include "nanomd/host_device.h"

namespace nanomd {

// The smallest k whose cumulative weight exceeds u * total; states in index order, sums in double; if rounding leaves
// none, the last state with a positive weight. -1 if the weights have no finite, positive sum. `stride` separates the
// weights of one trajectory.
[[gnu::always_inline]] NANOMD_HOST_DEVICE int sample_state(const float* weight, int n_states, double u,
                                                           int stride = 1) {
  double total = 0.0;
  for (int k = 0; k < n_states; ++k) total += static_cast<double>(weight[k * stride]);
  const double target = u * total;
  double cumulative = 0.0;
  for (int k = 0; k < n_states; ++k) {
    cumulative += static_cast<double>(weight[k * stride]);
    if (cumulative > target) return k;
  }
  if (!(total > 0.0 && total < 1e300)) return -1;
  for (int k = n_states - 1; k > 0; --k)
    if (weight[k * stride] > 0.0f) return k;
  return 0;
}

}  // namespace nanomd
