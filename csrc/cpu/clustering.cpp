#include "nanomd/clustering.h"

#include <algorithm>
#include <cmath>

#include "kernels.h"
#include "nearest.h"

namespace nanomd {

namespace {
// Four squares at a time, as scikit-learn sums them: it decides when the iterations end.
float distance(const float* a, const float* b, int n) {
  float sum = 0.0f;
  const auto square = [&](int i) { return (a[i] - b[i]) * (a[i] - b[i]); };
  int i = 0;
  for (; i + 4 <= n; i += 4) sum += square(i) + square(i + 1) + square(i + 2) + square(i + 3);
  for (; i < n; ++i) sum += square(i);
  return std::sqrt(sum);
}
}  // namespace

void lloyd(const LloydInput& input, std::int32_t* labels, float* means, float* counts, float* shifts,
           const std::string& isa) {
  const std::size_t d = static_cast<std::size_t>(input.width), k = static_cast<std::size_t>(input.n_centers);
  AlignedBuffer work(d * kNearestPoints);
  choose_kernels(isa).nearest(input, work.data(), labels);
  std::fill_n(means, k * d, 0.0f);
  std::fill_n(counts, k, 0.0f);
  for (std::int64_t i = 0; i < input.n; ++i) {
    const float* x = input.points + static_cast<std::size_t>(i) * d;
    float* sum = means + static_cast<std::size_t>(labels[i]) * d;
    counts[labels[i]] += 1.0f;
    for (std::size_t f = 0; f < d; ++f) sum[f] += x[f];
  }
  for (std::size_t j = 0; j < k; ++j) {
    const float* old = input.centers + j * d;
    float* mean = means + j * d;
    if (counts[j] > 0.0f) {
      const float share = static_cast<float>(1.0 / static_cast<double>(counts[j]));
      for (std::size_t f = 0; f < d; ++f) mean[f] *= share;
    } else {
      std::copy_n(old, d, mean);
    }
    shifts[j] = distance(mean, old, input.width);
  }
}

}  // namespace nanomd
