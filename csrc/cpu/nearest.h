// The nearest of many centres, for sixteen points at a time in the SIMD lanes.
#pragma once

#include <limits>

#include "kernels.h"
#include "nanomd/clustering.h"

namespace nanomd {

inline constexpr int kNearestPoints = 4 * kLanes;  // at once, at most

// turned: [width][kNearestPoints], aligned.
template <class Vec>
void nearest_centers(const LloydInput& input, float* turned, std::int32_t* labels) {
  constexpr int B = Vec::kTile > 4 ? 4 : 2;  // vectors of points that share each number of a centre
  constexpr int kPoints = B * kLanes;
  const std::size_t d = static_cast<std::size_t>(input.width);
  alignas(64) float found[kPoints];
  for (std::int64_t first = 0; first < input.n; first += kPoints) {
    const int count = static_cast<int>(input.n - first < kPoints ? input.n - first : kPoints);
    for (int p = 0; p < count; ++p)
      for (std::size_t f = 0; f < d; ++f)
        turned[f * kPoints + p] = input.points[static_cast<std::size_t>(first + p) * d + f];
    Vec best[B], label[B];
    for (int b = 0; b < B; ++b) {
      best[b] = Vec::set(std::numeric_limits<float>::infinity());
      label[b] = Vec::set(0.0f);
    }
    for (int j = 0; j < input.n_centers; ++j) {
      const float* center = input.centers + static_cast<std::size_t>(j) * d;
      Vec product[B];
      for (int b = 0; b < B; ++b) product[b] = Vec::set(0.0f);
      for (std::size_t f = 0; f < d; ++f) {
        const Vec c = Vec::set(center[f]);
#pragma GCC unroll 4
        for (int b = 0; b < B; ++b) product[b] = fma(c, Vec::load(turned + f * kPoints + b * kLanes), product[b]);
      }
      const Vec norm = Vec::set(input.norms[j]), own = Vec::set(static_cast<float>(j));
#pragma GCC unroll 4
      for (int b = 0; b < B; ++b) {
        const Vec distance = fma(Vec::set(-2.0f), product[b], norm);
        label[b] = select_below(distance, best[b], own, label[b]);
        best[b] = min(distance, best[b]);
      }
    }
    for (int b = 0; b < B; ++b) label[b].store(found + b * kLanes);
    for (int p = 0; p < count; ++p) labels[first + p] = static_cast<std::int32_t>(found[p]);
  }
}

}  // namespace nanomd
