// Drawing a state from unnormalised probabilities: the contract of every rollout engine.
// Always inlined: files compiled for different instruction sets must not share a copy.
#pragma once

#include "nanomd/host_device.h"

namespace nanomd {

struct Drawn {
  int state;    // -1 if there is none
  double rest;  // where u * total lies within the weight of the state, in [0, 1): as good as a new uniform number
};

inline constexpr double kBelowOne = 1.0 - 0x1.0p-53;

// u * total and the sum of the weights before the state drawn -> Drawn::rest. Rounding may leave it at 1.
[[gnu::always_inline]] NANOMD_HOST_DEVICE double rest_within(double target, double before, double weight) {
  const double rest = (target - before) / weight;
  return rest < kBelowOne ? rest : kBelowOne;
}

// The smallest k whose cumulative weight exceeds u * total; states in index order, sums in double; if rounding leaves
// none, the last state with a positive weight. -1 if the weights have no finite, positive sum. `stride` separates the
// weights of one trajectory.
[[gnu::always_inline]] NANOMD_HOST_DEVICE Drawn sample_within(const float* weight, int n_states, double u,
                                                              int stride = 1) {
  double total = 0.0;
  for (int k = 0; k < n_states; ++k) total += static_cast<double>(weight[k * stride]);
  const double target = u * total;
  double cumulative = 0.0;
  for (int k = 0; k < n_states; ++k) {
    const double before = cumulative;
    cumulative += static_cast<double>(weight[k * stride]);
    if (cumulative > target) return {k, rest_within(target, before, static_cast<double>(weight[k * stride]))};
  }
  if (!(total > 0.0 && total < 1e300)) return {-1, 0.0};
  int k = n_states - 1;
  while (k > 0 && !(weight[k * stride] > 0.0f)) --k;
  return {k, kBelowOne};
}

[[gnu::always_inline]] NANOMD_HOST_DEVICE int sample_state(const float* weight, int n_states, double u,
                                                           int stride = 1) {
  return sample_within(weight, n_states, u, stride).state;
}

}  // namespace nanomd
