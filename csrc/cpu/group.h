// A group of up to sixteen trajectories with its caches: feeds tokens in the order that the rollout mode asks for.
#pragma once

#include "kernels.h"
#include "nanomd/engine.h"

namespace nanomd {

class Group {
 public:
  Group(const Model& model, const Kernels& kernels, Mode mode, int hop_keep, int lanes, bool single);

  // The position of the first token that will be fed; for hop and crop, tokens before it have left the window.
  void start(std::uint64_t position);
  // Takes one token per lane (row of 16; unused lanes repeat the last used one). With want_logits, scratch.logits then
  // holds the logits of the next state.
  void feed(const std::int32_t* token, bool want_logits, Scratch& scratch);
  // Draws the next states from scratch.logits, one uniform per lane.
  void sample(Scratch& scratch, float inverse_temperature, const double* u, std::int32_t* state) const;
  int lanes() const { return lanes_; }
  bool single() const { return single_; }

 private:
  void decode(const std::int32_t* token, int window_position, bool want_logits, Scratch& scratch);
  const std::int32_t* past(std::uint64_t position) const;

  const Model& model_;
  const Kernels& kernels_;
  Mode mode_;
  int hop_keep_;
  int lanes_;
  bool single_;
  AlignedBuffer keys_, values_;
  std::vector<std::int32_t> recent_;  // [W][16], token of position p in row p mod W; hop and crop only
  std::vector<float> cos_, sin_;
  std::uint64_t first_ = 0;   // position of the first token in the caches (ring), or of the start
  std::uint64_t next_ = 0;    // position of the next token
  std::uint64_t window_ = 0;  // tokens in the caches (hop and crop)
};

// The uniforms of one step for a row of global trajectory indices.
void fill_uniforms(std::uint64_t seed, std::uint64_t step, const std::uint64_t* trajectory, int lanes, double* u);

}  // namespace nanomd
