// LayerNorm of the residual stream of one trajectory, by one warp, into the half-precision input of the next product.
#pragma once

#include "half_rows.h"
#include "warp.h"
#include "words.h"

namespace nanomd::cuda {

// x[d] -> out = (x - mean) / sqrt(var + 1e-5) * weight + bias, and x = out where asked to replace it (post-norm).
// `weight` null: out = x. kPrecise: the output's rounding error is kept too. Exec: what a thread is.
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
  const float mean = warp_sum(exec, sum) * inverse_d;
  float squares = 0.0f;
  for (int i = lane; i < d; i += 32) {
    const float centred = x[i] - mean;
    squares = exec.fma(centred, centred, squares);
  }
  const float scale = 1.0f / exec.sqrt(exec.fma(warp_sum(exec, squares), inverse_d, 1e-5f));
  const float* bias = weight + d;
  for (int i = lane; i < d; i += 32) {
    const float y = exec.fma((x[i] - mean) * scale, exec.constant(weight + i), exec.constant(bias + i));
    if (replace) x[i] = y;
    out.store(trajectory, i, y);
  }
}

}  // namespace nanomd::cuda
