// One session of the tiled engine: device memory of its trajectories, the step table, double-buffered output.
#pragma once

#include <chrono>
#include <memory>
#include <vector>

#include "device_observables.h"
#include "nanomd/engine.h"
#include "platform.h"
#include "schedule.h"

namespace nanomd::cuda {

inline constexpr int kMaxEntries = 4096;                            // tokens through the model per launch
inline constexpr std::size_t kOutputBytes = std::size_t{32} << 20;  // of one slot, at most (but one column at least)

// Weights on the device, and what every session needs to know of them.
struct Uploaded {
  std::shared_ptr<Platform> platform;
  Layout layout;
  std::shared_ptr<const Buffer> weights;
};

// Bytes of a session beside its trajectories, and of each trajectory.
struct SessionBytes {
  std::size_t per_trajectory = 0, fixed = 0;
};
int output_columns(int n_trajs, std::size_t element_bytes);
// observed: what the session accumulates, or null.
SessionBytes session_bytes(const Layout& layout, Mode mode, int n_trajs, const ObservablesSpec* observed);
SessionBytes log_probs_bytes(const Layout& layout, std::size_t n_tokens, int n_sequences);

// Shared by rollouts and teacher-forced log-probabilities.
class Runner {
 public:
  // out_bytes: of one output slot.
  Runner(const Uploaded& uploaded, int n_trajs, std::uint64_t columns, std::size_t out_bytes);
  void set_history(const std::uint16_t* rows);  // [n_trajs][columns]
  void get_history(std::uint16_t* rows) const;
  // Queues the entries and the copy of `out_bytes` of results into slot; at most kMaxEntries.
  void submit(int slot, const std::vector<StepEntry>& entries, std::uint64_t out_stride, std::size_t out_bytes);
  void wait(int slot);  // and throws if the device saw probabilities that are not finite
  const unsigned char* results(int slot) const { return pinned_out_[slot].as(); }
  Queue& queue() { return *queue_; }
  std::uint32_t passes() const { return passes_; }  // of those waited for; with lookahead only
  Arguments arguments;
  std::size_t out_capacity() const { return out_bytes_; }

 private:
  std::shared_ptr<Platform> platform_;
  int n_trajs_, n_tiles_;
  std::uint64_t columns_;
  std::size_t out_bytes_;
  std::uint32_t passes_ = 0;
  Buffer cache_, history_, trajectory_, angles_, logits_, drafts_, status_;
  Buffer steps_[kSlots], pinned_steps_[kSlots], out_[kSlots], pinned_out_[kSlots], pinned_status_[kSlots];
  std::unique_ptr<Queue> queue_;  // destroyed first: nothing may run when memory is freed
};

class TiledSession final : public Session {
 public:
  TiledSession(std::shared_ptr<const Uploaded> uploaded, std::uint64_t replay, const SessionOptions& options);
  bool advance(std::uint64_t n_steps, const TokenSink& sink, const ProgressCallback& progress) override;
  std::size_t history_length() const override { return recorded_; }
  void copy_history(std::uint16_t* history) const override;
  // With lookahead: passes through the model that drew states so far (modulo 2^32), of all trajectories.
  std::uint32_t passes() const { return runner_.passes(); }
  bool observes() const override { return observables_ != nullptr; }
  void collect(ObservablesWriter& writer) const override { observables_->collect(writer); }

 private:
  struct Pending {
    std::uint64_t n_steps = 0, first_index = 0;
    int columns = 0;
  };
  Pending submit(int slot, std::uint64_t n_steps, const TokenSink& sink);
  void deliver(int slot, const Pending& pending, const TokenSink& sink);

  std::shared_ptr<const Uploaded> uploaded_;
  int n_trajs_;
  std::uint64_t columns_, step_, end_, recorded_;
  Schedule schedule_;
  std::unique_ptr<DeviceObservables> observables_;  // freed after the queue of the runner
  Runner runner_;
  std::vector<StepEntry> entries_;
  double entries_per_launch_ = 64;
  std::chrono::steady_clock::time_point last_;
  bool spent_ = false;
};

bool tiled_log_probs(const Uploaded& uploaded, const LogProbOptions& options, float* out,
                     const ProgressCallback& progress);

}  // namespace nanomd::cuda
