// Loss and gradient of an output layer over contexts whose features are given.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace nanomd {

struct SweepInput {
  int n_states = 0;                // V
  int width = 0;                   // features, the constant one of the bias included
  const float* head = nullptr;     // [V][width]
  const float* table = nullptr;    // [V][V], added to the logits by current state
  const float* weights = nullptr;  // [V][V], of a transition
  std::ptrdiff_t n = 0;
  const float* features = nullptr;          // [n][width]
  const std::int64_t* current = nullptr;    // [n], rising
  const std::int64_t* following = nullptr;  // [n]
};

// Adds expected minus observed transitions to `transitions` [V][V] and features to `moments` [V][width] (null: not
// wanted), and returns the weighted loss in nats. The same bits for any number of threads.
double sweep_output(const SweepInput& input, double* transitions, double* moments, int n_threads,
                    const std::string& isa = "");

}  // namespace nanomd
