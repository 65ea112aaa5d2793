// Lookahead in the latency regime: the columns of a tile are successive states of one trajectory. The first is known;
// the others are guesses made with the very uniforms that the sampler will use. One pass gives the logits after all of
// them, and the states up to the first that was guessed wrongly stand. Each column is computed as if it were alone, so
// a guess decides the speed, never the trajectory. (On the CPU: csrc/cpu/lookahead.h.)
//
// The guesses come from a table: for a pair of successive states, the mean of the weights that the model gave after
// it, older ones forgotten. Every rank keeps a table of its own in device memory and learns the same into it, so that
// all ranks guess alike without asking each other.
#pragma once

#include <cstdint>

#include "draw.h"
#include "words.h"

namespace nanomd::cuda {

inline constexpr std::uint32_t kNoPair = 0xFFFFFFFFu;
inline constexpr float kForget = 0.25f;  // weight of the latest visit

// Shared memory of one rank.
struct DraftState {
  std::int32_t token[8];  // fed to each column
  std::int32_t drawn[8];  // from each column's logits
};

struct DraftTable {
  std::uint32_t* key = nullptr;  // [n_rows], the pair that the row is about
  float* weight = nullptr;       // [n_rows][n_states]
  int n_rows = 0, n_states = 0;

  NANOMD_TILE std::uint32_t pair(int before, int state) const {
    return static_cast<std::uint32_t>(before) * static_cast<std::uint32_t>(n_states) +
           static_cast<std::uint32_t>(state);
  }
  NANOMD_TILE std::uint32_t row(std::uint32_t of) const { return of % static_cast<std::uint32_t>(n_rows); }
  NANOMD_TILE float* weights(std::uint32_t of) const {
    return weight + static_cast<std::size_t>(row(of)) * static_cast<std::size_t>(n_states);
  }
};

// Exec: what a thread is (tile.h). By one warp: what follows a pair, drawn with u; the state itself where the pair is
// unknown, since metastable trajectories mostly stay.
template <class Exec>
NANOMD_TILE int guess(Exec& exec, const DraftTable& table, int before, int state, double u) {
  const std::uint32_t of = table.pair(before, state);
  if (table.key[table.row(of)] != of) return state;
  return draw_state(exec, table.weights(of), table.n_states, u);
}

// By one warp: the weights that the model gave after a pair.
template <class Exec>
NANOMD_TILE void learn(Exec& exec, const DraftTable& table, int before, int state, const float* weights) {
  const std::uint32_t of = table.pair(before, state);
  const float rate = table.key[table.row(of)] == of ? kForget : 1.0f;
  exec.sync_warp();  // all lanes have read the key
  float* mean = table.weights(of);
  for (int k = exec.lane(); k < table.n_states; k += 32)
    mean[k] = rate < 1.0f ? exec.fma(weights[k] - mean[k], rate, mean[k]) : weights[k];
  if (exec.lane() == 0) table.key[table.row(of)] = of;
}

}  // namespace nanomd::cuda
