// Reductions over the lanes of a warp, in one order whatever the warp. All lanes take part, and all get the result.
#pragma once

#include "words.h"

namespace nanomd::cuda {

// Exec: what a thread is (tile.h). T: float or double.
template <class Exec, class T>
NANOMD_TILE T warp_sum(Exec& exec, T value) {
  NANOMD_UNROLL
  for (int mask = 16; mask > 0; mask /= 2) value += exec.shuffle_xor(value, mask);
  return value;
}

// Exec: what a thread is.
template <class Exec>
NANOMD_TILE float warp_max(Exec& exec, float value) {
  NANOMD_UNROLL
  for (int mask = 16; mask > 0; mask /= 2) value = exec.max(value, exec.shuffle_xor(value, mask));
  return value;
}

}  // namespace nanomd::cuda
