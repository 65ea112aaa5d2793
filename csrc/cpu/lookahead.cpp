#include "lookahead.h"

#include <algorithm>
#include <iterator>

#include "nanomd/philox.h"

namespace nanomd {

namespace {

constexpr std::size_t kTableFloats = std::size_t{1} << 22;  // 16 MB at most, touched where it is used
constexpr int kMemory = 8;                                  // visits over which a row averages
constexpr float kAgreementRate = 1.0f / 16;
// Time of one more column, in steps of one column; the weights, once loaded, are nearly free for a second (measured).
// Beyond six columns a column costs no less, so longer drafts only risk more.
constexpr float kSecondColumn = 0.35f, kColumn = 0.5f;
constexpr int kPayingColumns = 6;

std::int64_t pair_key(std::int32_t before, std::int32_t state) {
  return (static_cast<std::int64_t>(before) + 1) << 32 | state;
}

// The smallest k whose cumulative probability exceeds the target, which what comes before k is taken from; -1 for none.
std::int32_t draw(const float* p, int n, float& target) {
  float cumulative = 0;
  for (int k = 0; k < n; ++k) {
    const float before = cumulative;
    cumulative += p[k];
    if (cumulative > target) {
      target -= before;
      return k;
    }
  }
  return -1;
}

// Moves probabilities towards normalised weights, all the way where nothing was known.
void average(float* p, const float* weights, int n, float rate) {
  float sum = 0;
  for (int k = 0; k < n; ++k) sum += weights[k];
  const float scale = rate / sum;
  if (rate == 1.0f)
    for (int k = 0; k < n; ++k) p[k] = weights[k] * scale;
  else
    for (int k = 0; k < n; ++k) p[k] = p[k] * (1.0f - rate) + weights[k] * scale;
}

}  // namespace

Lookahead::Lookahead(const Model& model, int drafts)
    : model_(model),
      n_choices_(model.shape.n_choices()),
      width_(n_choices_ + model.shape.largest_group()),
      drafts_(drafts) {
  const std::size_t n = static_cast<std::size_t>(model.shape.n_states), width = static_cast<std::size_t>(width_);
  const std::size_t most = kTableFloats / width;
  n_single_ = std::clamp<std::size_t>(most / 4, 1, n);
  rows_.resize(n_single_ + std::clamp<std::size_t>(most - n_single_, 1, n * n));
  table_ = std::make_unique_for_overwrite<float[]>(rows_.size() * width);
}

Lookahead::Row& Lookahead::row(std::int32_t before, std::int32_t state) {
  const std::size_t s = static_cast<std::size_t>(state);
  if (before < 0) return rows_[s % n_single_];
  const std::size_t pair = static_cast<std::size_t>(before) * static_cast<std::size_t>(model_.shape.n_states) + s;
  return rows_[n_single_ + pair % (rows_.size() - n_single_)];
}

Lookahead::Row* Lookahead::known(std::int32_t before, std::int32_t state) {
  Row& pair = row(before, state);
  if (before >= 0 && pair.key == pair_key(before, state)) return &pair;
  Row& single = row(-1, state);
  return single.key == state ? &single : nullptr;
}

int Lookahead::group_of(std::int32_t state) const {
  const std::vector<int>& start = model_.group_start;
  return static_cast<int>(std::distance(start.begin(), std::upper_bound(start.begin(), start.end(), state))) - 1;
}

// The state that `u` draws from what is known, -1 for none.
std::int32_t Lookahead::guess(const Row& from, double u) {
  const float* p = probabilities(from);
  float target = static_cast<float>(u);
  const std::int32_t choice = draw(p, n_choices_, target);
  if (!model_.shape.grouped()) return choice < 0 ? n_choices_ - 1 : choice;
  if (choice < 0 || choice != from.group) return -1;
  target /= p[choice];
  const std::size_t group = static_cast<std::size_t>(choice);
  const int size = model_.shape.group_sizes[group];
  const std::int32_t member = draw(p + n_choices_, size, target);
  return model_.group_start[group] + (member < 0 ? size - 1 : member);
}

// group, members: what was drawn, and among which weights; -1 and null without groups of states.
void Lookahead::learn(Row& into, std::int64_t key, const float* choices, int group, const float* members) {
  if (into.key != key) into = {key, 0, -1, 0.5f};
  into.n_seen = std::min(into.n_seen + 1, kMemory);
  const float rate = 1.0f / static_cast<float>(into.n_seen);
  float* p = probabilities(into);
  average(p, choices, n_choices_, rate);
  if (group < 0) return;
  const int size = model_.shape.group_sizes[static_cast<std::size_t>(group)];
  if (size == 1)
    p[n_choices_] = 1;
  else
    average(p + n_choices_, members, size, into.group == group ? rate : 1.0f);
  into.group = group;
}

std::int32_t Lookahead::next(Group& group, std::int32_t token, std::uint64_t seed, std::uint64_t trajectory,
                             std::uint64_t step, float inverse_temperature, Scratch& scratch) {
  if (next_ready_ < n_ready_) return ready_[next_ready_++];
  const int limit = std::min(group.room(), drafts_ < 0 ? kPayingColumns : drafts_ + 1);
  std::int32_t fed[kMaxColumns], guessed[kMaxColumns];
  Row* from[kMaxColumns];
  double u[kMaxColumns];
  // Column i holds the state of step + i - 1. Another one pays while the chance that all guesses so far are right,
  // over its cost, exceeds the states expected, over theirs.
  int n = 0;
  float chance = 1, expected = 0, cost = 1;
  for (std::int32_t before = before_, state = token;;) {
    fed[n] = state;
    u[n] = rollout_uniform(seed, step + static_cast<std::uint64_t>(n), trajectory);
    from[n] = known(before, state);
    guessed[n] = from[n] == nullptr ? -1 : guess(*from[n], u[n]);
    ++n;
    if (n == limit || guessed[n - 1] < 0) break;
    expected += chance;
    chance *= from[n - 1]->agreement;
    const float extra = n == 1 ? kSecondColumn : kColumn;
    if (drafts_ < 0 && chance * cost <= expected * extra) break;
    cost += extra;
    before = state;
    state = guessed[n - 1];
  }
  group.feed_run(fed, n, scratch);
  next_ready_ = n_ready_ = 0;
  for (bool right = true; right && n_ready_ < n;) {
    const int i = n_ready_++;
    ready_[i] = group.draw().state(scratch, i, inverse_temperature, u[i]);
    if (ready_[i] < 0) return ready_[next_ready_++];  // not finite: the caller gives up
    right = ready_[i] == guessed[i];
    if (from[i] != nullptr) from[i]->agreement += ((right ? 1.0f : 0.0f) - from[i]->agreement) * kAgreementRate;
    const float* choices = group.draw().choices(scratch, i);
    const float* members = Draw::members(scratch);
    const int drawn = group_of(ready_[i]);
    learn(row(-1, fed[i]), fed[i], choices, drawn, members);
    if (before_ >= 0) learn(row(before_, fed[i]), pair_key(before_, fed[i]), choices, drawn, members);
    before_ = fed[i];
  }
  if (n_ready_ < n) group.retract(n - n_ready_);
  return ready_[next_ready_++];
}

}  // namespace nanomd
