#include "group.h"

#include <algorithm>
#include <cstring>

#include "nanomd/philox.h"
#include "nanomd/rope.h"

namespace nanomd {

Group::Group(const Model& model, const Kernels& kernels, Mode mode, int hop_keep, int n_trajs, bool columns,
             bool retracts)
    : model_(model),
      kernels_(kernels),
      mode_(mode),
      hop_keep_(hop_keep),
      n_trajs_(n_trajs),
      columns_(columns),
      draw_(model, kernels, columns),
      layout_(columns ? column_layout(model.shape) : lane_layout(model.shape)),
      item_(model.precision == Precision::kFp32 ? sizeof(float) : sizeof(Half)) {
  const std::size_t copies = columns ? static_cast<std::size_t>(n_trajs) : 1;
  const auto buffer = [&](std::size_t items) { return AlignedBuffer(items * item_ / sizeof(float)); };
  keys_ = buffer(layout_.keys * copies);
  values_ = buffer(layout_.values * copies);
  const ModelShape& shape = model.shape;
  if (columns && n_trajs == 1 && mode == Mode::kRing && retracts)
    saved_ = buffer(static_cast<std::size_t>(round_up(2 * shape.n_layer * shape.d_kv())) * kMaxColumns);
  if (!shape.learned_position) own_angles_ = AlignedBuffer(2 * static_cast<std::size_t>(round_up(shape.d_head() / 2)));
  if (mode != Mode::kRing) recent_.assign(static_cast<std::size_t>(shape.context_length) * kLanes, 0);
}

void Group::start(std::uint64_t position) {
  first_ = next_ = position;
  window_ = 0;
  // Slots that hold nothing are masked by a weight of zero, which needs finite numbers to multiply.
  std::memset(keys_.data(), 0, keys_.size() * sizeof(float));
  std::memset(values_.data(), 0, values_.size() * sizeof(float));
}

const std::int32_t* Group::past(std::uint64_t position) const {
  return recent_.data() + (position % static_cast<std::uint64_t>(model_.shape.context_length)) * kLanes;
}

void Group::feed(const std::int32_t* token, bool want_logits, Scratch& scratch) {
  const std::uint64_t position = next_++;
  if (mode_ == Mode::kRing) {
    decode(token, 0, want_logits, scratch);
    return;
  }
  const std::uint64_t W = static_cast<std::uint64_t>(model_.shape.context_length);
  std::copy(token, token + kLanes, recent_.data() + (position % W) * kLanes);
  if (window_ == W) {
    // The window is full: a new one begins with the last tokens, of which this one is the last. A crop recomputes at
    // every step, so when nobody reads the logits there is nothing to do.
    if (mode_ == Mode::kCrop && !want_logits) return;
    refill(position, mode_ == Mode::kHop ? static_cast<std::uint64_t>(hop_keep_) : W, want_logits, scratch);
    return;
  }
  decode(token, static_cast<int>(window_), want_logits, scratch);
  ++window_;
}

// Fills an empty window with the `keep` tokens up to `position`.
void Group::refill(std::uint64_t position, std::uint64_t keep, bool want_logits, Scratch& scratch) {
  const std::uint64_t begin = position + 1 - keep;
  window_ = 0;
  if (columns_ && n_trajs_ == 1) {  // many positions at once
    std::int32_t tokens[kMaxColumns];
    while (window_ < keep) {
      // Nearly equal parts: a single position costs as much as several.
      const std::uint64_t parts = (keep - window_ + kMaxColumns - 1) / kMaxColumns;
      const int n = static_cast<int>((keep - window_ + parts - 1) / parts);
      for (int i = 0; i < n; ++i) tokens[i] = *past(begin + window_ + static_cast<std::uint64_t>(i));
      const bool last = window_ + static_cast<std::uint64_t>(n) == keep;
      decode_run(tokens, n, begin + window_, static_cast<int>(window_), want_logits && last ? n - 1 : n, scratch);
      window_ += static_cast<std::uint64_t>(n);
    }
    return;
  }
  for (; window_ < keep; ++window_)
    decode(past(begin + window_), static_cast<int>(window_), want_logits && window_ + 1 == keep, scratch);
}

int Group::room() const {
  const int W = model_.shape.context_length;
  if (!columns_ || n_trajs_ > 1 || mode_ == Mode::kCrop) return 1;
  if (mode_ == Mode::kRing) return std::min(kMaxColumns, W);
  const int used = static_cast<int>(window_);
  return std::min(kMaxColumns, used == W ? W - hop_keep_ + 1 : W - used);
}

void Group::feed_run(const std::int32_t* token, int n, Scratch& scratch) {
  std::int32_t row[kLanes];
  if (n == 1) {
    std::fill(row, row + kLanes, *token);
    feed(row, true, scratch);
    return;
  }
  const std::uint64_t position = next_, W = static_cast<std::uint64_t>(model_.shape.context_length);
  if (mode_ == Mode::kRing) {
    for (std::uint64_t i = 1; i < static_cast<std::uint64_t>(n); ++i)
      if (position + i >= first_ + W) copy_slot(static_cast<int>((position + i) % W), static_cast<int>(i), false);
  } else {
    if (window_ == W) refill(position - 1, static_cast<std::uint64_t>(hop_keep_) - 1, false, scratch);
    for (std::uint64_t i = 0; i < static_cast<std::uint64_t>(n); ++i) recent_[((position + i) % W) * kLanes] = token[i];
  }
  decode_run(token, n, position, static_cast<int>(window_), 0, scratch);
  next_ += static_cast<std::uint64_t>(n);
  if (mode_ != Mode::kRing) window_ += static_cast<std::uint64_t>(n);
  run_ = n;
}

void Group::retract(int n) {
  const std::uint64_t W = static_cast<std::uint64_t>(model_.shape.context_length);
  if (mode_ != Mode::kRing) window_ -= static_cast<std::uint64_t>(n);
  for (int i = run_ - n; i < run_; ++i) {
    const std::uint64_t position = next_ - static_cast<std::uint64_t>(run_ - i);
    if (mode_ == Mode::kRing && position >= first_ + W) copy_slot(static_cast<int>(position % W), i, true);
  }
  next_ -= static_cast<std::uint64_t>(n);
  run_ -= n;
}

void Group::fill(const std::int32_t* token, std::size_t n, Scratch& scratch) {
  const std::uint64_t W = static_cast<std::uint64_t>(model_.shape.context_length);
  for (std::size_t done = 0; done < n;) {
    const int part = static_cast<int>(std::min<std::size_t>(n - done, std::min<std::size_t>(kMaxColumns, W)));
    if (mode_ != Mode::kRing)
      for (int i = 0; i < part; ++i) recent_[((next_ + static_cast<std::uint64_t>(i)) % W) * kLanes] = token[done + i];
    decode_run(token + done, part, next_, static_cast<int>(window_), part, scratch);
    next_ += static_cast<std::uint64_t>(part);
    if (mode_ != Mode::kRing) window_ += static_cast<std::uint64_t>(part);
    done += static_cast<std::size_t>(part);
  }
}

void Group::stage(std::int32_t token, Column& column, Scratch& scratch) {
  const std::uint64_t position = next_++;
  if (mode_ != Mode::kRing) {
    const std::uint64_t W = static_cast<std::uint64_t>(model_.shape.context_length);
    recent_[(position % W) * kLanes] = token;
    const std::uint64_t keep = mode_ == Mode::kHop ? static_cast<std::uint64_t>(hop_keep_) : W;
    if (window_ == W) refill(position - 1, keep - 1, false, scratch);
  }
  // Columns of several groups, at positions of their own, stand in one step: each has its row.
  if (!model_.shape.learned_position) compute_angles(mode_ == Mode::kRing ? position : window_, own_angles_.data());
  place(position, static_cast<int>(window_), own_angles_.data(), column);
  column.token = token;
  column.keys = keys_.data();
  column.values = values_.data();
  if (mode_ != Mode::kRing) ++window_;
}

void Group::copy(const Group& other) {
  std::memcpy(keys_.data(), other.keys_.data(), keys_.size() * sizeof(float));
  std::memcpy(values_.data(), other.values_.data(), values_.size() * sizeof(float));
  recent_ = other.recent_;
  first_ = other.first_;
  next_ = other.next_;
  window_ = other.window_;
  run_ = 0;
}

// Keys and values of one slot, in all layers, to or from the saved ones.
void Group::copy_slot(int slot, int saved, bool restore) {
  const ModelShape& shape = model_.shape;
  const std::size_t d_head = static_cast<std::size_t>(shape.d_head()), heads = layout_.keys / layout_.keys_per_head;
  const std::size_t capacity = layout_.keys_per_head / d_head, head_pad = layout_.values_per_head / capacity;
  const auto copy = [&]<class Item>(Item* keys, Item* values, Item* store) {
    store += static_cast<std::size_t>(saved) * static_cast<std::size_t>(round_up(2 * shape.n_layer * shape.d_kv()));
    for (std::size_t head = 0; head < heads; ++head, store += 2 * d_head) {
      Item* key = keys + head * layout_.keys_per_head + slot;
      Item* value = values + head * layout_.values_per_head + static_cast<std::size_t>(slot) * head_pad;
      if (restore) {
        for (std::size_t f = 0; f < d_head; ++f) key[f * capacity] = store[f];
        std::copy(store + d_head, store + 2 * d_head, value);
      } else {
        for (std::size_t f = 0; f < d_head; ++f) store[f] = key[f * capacity];
        std::copy(value, value + d_head, store + d_head);
      }
    }
  };
  if (item_ == sizeof(float))
    copy(keys_.data(), values_.data(), saved_.data());
  else
    copy(reinterpret_cast<Half*>(keys_.data()), reinterpret_cast<Half*>(values_.data()),
         reinterpret_cast<Half*>(saved_.data()));
}

// Slot, visible slots and rotary phases of a position, those in the row of angles given.
void Group::place(std::uint64_t position, int window_position, float* angles, Column& column) const {
  const ModelShape& shape = model_.shape;
  if (mode_ == Mode::kRing) {
    column.slot = static_cast<int>(position % static_cast<std::uint64_t>(shape.context_length));
    column.slots = ring_slots(first_, position, shape.context_length);
  } else {
    column.slot = column.position = window_position;
    column.slots = {window_position + 1, 0, 0};
  }
  if (shape.learned_position) return;
  column.cos = angles;
  column.sin = angles + round_up(shape.d_head() / 2);
}

// The row of angles of a position, computed where the thread does not have it yet. Positions of one step differ by less
// than kAngleRows, so that no column loses its row to another.
float* Group::angles(std::uint64_t position, int window_position, Scratch& scratch) const {
  static_assert(kAngleRows >= kMaxColumns);
  if (model_.shape.learned_position) return nullptr;
  const std::uint64_t phase = mode_ == Mode::kRing ? position : static_cast<std::uint64_t>(window_position);
  const std::size_t row = phase % kAngleRows, width = static_cast<std::size_t>(round_up(model_.shape.d_head() / 2));
  float* at = scratch.angles.data() + 2 * width * row;
  if (scratch.angle_phase[row] != phase) {
    compute_angles(phase, at);
    scratch.angle_phase[row] = phase;
  }
  return at;
}

void Group::compute_angles(std::uint64_t phase, float* at) const {
  const int half = model_.shape.d_head() / 2;
  rope_angles(model_.rope_multipliers.data(), half, phase, at, at + round_up(half));
}

void Group::decode_run(const std::int32_t* token, int n, std::uint64_t position, int window_position, int first_logits,
                       Scratch& scratch) {
  ColumnStep step;
  step.model = &model_;
  step.scratch = &scratch;
  step.n_columns = n;
  step.first_logits = first_logits;
  for (int i = 0; i < n; ++i) {
    Column& column = step.column[i];
    const std::uint64_t at = position + static_cast<std::uint64_t>(i);
    place(at, window_position + i, angles(at, window_position + i, scratch), column);
    column.token = token[i];
    column.keys = keys_.data();
    column.values = values_.data();
  }
  kernels_.decode_columns[static_cast<int>(model_.precision)](step);
}

// One token of each trajectory, at the position next_ - 1 (ring) or window_position.
void Group::decode(const std::int32_t* token, int window_position, bool want_logits, Scratch& scratch) {
  Column shared;
  place(next_ - 1, window_position, angles(next_ - 1, window_position, scratch), shared);
  if (columns_) {
    ColumnStep step;
    step.model = &model_;
    step.scratch = &scratch;
    step.n_columns = n_trajs_;
    step.first_logits = want_logits ? 0 : n_trajs_;
    for (int i = 0; i < n_trajs_; ++i) {
      const std::size_t offset = static_cast<std::size_t>(i) * item_;
      step.column[i] = shared;
      step.column[i].token = token[i];
      step.column[i].keys = reinterpret_cast<std::byte*>(keys_.data()) + layout_.keys * offset;
      step.column[i].values = reinterpret_cast<std::byte*>(values_.data()) + layout_.values * offset;
    }
    kernels_.decode_columns[static_cast<int>(model_.precision)](step);
    return;
  }
  LaneStep step;
  step.model = &model_;
  step.scratch = &scratch;
  step.keys = keys_.data();
  step.values = values_.data();
  step.token = token;
  step.cos = shared.cos;
  step.sin = shared.sin;
  step.position = shared.position;
  step.slot = shared.slot;
  step.slots = shared.slots;
  step.want_logits = want_logits;
  kernels_.decode_lanes[static_cast<int>(model_.precision)](step);
}

void fill_uniforms(std::uint64_t seed, std::uint64_t step, const std::uint64_t* trajectory, int lanes, double* u) {
  for (int lane = 0; lane < lanes; ++lane) u[lane] = rollout_uniform(seed, step, trajectory[lane]);
}

}  // namespace nanomd
