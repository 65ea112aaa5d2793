#include "lookahead.h"

#include <algorithm>

#include "nanomd/philox.h"

namespace nanomd {

namespace {

constexpr std::size_t kTableFloats = std::size_t{1} << 22;  // 16 MB at most
constexpr int kMemory = 16;                                 // visits over which a row averages
// Time of one more column, in steps of one column; the weights, once loaded, are nearly free for a second (measured).
// Beyond six columns a column costs no less, so longer drafts only risk more.
constexpr float kSecondColumn = 0.35f, kColumn = 0.5f;
constexpr int kPayingColumns = 6;

}  // namespace

Lookahead::Lookahead(const ModelShape& shape, int drafts) : n_states_(shape.n_states), drafts_(drafts) {
  const std::size_t n = static_cast<std::size_t>(n_states_);
  rows_.resize(std::clamp<std::size_t>(kTableFloats / n, 1, n));
  table_.resize(rows_.size() * n);
}

// The smallest state whose cumulative probability exceeds u; -1 if nothing is known.
std::int32_t Lookahead::guess(std::int32_t state, double u) {
  const Row& known = row(state);
  if (known.state != state) return -1;
  const float* p = probabilities(known);
  const float target = static_cast<float>(u);
  float cumulative = 0;
  for (int k = 0; k < n_states_; ++k) {
    cumulative += p[k];
    if (cumulative > target) return k;
  }
  return n_states_ - 1;
}

void Lookahead::learn(std::int32_t state, const float* weights, bool right) {
  Row& known = row(state);
  if (known.state != state) known = {state, 0, 0.5f};
  float sum = 0;
  for (int k = 0; k < n_states_; ++k) sum += weights[k];
  if (known.n_seen > 0) known.agreement += ((right ? 1.0f : 0.0f) - known.agreement) / kMemory;
  known.n_seen = std::min(known.n_seen + 1, kMemory);
  const float rate = 1.0f / static_cast<float>(known.n_seen), scale = rate / sum;
  float* p = probabilities(known);
  for (int k = 0; k < n_states_; ++k) p[k] = p[k] * (1.0f - rate) + weights[k] * scale;
}

std::int32_t Lookahead::next(Group& group, std::int32_t token, std::uint64_t seed, std::uint64_t trajectory,
                             std::uint64_t step, float inverse_temperature, Scratch& scratch) {
  if (next_ready_ < n_ready_) return ready_[next_ready_++];
  const int room = group.room();
  const int limit = std::min(room, drafts_ < 0 ? kPayingColumns : drafts_ + 1);
  std::int32_t fed[kMaxColumns], guessed[kMaxColumns];
  double u[kMaxColumns];
  // Column i holds the state of step + i - 1. Another one pays while the chance that all guesses so far are right,
  // over its cost, exceeds the states expected, over theirs.
  int n = 0;
  float chance = 1, expected = 0, cost = 1;
  for (std::int32_t state = token;;) {
    fed[n] = state;
    u[n] = rollout_uniform(seed, step + static_cast<std::uint64_t>(n), trajectory);
    guessed[n] = guess(state, u[n]);
    ++n;
    expected += chance;
    chance *= row(state).agreement;
    if (n == limit || guessed[n - 1] < 0) break;
    const float extra = n == 1 ? kSecondColumn : kColumn;
    if (drafts_ < 0 && chance * cost <= expected * extra) break;
    cost += extra;
    state = guessed[n - 1];
  }
  group.feed_run(fed, n, scratch);
  next_ready_ = n_ready_ = 0;
  for (;;) {
    const int i = n_ready_;
    ready_[n_ready_++] = group.sample_run(scratch, i, inverse_temperature, u[i]);
    const bool right = ready_[i] == guessed[i];
    learn(fed[i], group.logits(scratch, i), right);
    if (!right || n_ready_ == n) break;
  }
  if (n_ready_ < n) group.retract(n - n_ready_);
  return ready_[next_ready_++];
}

}  // namespace nanomd
