// The step between the iterations of a weighted ensemble: walkers of a bin are split and merged to a fixed number.
// G. A. Huber, S. Kim, Biophys. J. 70, 97 (1996).
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace nanomd {

struct ResampleOptions {
  std::size_t n = 0;
  const double* weight = nullptr;      // [n], positive
  const std::uint64_t* bin = nullptr;  // [n]
  std::size_t per_bin = 1;             // walkers of every bin that holds any
  std::uint64_t seed = 0, iteration = 0;
  bool trace = false;  // whether to say whose weight went where
};

struct Resampled {
  std::vector<std::uint64_t> parent;  // of each new walker, by bins in their order, then by weight
  std::vector<double> weight;
  // Pairs of a new walker and an old one, other than its parent, that gave it weight; only if traced.
  std::vector<std::uint64_t> merged;
};

// Every bin keeps its weight, and every walker its own on average: what is expected of any observable stays. Which of
// two merged walkers goes on is drawn in proportion to their weights, from (seed, iteration, bin) alone.
Resampled resample(const ResampleOptions& options);

}  // namespace nanomd
