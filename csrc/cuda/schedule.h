// Modes become slots: which token goes where, step by step. The kernels know only the resulting table.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "arguments.h"
#include "nanomd/kv_cache.h"

namespace nanomd::cuda {

// Lookahead: how many tokens, from each entry on, may go through the model together: all wanted for the same, at
// positions in a row, at most so many.
inline void mark_runs(StepEntry* entries, std::size_t n, int most) {
  for (std::size_t i = n; i-- > 0;) {
    const bool more =
        i + 1 < n && entries[i + 1].want == entries[i].want && entries[i + 1].angle == entries[i].angle + 1;
    entries[i].run = more ? std::min(entries[i + 1].run + 1, most) : 1;
  }
}

class Schedule {
 public:
  // history_columns: tokens of the past that the device keeps; position p lies in column p mod history_columns.
  Schedule(const NetworkShape& shape, Mode mode, int hop_keep, std::uint64_t history_columns)
      : window_length_(shape.context_length),
        mode_(mode),
        // What a full window hands to the next, before the token that did not fit.
        kept_(static_cast<int>(mode == Mode::kCrop
                                   ? shape.context_length - 1
                                   : hop_window(shape.context_length + 1, shape.context_length, hop_keep) - 1)),
        columns_(history_columns) {}

  void start(std::uint64_t position) {
    first_ = next_ = position;
    window_ = 0;
  }

  // Appends the entries that feed the next token; the last of them draws a state (of `step`, into `column` of the
  // output) or gives log-probabilities. At most context_length entries.
  void feed(Want want, std::uint64_t step, int column, std::vector<StepEntry>& entries) {
    const std::uint64_t position = next_++;
    if (mode_ == Mode::kRing) {
      StepEntry entry =
          make(position, position, static_cast<int>(position % static_cast<std::uint64_t>(window_length_)));
      const SlotRange slots = ring_slots(first_, position, window_length_);
      entry.end = slots.end, entry.hole_begin = slots.hole_begin, entry.hole_end = slots.hole_end;
      finish(entry, want, step, column, entries);
      return;
    }
    if (window_ == window_length_) {
      // A crop recomputes at every step: with nobody to read the logits there is nothing to do.
      if (mode_ == Mode::kCrop && want == Want::kNothing) return;
      for (window_ = 0; window_ < kept_; ++window_)
        entries.push_back(
            make(position - static_cast<std::uint64_t>(kept_ - window_), static_cast<std::uint64_t>(window_), window_));
    }
    finish(make(position, static_cast<std::uint64_t>(window_), window_), want, step, column, entries);
    ++window_;
  }

  std::uint64_t next() const { return next_; }

 private:
  StepEntry make(std::uint64_t position, std::uint64_t angle, int slot) const {
    StepEntry entry{};
    entry.angle = static_cast<std::uint32_t>(angle);
    entry.slot = entry.position = slot;
    entry.end = slot + 1;
    entry.source = static_cast<std::int32_t>(position % columns_);
    entry.target = static_cast<std::int32_t>((position + 1) % columns_);
    entry.column = entry.trail = -1;
    entry.want = Want::kNothing;
    return entry;
  }

  static void finish(StepEntry entry, Want want, std::uint64_t step, int column, std::vector<StepEntry>& entries) {
    entry.want = want;
    entry.step = step;
    entry.column = column;
    entries.push_back(entry);
  }

  int window_length_;
  Mode mode_;
  int kept_;
  std::uint64_t columns_;
  std::uint64_t first_ = 0, next_ = 0;
  int window_ = 0;
};

}  // namespace nanomd::cuda
