// Counting on the device: the tokens of a launch, step by step, in the trail that the rollout kernel leaves behind.
// Host and device run these functions; sums are integers, so their order does not matter.
#pragma once

#include <cstdint>
#include <type_traits>

#include "nanomd/observables_step.h"
#include "words.h"

namespace nanomd::cuda {

// The next n_steps steps of every trajectory.
struct ObserveArguments {
  SetTables sets;                        // edges on the device
  const std::int64_t* lags = nullptr;    // [n_lags]
  const std::int32_t* set_of = nullptr;  // [n_states]
  std::int64_t* counters = nullptr;      // [n_trajs][width], as ObservablesWriter keeps them
  std::int64_t* table = nullptr;         // [sets.at.size]
  const std::uint16_t* trail = nullptr;  // [rows][n_trajs], token of step t in row t mod rows
  std::int64_t rows = 0, seen = 0;       // seen: steps before these
  std::size_t n_states = 0, width = 0;
  std::int32_t n_lags = 0, n_steps = 0, n_trajs = 0;
};
static_assert(std::is_trivially_copyable_v<ObserveArguments>);

inline constexpr int kStepsPerThread = 64;  // of pairs: enough runs, enough threads

NANOMD_HOST_DEVICE std::size_t trail_token(const ObserveArguments& a, int trajectory, std::int64_t time) {
  return a.trail[static_cast<std::size_t>(time % a.rows) * static_cast<std::size_t>(a.n_trajs) +
                 static_cast<std::size_t>(trajectory)];
}

// Pairs of states one lag apart whose later one is in steps [begin, end); lag_index n_lags: visits of single states.
// Equal pairs in a row, which metastable trajectories are made of, are added at once. Add: add(cell, amount) to a
// table.
template <class Add>
NANOMD_HOST_DEVICE void observe_pairs(const ObserveArguments& a, int lag_index, int trajectory, int begin, int end,
                                      Add add) {
  const bool pairs = lag_index < a.n_lags;
  const std::int64_t lag = pairs ? a.lags[lag_index] : 0;
  const std::size_t table =
      pairs ? a.sets.at.transitions + static_cast<std::size_t>(lag_index) * a.n_states * a.n_states : a.sets.at.visits;
  std::size_t cell = 0;
  std::int64_t run = 0;
  for (std::int64_t time = a.seen + begin; time < a.seen + end; ++time) {
    if (time < lag) continue;
    const std::size_t before = pairs ? trail_token(a, trajectory, time - lag) * a.n_states : 0;
    const std::size_t now = table + before + trail_token(a, trajectory, time);
    if (run > 0 && now != cell) {
      add(cell, run);
      run = 0;
    }
    cell = now;
    ++run;
  }
  if (run > 0) add(cell, run);
}

// Residences and passages of one trajectory, in order; the counters stand at the step after the last one then.
template <class Add>
NANOMD_HOST_DEVICE void observe_sets(const ObserveArguments& a, int trajectory, Add add) {
  constexpr int kAhead = 8;  // loads in flight
  std::int64_t* counters = a.counters + static_cast<std::size_t>(trajectory) * a.width;
  std::int64_t inside = counters[kInside];
  for (int t0 = 0; a.sets.n_sets > 0 && t0 < a.n_steps; t0 += kAhead) {
    std::int32_t set[kAhead];
    NANOMD_UNROLL
    for (int u = 0; u < kAhead; ++u)
      set[u] = t0 + u < a.n_steps ? a.set_of[trail_token(a, trajectory, a.seen + t0 + u)] : -1;
    NANOMD_UNROLL
    for (int u = 0; u < kAhead; ++u) {
      if (t0 + u >= a.n_steps || set[u] == inside) continue;
      enter_set(a.sets, counters, a.seen + t0 + u, set[u], add);
      inside = set[u];
    }
  }
  counters[kSteps] = a.seen + a.n_steps;
}

}  // namespace nanomd::cuda
