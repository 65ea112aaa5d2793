#include "group.h"

#include <algorithm>
#include <cstring>

#include "nanomd/philox.h"
#include "nanomd/rope.h"

namespace nanomd {

Group::Group(const Model& model, const Kernels& kernels, Mode mode, int hop_keep, int lanes, bool single)
    : model_(model), kernels_(kernels), mode_(mode), hop_keep_(hop_keep), lanes_(lanes), single_(single) {
  const KeyValueLayout layout = single ? single_layout(model.shape) : many_layout(model.shape);
  keys_ = AlignedBuffer(layout.keys);
  values_ = AlignedBuffer(layout.values);
  if (mode != Mode::kRing) recent_.assign(static_cast<std::size_t>(model.shape.context_length) * kLanes, 0);
  if (!model.shape.learned_position) {
    cos_.resize(static_cast<std::size_t>(model.shape.d_head() / 2));
    sin_.resize(cos_.size());
  }
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
    // The window is full: a new one begins with the last tokens, of which this one is the last.
    const std::uint64_t keep = mode_ == Mode::kHop ? static_cast<std::uint64_t>(hop_keep_) : W;
    // A crop recomputes at every step, so when nobody reads the logits there is nothing to do.
    if (mode_ == Mode::kCrop && !want_logits) return;
    for (window_ = 0; window_ + 1 < keep; ++window_)
      decode(past(position + 1 - keep + window_), static_cast<int>(window_), false, scratch);
  }
  decode(token, static_cast<int>(window_), want_logits, scratch);
  ++window_;
}

void Group::decode(const std::int32_t* token, int window_position, bool want_logits, Scratch& scratch) {
  const ModelShape& shape = model_.shape;
  DecodeStep step;
  step.model = &model_;
  step.scratch = &scratch;
  step.keys = keys_.data();
  step.values = values_.data();
  step.token = token;
  step.want_logits = want_logits;
  std::uint64_t angle_position = static_cast<std::uint64_t>(window_position);
  if (mode_ == Mode::kRing) {
    angle_position = next_ - 1;
    step.slot = static_cast<int>(angle_position % static_cast<std::uint64_t>(shape.context_length));
    step.slots = ring_slots(first_, angle_position, shape.context_length);
  } else {
    step.slot = step.position = window_position;
    step.slots = {window_position + 1, 0, 0};
  }
  if (!shape.learned_position) {
    rope_angles(model_.rope_multipliers.data(), shape.d_head() / 2, angle_position, cos_.data(), sin_.data());
    step.cos = cos_.data();
    step.sin = sin_.data();
  }
  (single_ ? kernels_.decode_single : kernels_.decode_many)(step);
}

void Group::sample(Scratch& scratch, float inverse_temperature, const double* u, std::int32_t* state) const {
  (single_ ? kernels_.sample_single : kernels_.sample_many)(scratch.logits.data(), model_.shape.n_states,
                                                            inverse_temperature, u, state);
}

void fill_uniforms(std::uint64_t seed, std::uint64_t step, const std::uint64_t* trajectory, int lanes, double* u) {
  for (int lane = 0; lane < lanes; ++lane) u[lane] = rollout_uniform(seed, step, trajectory[lane]);
}

}  // namespace nanomd
