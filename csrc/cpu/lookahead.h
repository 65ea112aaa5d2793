// Coupled lookahead: several states of one trajectory from one pass over the weights.
//
// A draft guesses the next states with the very uniforms that the sampler will use; one batched step gives the logits
// after all of them; the sampler draws from those logits, and the states up to the first that the draft did not guess
// stand. Each is what the sampler would have drawn one at a time, bit for bit, since the columns kernel sums in the
// same order whatever the number of columns. So the draft decides the speed, never the trajectory.
//
// The draft is learnt on the way: for each pair of successive states, and for each state, the mean of the probabilities
// that the model gave after it, older ones forgotten. It needs no file and no training data, and knows a pair after one
// visit. Pairs, because microstates of one coordinate remember the direction: 83 % right against 58 % without, on the
// four-state system.
//
// With groups of states a row holds the probabilities of the groups, and those of the states of the group that was
// drawn last: a draft that draws another group guesses no state.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "group.h"

namespace nanomd {

class Lookahead {
 public:
  // drafts: so many states are guessed at each step; -1: as many as pay.
  Lookahead(const Model& model, int drafts);

  // The state of `step`. `token`: the last state, drawn and perhaps fed already; only `next` may feed the group.
  std::int32_t next(Group& group, std::int32_t token, std::uint64_t seed, std::uint64_t trajectory, std::uint64_t step,
                    float inverse_temperature, Scratch& scratch);

 private:
  struct Row {  // what is known about the states that follow one state, or one pair
    std::int64_t key = -1;
    int n_seen = 0;
    int group = -1;          // whose states the row holds
    float agreement = 0.5f;  // how often its guesses were right, lately
  };
  // The row of a pair or, without a state before, of one state; rows are shared, and the latest key takes over.
  Row& row(std::int32_t before, std::int32_t state);
  // The row that knows most: of the pair, of the state, or none.
  Row* known(std::int32_t before, std::int32_t state);
  float* probabilities(const Row& of) {
    return table_.get() + static_cast<std::size_t>(&of - rows_.data()) * static_cast<std::size_t>(width_);
  }
  int group_of(std::int32_t state) const;  // -1 without groups
  std::int32_t guess(const Row& from, double u);
  void learn(Row& row, std::int64_t key, const float* choices, int group, const float* members);

  const Model& model_;
  int n_choices_, width_, drafts_;  // width: of the probabilities of a row
  std::size_t n_single_;
  std::vector<Row> rows_;  // of states, then of pairs
  std::unique_ptr<float[]> table_;
  std::int32_t before_ = -1;         // the state before the one that `next` is given
  std::int32_t ready_[kMaxColumns];  // drawn, not yet asked for
  int n_ready_ = 0, next_ready_ = 0;
};

}  // namespace nanomd
