#include "device_observables.h"

#include <algorithm>
#include <vector>

#include "nanomd/check.h"

namespace nanomd::cuda {

namespace {

std::int64_t longest_lag(const ObservablesSpec& spec) {
  return spec.lags.empty() ? 0 : *std::max_element(spec.lags.begin(), spec.lags.end());
}

// As in ObservablesWriter.
std::size_t counters_of(const ObservablesSpec& spec) {
  return kFirstVisited + static_cast<std::size_t>(spec.n_sets * (spec.n_sets + 1));
}

template <class T>
Buffer uploaded(const std::shared_ptr<Platform>& platform, const std::vector<T>& values) {
  Buffer buffer(platform, values.size() * sizeof(T));
  platform->copy_in(buffer.as(), values.data(), values.size() * sizeof(T));
  return buffer;
}

}  // namespace

std::size_t DeviceObservables::table_bytes(const ObservablesSpec& spec) {
  const ObservablesLayout layout(spec);
  return (layout.size + spec.lags.size() + spec.edges.size()) * sizeof(std::int64_t) +
         spec.set_of.size() * sizeof(std::int32_t);
}

std::size_t DeviceObservables::trajectory_bytes(const ObservablesSpec& spec, int launch_steps) {
  return counters_of(spec) * sizeof(std::int64_t) +
         static_cast<std::size_t>(longest_lag(spec) + launch_steps) * sizeof(std::uint16_t);
}

DeviceObservables::DeviceObservables(std::shared_ptr<Platform> platform, const ObservablesWriter& writer,
                                     int launch_steps)
    : platform_(std::move(platform)),
      n_trajs_(writer.n_trajs()),
      max_lag_(longest_lag(writer.spec())),
      rows_(max_lag_ + launch_steps) {
  const ObservablesSpec& spec = writer.spec();
  const std::size_t width = writer.counters_per_trajectory();
  check(spec.lags.size() < 65535, "the cuda engine counts transitions at up to 65534 lagtimes, got ", spec.lags.size());
  seen_ = writer.counters()[kSteps];
  for (std::size_t i = 0; i < n_trajs_; ++i)
    check(writer.counters()[i * width + kSteps] == seen_, "the observables must have seen as many steps of every ",
          "trajectory, got ", seen_, " of the first and ", writer.counters()[i * width + kSteps], " of trajectory ", i);
  table_ = uploaded(platform_, writer.totals());
  counters_ = uploaded(platform_, writer.counters());
  lags_ = uploaded(platform_, spec.lags);
  set_of_ = uploaded(platform_, spec.set_of);
  edges_ = uploaded(platform_, spec.edges);
  std::vector<std::uint16_t> trail(static_cast<std::size_t>(rows_) * n_trajs_, 0);
  for (std::int64_t t = std::max<std::int64_t>(0, seen_ - max_lag_); t < seen_; ++t)
    for (std::size_t i = 0; i < n_trajs_; ++i)
      trail[static_cast<std::size_t>(t % rows_) * n_trajs_ + i] =
          writer.recent()[i * static_cast<std::size_t>(max_lag_) + static_cast<std::size_t>(t % max_lag_)];
  trail_ = uploaded(platform_, trail);

  arguments_.sets = {writer.layout(), static_cast<std::size_t>(spec.n_sets), spec.edges.size(),
                     edges_.as<std::int64_t>()};
  arguments_.lags = lags_.as<std::int64_t>();
  arguments_.set_of = set_of_.as<std::int32_t>();
  arguments_.counters = counters_.as<std::int64_t>();
  arguments_.table = table_.as<std::int64_t>();
  arguments_.trail = trail_.as<std::uint16_t>();
  arguments_.rows = rows_;
  arguments_.n_states = static_cast<std::size_t>(spec.n_states);
  arguments_.width = width;
  arguments_.n_lags = static_cast<std::int32_t>(spec.lags.size());
  arguments_.n_trajs = static_cast<std::int32_t>(n_trajs_);
}

void DeviceObservables::count(Queue& queue, std::uint64_t n_steps) {
  if (static_cast<std::int64_t>(n_steps) > rows_ - max_lag_)
    throw std::logic_error("more steps than the trail of tokens holds");
  arguments_.seen = seen_;
  arguments_.n_steps = static_cast<std::int32_t>(n_steps);
  queue.observe(arguments_);
  seen_ += static_cast<std::int64_t>(n_steps);
}

void DeviceObservables::collect(ObservablesWriter& writer) const {
  std::vector<std::int64_t> totals(writer.layout().size), counters(writer.counters().size());
  std::vector<std::uint16_t> recent(writer.recent().size(), 0);
  check(writer.n_trajs() == n_trajs_ && totals.size() == arguments_.sets.at.size &&
            recent.size() == static_cast<std::size_t>(max_lag_) * n_trajs_,
        "the observables of a session must be collected by a writer of the same description");
  platform_->copy_out(totals.data(), table_.as(), totals.size() * sizeof(std::int64_t));
  platform_->copy_out(counters.data(), counters_.as(), counters.size() * sizeof(std::int64_t));
  if (max_lag_ > 0) {
    std::vector<std::uint16_t> trail(static_cast<std::size_t>(rows_) * n_trajs_);
    platform_->copy_out(trail.data(), trail_.as(), trail.size() * sizeof(std::uint16_t));
    for (std::int64_t t = std::max<std::int64_t>(0, seen_ - max_lag_); t < seen_; ++t)
      for (std::size_t i = 0; i < n_trajs_; ++i)
        recent[i * static_cast<std::size_t>(max_lag_) + static_cast<std::size_t>(t % max_lag_)] =
            trail[static_cast<std::size_t>(t % rows_) * n_trajs_ + i];
  }
  writer.restore(totals, counters, recent);
}

}  // namespace nanomd::cuda
