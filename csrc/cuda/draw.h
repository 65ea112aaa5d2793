// Logits -> the next state, or log-probabilities, of one trajectory, by one warp.
#pragma once

#include <cmath>

#include "nanomd/philox.h"
#include "nanomd/sampling.h"
#include "words.h"

namespace nanomd::cuda {

// Adds the markov row, turns logits into weights exp((z - max) / temperature) in place. False if they are not finite.
template <class Exec>
NANOMD_TILE bool make_weights(Exec& exec, float* logits, int n_states, const float* markov_row,
                              float inverse_temperature) {
  const int lane = exec.lane();
  float top = -INFINITY;
  for (int k = lane; k < n_states; k += 32) {
    if (markov_row != nullptr) logits[k] += exec.constant(markov_row + k);
    top = exec.max(top, logits[k]);
  }
  NANOMD_UNROLL
  for (int mask = 16; mask > 0; mask /= 2) top = exec.max(top, exec.shuffle_xor(top, mask));
  float sum = 0.0f;  // only to see what is not finite: the draw sums in double, in order
  for (int k = lane; k < n_states; k += 32) {
    const float weight = exec.exp((logits[k] - top) * inverse_temperature);
    logits[k] = weight;
    sum += weight;
  }
  NANOMD_UNROLL
  for (int mask = 16; mask > 0; mask /= 2) sum += exec.shuffle_xor(sum, mask);
  exec.sync_warp();  // the lane that draws reads what all lanes wrote
  return sum >= 0.5f && sum < INFINITY;
}

// out[k] = ln softmax(logits + markov row)[k], normalised in double. False if it is not finite.
template <class Exec>
NANOMD_TILE bool write_log_probs(Exec& exec, float* logits, int n_states, const float* markov_row, float* out) {
  const int lane = exec.lane();
  float top = -INFINITY;
  for (int k = lane; k < n_states; k += 32) {
    if (markov_row != nullptr) logits[k] += exec.constant(markov_row + k);
    top = exec.max(top, logits[k]);
  }
  NANOMD_UNROLL
  for (int mask = 16; mask > 0; mask /= 2) top = exec.max(top, exec.shuffle_xor(top, mask));
  double sum = 0.0;
  for (int k = lane; k < n_states; k += 32) sum += exec.exp(static_cast<double>(logits[k]) - static_cast<double>(top));
  NANOMD_UNROLL
  for (int mask = 16; mask > 0; mask /= 2) sum += exec.shuffle_xor(sum, mask);
  const double shift = static_cast<double>(top) + exec.log(sum);
  for (int k = lane; k < n_states; k += 32)
    if (out != nullptr) out[k] = static_cast<float>(static_cast<double>(logits[k]) - shift);
  return sum >= 0.5 && sum < static_cast<double>(INFINITY);
}

}  // namespace nanomd::cuda
