// What becomes of logits: states drawn from them, or ln p of all states. With groups of states in two decisions, the
// second from what the first left of the uniform number (nanomd/sampling.h).
#pragma once

#include "kernels.h"

namespace nanomd {

class Draw {
 public:
  // columns: of the columns kernel, else of the lanes kernel.
  Draw(const Model& model, const Kernels& kernels, bool columns)
      : model_(model), kernels_(kernels), columns_(columns) {}

  // The next states of the first n trajectories (or columns) of the last step, one uniform each; -1 where probabilities
  // are not finite. Unnormalised probabilities of the choices replace the logits. Trajectories that have drawn the same
  // group share its weights.
  void states(Scratch& scratch, int n, float inverse_temperature, const double* u, std::int32_t* state) const;
  // That of column i.
  std::int32_t state(Scratch& scratch, int i, float inverse_temperature, double u) const;
  // out[V], from the logits of trajectory (or column) i.
  void log_probs(Scratch& scratch, int i, float* out) const;

  // The probabilities, not normalised, behind the last `state`: of the choices, and of the states of the group drawn,
  // which is meaningless for a group of one.
  const float* choices(const Scratch& scratch, int i) const { return logits(scratch, i); }
  static const float* members(const Scratch& scratch) { return scratch.members.data(); }

 private:
  float* logits(const Scratch& scratch, int i) const;
  void draw_members(Scratch& scratch, int first, int n, const double* rest, std::int32_t* state) const;
  void prefetch(int group) const;
  void member_logits(Scratch& scratch, int group, const int* trajectory, int n) const;

  const Model& model_;
  const Kernels& kernels_;
  bool columns_;
};

}  // namespace nanomd
