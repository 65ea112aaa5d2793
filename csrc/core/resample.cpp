#include "nanomd/resample.h"

#include <algorithm>
#include <cmath>

#include "nanomd/check.h"
#include "nanomd/philox.h"

namespace nanomd {

namespace {

constexpr std::uint64_t kDomain = std::uint64_t{1} << 63;  // streams that no walker has
constexpr double kSplitAbove = 2.0;                        // times the mean weight

struct Share {
  double weight;
  std::uint64_t parent;
  std::size_t givers = 0;  // which of the sets of walkers that gave it weight; 0 if its parent alone did
};

// One bin, its walkers by rising weight.
class Bin {
 public:
  Bin(std::vector<Share>&& walkers, std::size_t target, const ResampleOptions& options, std::uint64_t bin)
      : walkers_(std::move(walkers)), target_(target), options_(options), stream_(kDomain + bin) {
    sort();
    double total = 0;
    for (const Share& share : walkers_) total += share.weight;
    const double mean = total / static_cast<double>(target);
    split_heavy(mean);
    merge_light(mean);
    while (walkers_.size() < target_) {
      Share half = walkers_.back();
      half.weight /= 2;
      walkers_.back() = half;
      walkers_.push_back(half);
      sort();
    }
    while (walkers_.size() > target_) merge(2);
  }
  const std::vector<Share>& walkers() const { return walkers_; }
  const std::vector<std::uint64_t>& givers(const Share& share) const { return givers_[share.givers]; }

 private:
  void sort() {
    std::sort(walkers_.begin(), walkers_.end(), [](const Share& a, const Share& b) {
      return a.weight != b.weight ? a.weight < b.weight : a.parent < b.parent;
    });
  }

  void split_heavy(double mean) {
    std::vector<Share> result;
    for (const Share& share : walkers_) {
      const double parts = share.weight > kSplitAbove * mean ? std::ceil(share.weight / mean) : 1.0;
      for (double part = 0; part < parts; ++part) result.push_back({share.weight / parts, share.parent, share.givers});
    }
    walkers_ = std::move(result);
    sort();
  }

  void merge_light(double mean) {
    std::size_t light = 0;
    for (double sum = 0; light < walkers_.size(); ++light)
      if ((sum += walkers_[light].weight) > mean) break;
    if (light > 1) merge(light);
  }

  // The n lightest become one.
  void merge(std::size_t n) {
    double total = 0;
    for (std::size_t i = 0; i < n; ++i) total += walkers_[i].weight;
    const double place = total * rollout_uniform(options_.seed, (options_.iteration << 20) + n_drawn_++, stream_);
    std::size_t heir = 0;
    for (double sum = walkers_[0].weight; heir + 1 < n && sum <= place; sum += walkers_[heir].weight) ++heir;
    const std::uint64_t parent = walkers_[heir].parent;
    const std::size_t givers = options_.trace ? unite(n) : 0;
    walkers_.erase(walkers_.begin(), walkers_.begin() + static_cast<std::ptrdiff_t>(n));
    walkers_.push_back({total, parent, givers});
    sort();
  }

  // All that gave weight to the n lightest, as a new set.
  std::size_t unite(std::size_t n) {
    std::vector<std::uint64_t> all;
    for (std::size_t i = 0; i < n; ++i) {
      const std::vector<std::uint64_t>& some = givers_[walkers_[i].givers];
      all.insert(all.end(), some.begin(), some.end());
      all.push_back(walkers_[i].parent);
    }
    std::sort(all.begin(), all.end());
    all.erase(std::unique(all.begin(), all.end()), all.end());
    givers_.push_back(std::move(all));
    return givers_.size() - 1;
  }

  std::vector<Share> walkers_;
  std::vector<std::vector<std::uint64_t>> givers_{1};  // the first is empty
  std::size_t target_;
  const ResampleOptions& options_;
  std::uint64_t stream_, n_drawn_ = 0;
};

}  // namespace

Resampled resample(const ResampleOptions& options) {
  check(options.per_bin >= 1, "walkers_per_bin must be at least 1, got ", options.per_bin);
  std::vector<std::size_t> order(options.n);
  for (std::size_t i = 0; i < options.n; ++i) {
    check(options.weight[i] >= 0 && std::isfinite(options.weight[i]), "weights must be finite and not negative, got ",
          options.weight[i]);
    order[i] = i;
  }
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return options.bin[a] < options.bin[b]; });
  Resampled result;
  for (std::size_t first = 0; first < options.n;) {
    const std::uint64_t bin = options.bin[order[first]];
    std::vector<Share> walkers;
    std::size_t last = first;
    for (; last < options.n && options.bin[order[last]] == bin; ++last)
      walkers.push_back({options.weight[order[last]], order[last], 0});
    const Bin resampled(std::move(walkers), options.per_bin, options, bin);
    for (const Share& share : resampled.walkers()) {
      for (const std::uint64_t giver : resampled.givers(share))
        if (giver != share.parent) result.merged.insert(result.merged.end(), {result.parent.size(), giver});
      result.parent.push_back(share.parent);
      result.weight.push_back(share.weight);
    }
    first = last;
  }
  return result;
}

}  // namespace nanomd
