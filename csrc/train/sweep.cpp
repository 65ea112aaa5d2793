#include <algorithm>

#include "nanomd/check.h"
#include "nanomd/output_sweep.h"
#include "train/kernels.h"
#include "train/team.h"

namespace nanomd {

using namespace train;  // what this file puts together

namespace {

constexpr std::ptrdiff_t kRanges = 8;  // of contexts, added up one after the other; each at least
constexpr std::ptrdiff_t kLeast = 4096;

struct Part {
  std::ptrdiff_t first, n;
  double loss = 0.0;
  std::vector<double> transitions, moments;
};

AlignedBuffer pack_head(const SweepInput& input, int padded_states, int padded_width) {
  AlignedBuffer head(static_cast<std::size_t>(padded_states) * padded_width);
  for (int k = 0; k < input.n_states; ++k)
    for (int f = 0; f < input.width; ++f)
      head.data()[(static_cast<std::size_t>(k / kLanes) * padded_width + f) * kLanes + k % kLanes] =
          input.head[static_cast<std::size_t>(k) * input.width + f];
  return head;
}

}  // namespace

double sweep_output(const SweepInput& input, double* transitions, double* moments, int n_threads,
                    const std::string& isa) {
  const Kernels& kernels = choose_kernels(isa);
  const std::size_t V = static_cast<std::size_t>(input.n_states), width = static_cast<std::size_t>(input.width);
  check(input.n_states >= 2 && input.width >= 1, "the layer has no size");
  for (std::ptrdiff_t i = 0; i < input.n; ++i) {
    for (const std::int64_t state : {input.current[i], input.following[i]})
      check(state >= 0 && state < input.n_states, "states must be in [0, ", input.n_states - 1, "], got ", state);
    check(i == 0 || input.current[i - 1] <= input.current[i], "contexts must be sorted by their state");
  }
  const int padded_states = round_up(input.n_states), padded_width = round_up(input.width);
  const AlignedBuffer head = pack_head(input, padded_states, padded_width);
  std::vector<Part> ranges(static_cast<std::size_t>(std::clamp(input.n / kLeast, std::ptrdiff_t{1}, kRanges)));
  const std::ptrdiff_t n_ranges = static_cast<std::ptrdiff_t>(ranges.size());
  Team team;
  team.run(ranges.size(), n_threads, [&](int, std::size_t i) {
    Part& range = ranges[i];
    range.first = static_cast<std::ptrdiff_t>(i) * input.n / n_ranges;
    range.n = (static_cast<std::ptrdiff_t>(i) + 1) * input.n / n_ranges - range.first;
    if (range.n == 0) return;
    const std::int64_t lowest = input.current[range.first], highest = input.current[range.first + range.n - 1];
    range.transitions.assign(static_cast<std::size_t>(highest - lowest + 1) * V, 0.0);
    if (moments != nullptr) range.moments.assign(V * width, 0.0);
    SweepTask task{};
    task.states = input.n_states;
    task.padded_states = padded_states;
    task.width = input.width;
    task.padded_width = padded_width;
    task.logit_row = padded_states + kLanes * (1 - padded_states / kLanes % 2);
    task.x_row = padded_width;
    const std::size_t block = kSweepRows;
    const AlignedBuffer logits(block * task.logit_row), x(block * task.x_row),
        row_sum(static_cast<std::size_t>(padded_states)),
        recent(static_cast<std::size_t>(padded_states) * padded_width);
    task.head = head.data();
    task.table = input.table;
    task.weights = input.weights;
    task.features = input.features + range.first * input.width;
    task.current = input.current + range.first;
    task.following = input.following + range.first;
    task.n = range.n;
    task.first_state = lowest;
    task.logits = logits.data();
    task.x = x.data();
    task.row_sum = row_sum.data();
    task.recent = recent.data();
    task.transitions = range.transitions.data();
    task.moments = moments == nullptr ? nullptr : range.moments.data();
    kernels.sweep(task);
    range.loss = task.loss;
  });
  double loss = 0.0;
  for (const Part& range : ranges) {
    if (range.n == 0) continue;
    loss += range.loss;
    double* rows = transitions + static_cast<std::size_t>(input.current[range.first]) * V;
    for (std::size_t k = 0; k < range.transitions.size(); ++k) rows[k] += range.transitions[k];
    for (std::size_t k = 0; k < range.moments.size(); ++k) moments[k] += range.moments[k];
  }
  return loss;
}

}  // namespace nanomd
