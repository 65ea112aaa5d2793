// The iterations of k-means over points of a few dimensions.
#pragma once

#include <cstdint>
#include <string>

namespace nanomd {

struct LloydInput {
  std::int64_t n = 0;              // points
  int width = 0;                   // their dimensions
  int n_centers = 0;               // at most 2^24
  const float* points = nullptr;   // [n][width]
  const float* centers = nullptr;  // [n_centers][width]
  const float* norms = nullptr;    // [n_centers], |c|^2
};

// The nearest centre of every point, as the first of least |c|^2 - 2 x.c in single precision: products are fused and
// summed over dimensions in order, so the labels depend neither on a library of linear algebra nor on blocks. Then the
// mean of each centre's points, summed in their order, and how far it moved. A centre without points keeps its place
// and has the count 0.
void lloyd(const LloydInput& input, std::int32_t* labels, float* means, float* counts, float* shifts,
           const std::string& isa = "");

}  // namespace nanomd
