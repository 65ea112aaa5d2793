// Logits -> the next state, or log-probabilities, of one trajectory, by one warp.
#pragma once

#include <cmath>

#include "nanomd/philox.h"
#include "nanomd/sampling.h"
#include "warp.h"
#include "words.h"

namespace nanomd::cuda {

// Exec, in all of these: what a thread is (tile.h).

// Adds the markov row, where there is one, and returns the largest logit.
template <class Exec>
NANOMD_TILE float add_markov(Exec& exec, float* logits, int n_states, const float* markov_row) {
  float top = -INFINITY;
  for (int k = exec.lane(); k < n_states; k += 32) {
    if (markov_row != nullptr) logits[k] += exec.constant(markov_row + k);
    top = exec.max(top, logits[k]);
  }
  return warp_max(exec, top);
}

// Adds the markov row, turns logits into weights exp((z - max) / temperature) in place. False if they are not finite.
template <class Exec>
NANOMD_TILE bool make_weights(Exec& exec, float* logits, int n_states, const float* markov_row,
                              float inverse_temperature) {
  const int lane = exec.lane();
  const float top = add_markov(exec, logits, n_states, markov_row);
  float sum = 0.0f;  // only to see what is not finite: the draw sums in double, in order
  for (int k = lane; k < n_states; k += 32) {
    const float weight = exec.exp((logits[k] - top) * inverse_temperature);
    logits[k] = weight;
    sum += weight;
  }
  sum = warp_sum(exec, sum);
  exec.sync_warp();  // the lane that draws reads what all lanes wrote
  return sum >= 0.5f && sum < INFINITY;
}

// As sample_state, by a whole warp, and for all its lanes: each sums a part of the states, in order, a scan over the
// lanes in a fixed order says in which part the cumulative weight exceeds u * total, and that lane looks where.
template <class Exec>
NANOMD_CALL int draw_state(Exec& exec, const float* weight, int n_states, double u) {
  // 1. Each lane sums its part.
  const int lane = exec.lane(), part = (n_states + 31) / 32;
  const int begin = lane * part < n_states ? lane * part : n_states;
  const int end = begin + part < n_states ? begin + part : n_states;
  double cumulative = 0.0;
  for (int k = begin; k < end; ++k) cumulative += static_cast<double>(weight[k]);
  // 2. A scan: all weights up to the end of each part.
  NANOMD_UNROLL
  for (int step = 1; step < 32; step *= 2) {
    const double left = exec.shuffle(cumulative, lane < step ? lane : lane - step);
    if (lane >= step) cumulative += left;
  }
  const double target = u * exec.shuffle(cumulative, 31);
  const double before = exec.shuffle(cumulative, lane == 0 ? 0 : lane - 1);
  // 3. The first part that reaches the target.
  int first = cumulative > target ? lane : 31;
  NANOMD_UNROLL
  for (int mask = 16; mask > 0; mask /= 2) {
    const int other = exec.shuffle_xor(first, mask);
    if (other < first) first = other;
  }
  // 4. Where in it.
  int state = -1;
  if (lane == first) {
    double sum = lane == 0 ? 0.0 : before;
    for (int k = begin; k < end && state < 0; ++k) {
      sum += static_cast<double>(weight[k]);
      if (sum > target) state = k;
    }
    if (state < 0) state = sample_state(weight, n_states, u);  // rounding at the end of a part
  }
  return exec.shuffle(state, first);
}

// out[k] = ln softmax(logits + markov row)[k], normalised in double. False if it is not finite.
template <class Exec>
NANOMD_TILE bool write_log_probs(Exec& exec, float* logits, int n_states, const float* markov_row, float* out) {
  const int lane = exec.lane();
  const float top = add_markov(exec, logits, n_states, markov_row);
  double sum = 0.0;
  for (int k = lane; k < n_states; k += 32) sum += exec.exp(static_cast<double>(logits[k]) - static_cast<double>(top));
  sum = warp_sum(exec, sum);
  const double shift = static_cast<double>(top) + exec.log(sum);
  for (int k = lane; k < n_states; k += 32)
    if (out != nullptr) out[k] = static_cast<float>(static_cast<double>(logits[k]) - shift);
  return sum >= 0.5 && sum < static_cast<double>(INFINITY);
}

}  // namespace nanomd::cuda
