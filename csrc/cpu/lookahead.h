// Coupled lookahead: several states of one trajectory from one pass over the weights.
//
// A draft guesses the next states with the very uniforms that the sampler will use; one batched step gives the logits
// after all of them; the sampler draws from those logits, and the states up to the first that the draft did not guess
// stand. Each is what the sampler would have drawn one at a time, bit for bit, since the columns kernel sums in the
// same order whatever the number of columns. So the draft decides the speed, never the trajectory.
//
// The draft is learnt on the way: for each state the mean of the probabilities that the model gave after it, older ones
// forgotten. It needs no file and no training data, and knows a state after one visit.
#pragma once

#include <cstdint>
#include <vector>

#include "group.h"

namespace nanomd {

class Lookahead {
 public:
  // drafts: so many states are guessed at each step; -1: as many as pay.
  Lookahead(const ModelShape& shape, int drafts);

  // The state of `step`. `token`: the last state, drawn and perhaps fed already; only `next` may feed the group.
  std::int32_t next(Group& group, std::int32_t token, std::uint64_t seed, std::uint64_t trajectory, std::uint64_t step,
                    float inverse_temperature, Scratch& scratch);

 private:
  struct Row {  // what is known about the states that follow one state
    std::int32_t state = -1;
    int n_seen = 0;
    float agreement = 0.5f;  // how often its guesses were right, lately
  };
  Row& row(std::int32_t state) { return rows_[static_cast<std::size_t>(state) % rows_.size()]; }
  float* probabilities(const Row& of) {
    return table_.data() + static_cast<std::size_t>(&of - rows_.data()) * static_cast<std::size_t>(n_states_);
  }
  std::int32_t guess(std::int32_t state, double u);
  void learn(std::int32_t state, const float* weights, bool right);

  int n_states_, drafts_;
  std::vector<Row> rows_;  // of state s: s modulo their number; the later state takes over
  std::vector<float> table_;
  std::int32_t ready_[kMaxColumns];  // drawn, not yet asked for
  int n_ready_ = 0, next_ready_ = 0;
};

}  // namespace nanomd
