// Observables of one session on the device: its tables, what is remembered of each trajectory, and the trail of tokens.
#pragma once

#include <memory>

#include "nanomd/observables.h"
#include "observe.h"
#include "platform.h"

namespace nanomd::cuda {

class DeviceObservables {
 public:
  // Goes on where the writer stands. launch_steps: most steps between two calls of `count`.
  DeviceObservables(std::shared_ptr<Platform> platform, const ObservablesWriter& writer, int launch_steps);
  // Bytes on the device: of the tables, and of each trajectory.
  static std::size_t table_bytes(const ObservablesSpec& spec);
  static std::size_t trajectory_bytes(const ObservablesSpec& spec, int launch_steps);

  // The trail, and its row for the step that comes `ahead` steps after those counted.
  std::uint16_t* trail() const { return trail_.as<std::uint16_t>(); }
  std::int32_t row(std::int64_t ahead) const { return static_cast<std::int32_t>((seen_ + ahead) % rows_); }
  // Queues the counting of the next n_steps steps, which stand in the trail once the work before is done.
  void count(Queue& queue, std::uint64_t n_steps);
  // Brings the writer up to the last step counted. Waits for the device.
  void collect(ObservablesWriter& writer) const;

 private:
  std::shared_ptr<Platform> platform_;
  std::size_t n_trajs_;
  std::int64_t max_lag_, rows_, seen_ = 0;
  Buffer table_, counters_, trail_, lags_, set_of_, edges_;
  ObserveArguments arguments_;
};

}  // namespace nanomd::cuda
