#include "draw.h"

#include <algorithm>
#include <cmath>

namespace nanomd {

namespace {

constexpr std::size_t kPrefetched = std::size_t{1} << 17;  // bytes, of a second-level cache of several times that

double log_sum_exp(const float* logits, int n, int stride) {
  double top = logits[0], sum = 0;
  for (int k = 0; k < n; ++k) top = std::max(top, static_cast<double>(logits[static_cast<std::size_t>(k) * stride]));
  for (int k = 0; k < n; ++k) sum += std::exp(logits[static_cast<std::size_t>(k) * stride] - top);
  return top + std::log(sum);
}

// out[k] = offset + ln softmax(logits)[k], normalised in double.
void log_softmax(const float* logits, int n, int stride, double offset, float* out) {
  const double log_sum = log_sum_exp(logits, n, stride);
  for (int k = 0; k < n; ++k)
    out[k] = static_cast<float>(offset + (logits[static_cast<std::size_t>(k) * stride] - log_sum));
}

}  // namespace

// Those of the first column that wanted logits come first.
float* Draw::logits(const Scratch& scratch, int i) const {
  return scratch.logits.data() + (columns_ ? static_cast<std::size_t>(i) * round_up(model_.shape.n_choices()) : i);
}

void Draw::states(Scratch& scratch, int n, float inverse_temperature, const double* u, std::int32_t* state) const {
  const int n_choices = model_.shape.n_choices();
  double rest[kMaxColumns];
  double* const within = model_.shape.grouped() ? rest : nullptr;
  if (columns_)
    for (int i = 0; i < n; ++i)
      kernels_.sample_column(logits(scratch, i), n_choices, inverse_temperature, u[i], state + i,
                             within == nullptr ? nullptr : within + i);
  else
    kernels_.sample_lanes(scratch.logits.data(), n_choices, inverse_temperature, u, state, within);
  if (within != nullptr) draw_members(scratch, 0, n, rest, state);
}

std::int32_t Draw::state(Scratch& scratch, int i, float inverse_temperature, double u) const {
  std::int32_t state = 0;
  double rest = 0;
  kernels_.sample_column(logits(scratch, i), model_.shape.n_choices(), inverse_temperature, u, &state, &rest);
  if (model_.shape.grouped()) draw_members(scratch, i, 1, &rest, &state);
  return state;
}

// state: groups on entry. Trajectories `first` and so on.
void Draw::draw_members(Scratch& scratch, int first, int n, const double* rest, std::int32_t* state) const {
  std::int32_t waiting[kMaxColumns];  // the group, or -1
  std::copy(state, state + n, waiting);
  for (int i = 0; i < n; ++i) {
    const int group = waiting[i];
    if (group < 0) continue;
    int together[kSharing], trajectory[kSharing], m = 0;
    for (int j = i; j < n && m < kSharing; ++j) {
      if (waiting[j] != group) continue;
      together[m] = j;
      trajectory[m++] = first + j;
      waiting[j] = -1;
    }
    const int size = model_.shape.group_sizes[static_cast<std::size_t>(group)];
    const auto next = std::find_if(waiting + i, waiting + n, [](std::int32_t g) { return g >= 0; });
    if (next != waiting + n) prefetch(*next);
    if (size > 1) member_logits(scratch, group, trajectory, m);
    for (int c = 0; c < m; ++c) {
      std::int32_t member = 0;
      if (size > 1)
        kernels_.sample_column(scratch.members.data() + static_cast<std::size_t>(c) * round_up(size), size, 1.0f,
                               rest[together[c]], &member, nullptr);
      state[together[c]] = member < 0 ? -1 : model_.group_start[static_cast<std::size_t>(group)] + member;
    }
  }
}

// Asks for what the next product reads: a group's rows are too short for the processor to foresee them.
void Draw::prefetch(int group) const {
  const PackedLinear& members = model_.members[static_cast<std::size_t>(group)];
  const bool half = model_.precision == Precision::kFp16;
  const char* from = half ? reinterpret_cast<const char*>(members.half) : reinterpret_cast<const char*>(members.weight);
  const std::size_t bytes =
      static_cast<std::size_t>(members.n_blocks) * members.n_in * kLanes * (half ? sizeof(Half) : sizeof(float));
  for (std::size_t at = 0; at < std::min(bytes, kPrefetched); at += 64) __builtin_prefetch(from + at, 0, 2);
}

// To scratch.members[trajectory][size of the group, padded to 16]. By the columns kernel's product for both kernels:
// trajectories in lanes differ in what they have to multiply.
void Draw::member_logits(Scratch& scratch, int group, const int* trajectory, int n) const {
  const PackedLinear& members = model_.members[static_cast<std::size_t>(group)];
  const int d = model_.shape.d_model, stride = round_up(d);
  const float* x = scratch.read + static_cast<std::size_t>(trajectory[0]) * stride;
  if (!columns_ || n > 1) {
    float* to = scratch.gathered.data();
    for (int c = 0; c < n; ++c, to += stride) {
      const int from = trajectory[c];
      if (columns_)
        std::copy_n(scratch.read + static_cast<std::size_t>(from) * stride, d, to);
      else
        for (int f = 0; f < d; ++f) to[f] = scratch.read[static_cast<std::size_t>(f) * kLanes + from];
    }
    x = scratch.gathered.data();
  }
  kernels_.product[static_cast<int>(model_.precision)](members, x, stride, n, scratch.members.data(),
                                                       members.n_blocks * kLanes);
}

void Draw::log_probs(Scratch& scratch, int i, float* out) const {
  const ModelShape& shape = model_.shape;
  const float* choice = logits(scratch, i);
  const int stride = columns_ ? 1 : kLanes;
  if (!shape.grouped()) return log_softmax(choice, shape.n_states, stride, 0.0, out);
  const int n_groups = shape.n_choices();
  const double log_sum = log_sum_exp(choice, n_groups, stride);
  for (int g = 0; g < n_groups; ++g) {
    const int size = shape.group_sizes[static_cast<std::size_t>(g)];
    const double of_group = choice[static_cast<std::size_t>(g) * stride] - log_sum;
    float* own = out + model_.group_start[static_cast<std::size_t>(g)];
    if (size == 1) {
      *own = static_cast<float>(of_group);
      continue;
    }
    member_logits(scratch, g, &i, 1);
    log_softmax(scratch.members.data(), size, 1, of_group, own);
  }
}

}  // namespace nanomd
