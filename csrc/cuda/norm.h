// LayerNorm of the residual stream of one trajectory, by one warp, into the half-precision input of the next product.
#pragma once

#include "half_rows.h"
#include "words.h"

namespace nanomd::cuda {

// x[d] -> out = (x - mean) / sqrt(var + 1e-5) * weight + bias, and x = out with kReplace (post-norm).
// `weight` null: out = x.
template <bool kPrecise, class Exec>
NANOMD_TILE void normalize(Exec& exec, float* x, int d, const float* weight, bool replace,
                           const HalfRows<kPrecise>& out, int trajectory) {
  const int lane = exec.lane();
  if (weight == nullptr) {
    for (int i = lane; i < d; i += 32) out.store(trajectory, i, x[i]);
    return;
  }
  const float inverse_d = 1.0f / static_cast<float>(d);
  float sum = 0.0f;
  for (int i = lane; i < d; i += 32) sum += x[i];
  NANOMD_UNROLL
  for (int mask = 16; mask > 0; mask /= 2) sum += exec.shuffle_xor(sum, mask);
  const float mean = sum * inverse_d;
  float squares = 0.0f;
  for (int i = lane; i < d; i += 32) {
    const float centred = x[i] - mean;
    squares = exec.fma(centred, centred, squares);
  }
  NANOMD_UNROLL
  for (int mask = 16; mask > 0; mask /= 2) squares += exec.shuffle_xor(squares, mask);
  const float scale = 1.0f / exec.sqrt(exec.fma(squares, inverse_d, 1e-5f));
  const float* bias = weight + d;
  for (int i = lane; i < d; i += 32) {
    const float y = exec.fma((x[i] - mean) * scale, exec.constant(weight + i), exec.constant(bias + i));
    if (replace) x[i] = y;
    out.store(trajectory, i, y);
  }
}

}  // namespace nanomd::cuda
