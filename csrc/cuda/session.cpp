#include "session.h"

#include <algorithm>
#include <cstring>

#include "ahead.h"
#include "nanomd/check.h"
#include "nanomd/engine_checks.h"

namespace nanomd::cuda {

namespace {
// A launch as long as this hides its start-up and the copies, and still answers Ctrl-C promptly.
constexpr double kSecondsPerLaunch = 0.05;
constexpr std::size_t kStatusBytes = 2 * sizeof(std::uint32_t);
}  // namespace

int output_columns(int n_trajs, std::size_t element_bytes) {
  const std::size_t columns = kOutputBytes / (static_cast<std::size_t>(n_trajs) * element_bytes);
  return static_cast<int>(std::clamp<std::size_t>(columns, 1, kMaxEntries));
}

namespace {

// history: tokens of each trajectory; element_bytes: of one result of one trajectory.
SessionBytes runner_bytes(const Layout& layout, std::size_t history, int n_trajs, std::size_t element_bytes) {
  const std::size_t columns = static_cast<std::size_t>(output_columns(n_trajs, element_bytes));
  SessionBytes bytes;
  bytes.per_trajectory = layout.cache_bytes() + history * 2 + sizeof(std::uint64_t) + kSlots * columns * element_bytes;
  if (!layout.shared.logits_in_shared)
    bytes.per_trajectory += static_cast<std::size_t>(layout.shared.logit_stride) * sizeof(float);
  if (layout.ahead > 0) bytes.per_trajectory += static_cast<std::size_t>(layout.ranks) * layout.draft_bytes;
  bytes.fixed = kSlots * kMaxEntries * sizeof(StepEntry) + kMaxEntries * sizeof(float) * layout.d_head;
  return bytes;
}

}  // namespace

SessionBytes session_bytes(const Layout& layout, Mode mode, int n_trajs, const ObservablesSpec* observed) {
  SessionBytes bytes = runner_bytes(layout, mode_history(layout.shape, mode), n_trajs, 2);
  if (observed != nullptr) {
    bytes.per_trajectory += DeviceObservables::trajectory_bytes(*observed, output_columns(n_trajs, 2));
    bytes.fixed += DeviceObservables::table_bytes(*observed);
  }
  return bytes;
}

SessionBytes log_probs_bytes(const Layout& layout, std::size_t n_tokens, int n_sequences) {
  return runner_bytes(layout, n_tokens, n_sequences, static_cast<std::size_t>(layout.shape.n_states) * sizeof(float));
}

Runner::Runner(const Uploaded& uploaded, int n_trajs, std::uint64_t columns, std::size_t out_bytes)
    : platform_(uploaded.platform), n_trajs_(n_trajs), columns_(columns), out_bytes_(out_bytes) {
  const Layout& layout = uploaded.layout;
  const int together = layout.trajectories_a_tile();
  n_tiles_ = (n_trajs + together - 1) / together;
  const std::size_t n = static_cast<std::size_t>(n_trajs);
  cache_ = Buffer(platform_, n * layout.cache_bytes());
  history_ = Buffer(platform_, n * columns * sizeof(std::uint16_t));
  trajectory_ = Buffer(platform_, n * sizeof(std::uint64_t));
  angles_ = Buffer(platform_, static_cast<std::size_t>(kMaxEntries) * layout.d_head * sizeof(float));
  if (!layout.shared.logits_in_shared)
    logits_ = Buffer(platform_,
                     static_cast<std::size_t>(n_tiles_) * layout.tile * layout.shared.logit_stride * sizeof(float));
  if (layout.ahead > 0) {
    const std::size_t tables = n * static_cast<std::size_t>(layout.ranks);
    drafts_ = Buffer(platform_, tables * layout.draft_bytes);
    const std::vector<std::uint32_t> unknown(static_cast<std::size_t>(layout.draft_rows), kNoPair);
    for (std::size_t i = 0; i < tables; ++i)
      platform_->copy_in(drafts_.as() + i * layout.draft_bytes, unknown.data(), unknown.size() * sizeof(std::uint32_t));
    arguments.drafts = drafts_.as();
  }
  status_ = Buffer(platform_, kStatusBytes);
  const std::uint32_t zero[2] = {0, 0};
  platform_->copy_in(status_.as(), zero, kStatusBytes);
  for (int slot = 0; slot < kSlots; ++slot) {
    steps_[slot] = Buffer(platform_, kMaxEntries * sizeof(StepEntry));
    pinned_steps_[slot] = Buffer(platform_, kMaxEntries * sizeof(StepEntry), true);
    out_[slot] = Buffer(platform_, out_bytes);
    pinned_out_[slot] = Buffer(platform_, out_bytes, true);
    pinned_status_[slot] = Buffer(platform_, kStatusBytes, true);
    std::memcpy(pinned_status_[slot].as(), zero, kStatusBytes);
  }
  queue_ = platform_->make_queue();
  arguments.layout = layout;
  arguments.weights = uploaded.weights->as();
  arguments.cache = cache_.as();
  arguments.history = history_.as<std::uint16_t>();
  arguments.history_stride = columns;
  arguments.trajectory = trajectory_.as<std::uint64_t>();
  arguments.angles = angles_.as<float>();
  arguments.logits = logits_.as<float>();
  arguments.status = status_.as<std::uint32_t>();
  arguments.n_trajs = n_trajs;
}

void Runner::set_history(const std::uint16_t* rows) {
  platform_->copy_in(history_.as(), rows, static_cast<std::size_t>(n_trajs_) * columns_ * sizeof(std::uint16_t));
}

void Runner::get_history(std::uint16_t* rows) const {
  platform_->copy_out(rows, history_.as(), static_cast<std::size_t>(n_trajs_) * columns_ * sizeof(std::uint16_t));
}

void Runner::submit(int slot, const std::vector<StepEntry>& entries, std::uint64_t out_stride, std::size_t out_bytes) {
  if (entries.empty() || entries.size() > kMaxEntries || out_bytes > out_bytes_)
    throw std::logic_error("a launch beyond the buffers of its session");
  const std::size_t bytes = entries.size() * sizeof(StepEntry);
  auto* steps = pinned_steps_[slot].as<StepEntry>();
  std::copy(entries.begin(), entries.end(), steps);
  if (arguments.layout.ahead > 0) mark_runs(steps, entries.size(), arguments.layout.ahead);
  queue_->upload(steps_[slot].as(), pinned_steps_[slot].as(), bytes);
  arguments.steps = steps_[slot].as<StepEntry>();
  arguments.n_steps = static_cast<std::int32_t>(entries.size());
  arguments.out = out_[slot].as();
  arguments.log_probs = out_[slot].as<float>();
  arguments.out_stride = out_stride;
  queue_->launch(arguments, n_tiles_);
  if (out_bytes > 0) queue_->download(slot, pinned_out_[slot].as(), out_[slot].as(), out_bytes);
  queue_->download(slot, pinned_status_[slot].as(), status_.as(), kStatusBytes);
}

void Runner::wait(int slot) {
  queue_->wait(slot);
  passes_ = pinned_status_[slot].as<std::uint32_t>()[1];
  check((*pinned_status_[slot].as<std::uint32_t>() & kNotFinite) == 0,
        "the model gave probabilities that are not finite: activations left the range of 16 bits, or the weights are "
        "damaged; try precision=\"fp32\" or backend=\"cpu\"");
}

TiledSession::TiledSession(std::shared_ptr<const Uploaded> uploaded, std::uint64_t replay,
                           const SessionOptions& options)
    : uploaded_(std::move(uploaded)),
      n_trajs_(options.n_trajs),
      columns_(mode_history(uploaded_->layout.shape, options.mode)),
      step_(options.first_step),
      end_(options.n_before + options.n_history),
      recorded_(std::min<std::uint64_t>(options.n_history, columns_)),
      schedule_(uploaded_->layout.shape, options.mode, options.hop_keep, columns_),
      runner_(*uploaded_, n_trajs_, columns_, static_cast<std::size_t>(output_columns(n_trajs_, 2)) * n_trajs_ * 2) {
  const std::size_t n = static_cast<std::size_t>(n_trajs_);
  std::vector<std::uint16_t> rows(n * columns_, 0);
  for (std::size_t i = 0; i < n; ++i)
    for (std::uint64_t t = options.n_history - recorded_; t < options.n_history; ++t)
      rows[i * columns_ + (options.n_before + t) % columns_] = options.history[i * options.n_history + t];
  runner_.set_history(rows.data());
  uploaded_->platform->copy_in(const_cast<std::uint64_t*>(runner_.arguments.trajectory), options.trajectory,
                               n * sizeof(std::uint64_t));
  runner_.arguments.seed = options.seed;
  runner_.arguments.inverse_temperature = static_cast<float>(1.0 / options.temperature);

  if (options.observables != nullptr) {
    observables_ =
        std::make_unique<DeviceObservables>(uploaded_->platform, *options.observables, output_columns(n_trajs_, 2));
    runner_.arguments.trail = observables_->trail();
  }

  // Fill the caches with all but the last token, which the first step feeds.
  schedule_.start(end_ - replay);
  while (schedule_.next() + 1 < end_) {
    entries_.clear();
    while (schedule_.next() + 1 < end_ && entries_.size() + uploaded_->layout.shape.context_length <= kMaxEntries)
      schedule_.feed(Want::kNothing, 0, -1, entries_);
    if (entries_.empty()) continue;
    runner_.submit(0, entries_, 0, 0);
    runner_.wait(0);
  }
}

TiledSession::Pending TiledSession::submit(int slot, std::uint64_t n_steps, const TokenSink& sink) {
  const bool stored = sink.tokens != nullptr;
  const int largest =
      stored ? static_cast<int>(runner_.out_capacity() / (static_cast<std::size_t>(n_trajs_) * sink.item_size))
             : kMaxEntries;
  const std::size_t W = static_cast<std::size_t>(uploaded_->layout.shape.context_length);
  Pending pending;
  pending.first_index = stored ? (step_ + sink.stride - 1) / sink.stride : 0;
  entries_.clear();
  while (pending.n_steps < n_steps && entries_.size() + W <= kMaxEntries &&
         (pending.n_steps == 0 || static_cast<double>(entries_.size()) < entries_per_launch_)) {
    const bool keep = stored && step_ % sink.stride == 0;
    if (keep && pending.columns == largest) break;
    if (observables_ && pending.n_steps == static_cast<std::uint64_t>(output_columns(n_trajs_, 2))) break;
    schedule_.feed(Want::kSample, step_, keep ? pending.columns++ : -1, entries_);
    if (observables_) entries_.back().trail = observables_->row(static_cast<std::int64_t>(pending.n_steps));
    ++step_;
    ++end_;
    ++pending.n_steps;
  }
  runner_.arguments.item_size = sink.item_size;
  const std::size_t columns = static_cast<std::size_t>(pending.columns);
  runner_.submit(slot, entries_, columns, stored ? columns * n_trajs_ * sink.item_size : 0);
  if (observables_) observables_->count(runner_.queue(), pending.n_steps);
  return pending;
}

void TiledSession::deliver(int slot, const Pending& pending, const TokenSink& sink) {
  runner_.wait(slot);
  if (pending.columns == 0) return;
  const std::size_t item = static_cast<std::size_t>(sink.item_size),
                    row = static_cast<std::size_t>(pending.columns) * item;
  auto* to = static_cast<unsigned char*>(sink.tokens) + (pending.first_index - sink.first_index) * item;
  for (int i = 0; i < n_trajs_; ++i)
    std::memcpy(to + static_cast<std::size_t>(i) * sink.row_stride * item, runner_.results(slot) + row * i, row);
}

bool TiledSession::advance(std::uint64_t n_steps, const TokenSink& sink, const ProgressCallback& progress) {
  check(!spent_, "the session was cancelled and cannot go on; open a new one from the stored tokens");
  check(sink.tokens == nullptr || sink.stride >= 1, "stride must be at least 1, got ", sink.stride);
  check(sink.tokens == nullptr || sink.item_size == 2 || uploaded_->layout.shape.n_states <= 256, "tokens of ",
        uploaded_->layout.shape.n_states, " states need two bytes each");
  spent_ = true;  // until all launches have come home
  Pending pending[kSlots];
  std::uint64_t left = n_steps;
  int in_flight = 0, slot = 0;
  bool cancelled = false;
  last_ = std::chrono::steady_clock::now();
  while (left > 0 || in_flight > 0) {
    if (left > 0 && !cancelled && in_flight < kSlots) {
      pending[slot] = submit(slot, left, sink);
      left -= pending[slot].n_steps;
      slot = (slot + 1) % kSlots;
      ++in_flight;
      continue;  // the next launch is queued before the results of this one are waited for
    }
    const int oldest = (slot + kSlots - in_flight) % kSlots;
    deliver(oldest, pending[oldest], sink);
    --in_flight;
    const auto now = std::chrono::steady_clock::now();
    const double seconds = std::chrono::duration<double>(now - last_).count();
    last_ = now;
    entries_per_launch_ *= std::clamp(kSecondsPerLaunch / std::max(seconds, 1e-6), 0.5, 2.0);
    entries_per_launch_ = std::clamp(entries_per_launch_, 1.0, static_cast<double>(kMaxEntries));
    if (!cancelled && progress && progress(pending[oldest].n_steps * static_cast<std::uint64_t>(n_trajs_))) {
      cancelled = true;
      left = 0;
    }
  }
  if (cancelled) return false;
  recorded_ = std::min(columns_, recorded_ + n_steps);
  spent_ = false;
  return true;
}

void TiledSession::copy_history(std::uint16_t* history) const {
  std::vector<std::uint16_t> rows(static_cast<std::size_t>(n_trajs_) * columns_);
  runner_.get_history(rows.data());
  for (std::size_t i = 0; i < static_cast<std::size_t>(n_trajs_); ++i)
    for (std::uint64_t t = 0; t < recorded_; ++t)
      history[i * recorded_ + t] = rows[i * columns_ + (end_ - recorded_ + t) % columns_];
}

bool tiled_log_probs(const Uploaded& uploaded, const LogProbOptions& options, float* out,
                     const ProgressCallback& progress) {
  const NetworkShape& shape = uploaded.layout.shape;
  const std::size_t V = static_cast<std::size_t>(shape.n_states), n = static_cast<std::size_t>(options.n_sequences);
  if (n == 0 || options.n_tokens == 0) return true;
  const int columns = output_columns(options.n_sequences, V * sizeof(float));
  Runner runner(uploaded, options.n_sequences, options.n_tokens,
                n * static_cast<std::size_t>(columns) * V * sizeof(float));
  // The whole sequences are the history: position p lies in column p - first_position.
  runner.set_history(options.tokens);
  Schedule schedule(shape, options.mode, options.hop_keep, options.n_tokens);
  const std::uint64_t first = options.mode == Mode::kRing ? options.first_position : 0;
  schedule.start(first);
  std::vector<StepEntry> entries;
  for (std::size_t t = 0; t < options.n_tokens;) {
    entries.clear();
    std::size_t taken = 0;
    while (t + taken < options.n_tokens && taken < static_cast<std::size_t>(columns) &&
           entries.size() + static_cast<std::size_t>(shape.context_length) <= kMaxEntries) {
      schedule.feed(Want::kLogProbs, 0, static_cast<int>(taken), entries);
      ++taken;
    }
    for (StepEntry& entry : entries)  // columns count from the first position here
      entry.source = static_cast<std::int32_t>(
          (static_cast<std::uint64_t>(entry.source) + options.n_tokens - first % options.n_tokens) % options.n_tokens);
    runner.submit(0, entries, taken, n * taken * V * sizeof(float));
    runner.wait(0);
    const auto* results = reinterpret_cast<const float*>(runner.results(0));
    for (std::size_t i = 0; i < n; ++i)
      std::copy_n(results + i * taken * V, taken * V, out + (i * options.n_tokens + t) * V);
    t += taken;
    if (progress && progress(taken * n)) return false;
  }
  return true;
}

}  // namespace nanomd::cuda
