// The gradient of a step: one for each group of windows, their sum in a fixed order, and what the optimiser makes of
// it.
#pragma once

#include <memory>
#include <vector>

#include "nanomd/training_step.h"
#include "train/kernels.h"
#include "train/team.h"

namespace nanomd::train {

// Of a group of windows, added up one after the other. Rows of tokens that no window holds are never written.
struct GroupGradient {
  GroupGradient(std::size_t size, int n_states) : values(size), touched(static_cast<std::size_t>(n_states), 0) {}
  AlignedBuffer values;
  std::vector<std::uint8_t> touched;  // tokens that have a gradient
};

class Gradient {
 public:
  Gradient(const std::vector<Parameter>& parameters, const Kernels& kernels, std::size_t size, int n_states);

  // Makes room for groups; each is cleared by the thread that fills it.
  void make_groups(int n_groups);
  GroupGradient& group(std::size_t g) { return *groups_[g]; }
  void clear(GroupGradient& group) const;

  // Adds up the first groups, in their order.
  void add_up(int n_groups, Team& team, int n_threads);
  double norm() const { return norm_; }
  // Of parameter i, as laid out in a model file.
  void copy(std::size_t i, float* out) const;

  // AdamW; `rule` but for the decay, which is that of parameters that are decayed.
  void update(const std::vector<ParameterMemory>& memory, const AdamW& rule, float decay, Team& team,
              int n_threads) const;

 private:
  // Rows of a parameter that one thread adds up and updates.
  struct Piece {
    std::size_t parameter;
    int first, rows;
  };
  double add_piece(const Piece& piece, int n_groups);
  void update_piece(const Piece& piece, const ParameterMemory& memory, const AdamW& rule) const;

  const std::vector<Parameter>& parameters_;
  const Kernels& kernels_;
  const int n_states_;
  AlignedBuffer total_;
  double norm_ = 0.0;
  std::vector<Piece> pieces_;
  std::vector<double> squares_;
  std::vector<std::unique_ptr<GroupGradient>> groups_;
  std::vector<std::uint8_t> touched_, was_touched_;  // by any group, in this step and in the one before
};

}  // namespace nanomd::train
