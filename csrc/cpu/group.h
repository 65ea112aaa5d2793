// A group of up to sixteen trajectories with its caches: feeds tokens in the order that the rollout mode asks for.
#pragma once

#include "draw.h"
#include "kernels.h"
#include "nanomd/engine.h"

namespace nanomd {

class Group {
 public:
  // columns: the columns kernel, each trajectory with its own caches; else the lanes kernel. Only with `retracts` are
  // tokens ever taken back.
  Group(const Model& model, const Kernels& kernels, Mode mode, int hop_keep, int n_trajs, bool columns,
        bool retracts = true);

  // The position of the first token that will be fed; for hop and crop, tokens before it have left the window.
  void start(std::uint64_t position);
  // Takes one token per trajectory (row of 16; unused lanes repeat the last used one). With want_logits,
  // draw() then tells the next states.
  void feed(const std::int32_t* token, bool want_logits, Scratch& scratch);

  // Groups of one trajectory, in columns: takes n <= room() successive tokens at once. The logits after each are
  // column i of the scratch memory.
  void feed_run(const std::int32_t* token, int n, Scratch& scratch);
  int room() const;
  // Takes back the last n tokens of the last run, but not its first: as if they had not been fed.
  void retract(int n);

  // Groups of one trajectory, in columns, that stand at places of their own and share each step:
  // Feeds n tokens, none of which finds the window full, and computes no logits.
  void fill(const std::int32_t* token, std::size_t n, Scratch& scratch);
  // Takes one token, as a column of a step that the caller makes of several groups.
  void stage(std::int32_t token, Column& column, Scratch& scratch);
  // Takes over all that another group of the same model and mode has been fed.
  void copy(const Group& other);
  std::size_t bytes() const { return (keys_.size() + values_.size()) * sizeof(float); }

  int n_trajs() const { return n_trajs_; }
  bool columns() const { return columns_; }
  // Of the logits of the last step, by trajectory, or by column of a run.
  const Draw& draw() const { return draw_; }

 private:
  void refill(std::uint64_t position, std::uint64_t keep, bool want_logits, Scratch& scratch);
  void decode(const std::int32_t* token, int window_position, bool want_logits, Scratch& scratch);
  void decode_run(const std::int32_t* token, int n, std::uint64_t position, int window_position, int first_logits,
                  Scratch& scratch);
  void place(std::uint64_t position, int window_position, float* angles, Column& column) const;
  float* angles(std::uint64_t position, int window_position, Scratch& scratch) const;
  void compute_angles(std::uint64_t phase, float* at) const;
  const std::int32_t* past(std::uint64_t position) const;
  void copy_slot(int slot, int saved, bool restore);

  const Model& model_;
  const Kernels& kernels_;
  Mode mode_;
  int hop_keep_;
  int n_trajs_;
  bool columns_;
  Draw draw_;
  KeyValueLayout layout_;
  std::size_t item_;                  // bytes of a cached number
  AlignedBuffer keys_, values_;       // columns: of one trajectory after the other
  AlignedBuffer saved_;               // [kMaxColumns] slots that a run overwrote
  std::vector<std::int32_t> recent_;  // [W][16], token of position p in row p mod W; hop and crop only
  AlignedBuffer own_angles_;          // cosines, sines of a staged token
  std::uint64_t first_ = 0;           // position of the first token in the caches (ring), or of the start
  std::uint64_t next_ = 0;            // position of the next token
  std::uint64_t window_ = 0;          // tokens in the caches (hop and crop)
  int run_ = 0;                       // tokens of the last run that still stand
};

// The uniforms of one step for a row of global trajectory indices.
void fill_uniforms(std::uint64_t seed, std::uint64_t step, const std::uint64_t* trajectory, int lanes, double* u);

}  // namespace nanomd
