#include "lookahead.h"

#include <algorithm>

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

}  // namespace

Lookahead::Lookahead(const ModelShape& shape, int drafts) : n_states_(shape.n_states), drafts_(drafts) {
  const std::size_t n = static_cast<std::size_t>(n_states_), most = kTableFloats / n;
  n_single_ = std::clamp<std::size_t>(most / 4, 1, n);
  rows_.resize(n_single_ + std::clamp<std::size_t>(most - n_single_, 1, n * n));
  table_ = std::make_unique_for_overwrite<float[]>(rows_.size() * n);
}

Lookahead::Row& Lookahead::row(std::int32_t before, std::int32_t state) {
  const std::size_t s = static_cast<std::size_t>(state);
  if (before < 0) return rows_[s % n_single_];
  const std::size_t pair = static_cast<std::size_t>(before) * static_cast<std::size_t>(n_states_) + s;
  return rows_[n_single_ + pair % (rows_.size() - n_single_)];
}

Lookahead::Row* Lookahead::known(std::int32_t before, std::int32_t state) {
  Row& pair = row(before, state);
  if (before >= 0 && pair.key == pair_key(before, state)) return &pair;
  Row& single = row(-1, state);
  return single.key == state ? &single : nullptr;
}

// The smallest state whose cumulative probability exceeds u.
std::int32_t Lookahead::guess(const Row& from, double u) {
  const float* p = probabilities(from);
  const float target = static_cast<float>(u);
  float cumulative = 0;
  for (int k = 0; k < n_states_; ++k) {
    cumulative += p[k];
    if (cumulative > target) return k;
  }
  return n_states_ - 1;
}

void Lookahead::learn(Row& into, std::int64_t key, const float* weights, float sum) {
  if (into.key != key) into = {key, 0, 0.5f};
  into.n_seen = std::min(into.n_seen + 1, kMemory);
  const float rate = 1.0f / static_cast<float>(into.n_seen), scale = rate / sum;
  float* p = probabilities(into);
  if (into.n_seen == 1)
    for (int k = 0; k < n_states_; ++k) p[k] = weights[k] * scale;
  else
    for (int k = 0; k < n_states_; ++k) p[k] = p[k] * (1.0f - rate) + weights[k] * scale;
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
    ready_[i] = group.sample_run(scratch, i, inverse_temperature, u[i]);
    if (ready_[i] < 0) return ready_[next_ready_++];  // not finite: the caller gives up
    right = ready_[i] == guessed[i];
    if (from[i] != nullptr) from[i]->agreement += ((right ? 1.0f : 0.0f) - from[i]->agreement) * kAgreementRate;
    const float* weights = group.logits(scratch, i);
    float sum = 0;
    for (int k = 0; k < n_states_; ++k) sum += weights[k];
    learn(row(-1, fed[i]), fed[i], weights, sum);
    if (before_ >= 0) learn(row(before_, fed[i]), pair_key(before_, fed[i]), weights, sum);
    before_ = fed[i];
  }
  if (n_ready_ < n) group.retract(n - n_ready_);
  return ready_[next_ready_++];
}

}  // namespace nanomd
