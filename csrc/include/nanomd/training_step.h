// One optimiser step of a nano-GPT on the CPU: loss, gradient, clipping and AdamW.
//
// A window of frames is the unit of work, and its activations are all the memory that a thread needs. Gradients are
// added up over fixed groups of windows, and the groups in their order, so that the same bits come out for any number
// of threads.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "nanomd/model.h"

namespace nanomd {

struct TrainingOptions {
  int length = 0;                 // T, frames of a window
  float dropout = 0.0f;           // on residual branches and embeddings
  float final_dropout = 0.0f;     // before the head
  const float* cosine = nullptr;  // rotary tables [T][d_head / 2]; null for learned positions
  const float* sine = nullptr;
  std::string objective = "one_pass";  // or "two_pass_token", "two_pass_hidden"
  std::string isa;                     // as for rollouts
  // Heads that predict the state `lag` frames ahead, in training only: `lookahead_weight` times the mean of their
  // losses is added to what the gradient is of. Their parameters come after the model's, training_heads.heads.0.weight
  // first.
  std::vector<int> lookahead_lags;
  double lookahead_weight = 0.0;
};

// Memory of the caller, in the order of TrainingStep::names(): what a step reads and writes.
struct ParameterMemory {
  float* value;
  float* first;   // exponential means of the gradient
  float* second;  // and of its square
};

struct TrainingBatch {
  int n_windows = 0;
  const std::int64_t* tokens = nullptr;   // [n_windows][T]
  const std::int64_t* targets = nullptr;  // [n_windows][T]
  const float* weights = nullptr;         // [n_windows][T], zero on padding
  // The second pass. Token objective: states are drawn at `mix_rate` from Philox (key, step, position, window), as by
  // nanomd.kernels.sample_mix. Hidden objective: `replaced` [n_windows][T] says where.
  bool two_passes = false;
  double mix_rate = 0.0;
  std::uint64_t mix_key = 0, step = 0;
  const std::uint8_t* replaced = nullptr;
  std::uint64_t dropout_key = 0;
};

struct UpdateRule {
  double learning_rate = 0.0, beta1 = 0.9, beta2 = 0.999, weight_decay = 0.0, epsilon = 1e-8;
  double clip = 1.0;   // the largest norm of a gradient
  std::int64_t t = 1;  // updates, this one included
};

class TrainingStep {
 public:
  // Throws InputError for what does not fit, UnsupportedError for what this step cannot do.
  TrainingStep(const ModelShape& shape, const TrainingOptions& options);
  ~TrainingStep();
  TrainingStep(const TrainingStep&) = delete;
  TrainingStep& operator=(const TrainingStep&) = delete;

  const char* isa() const;
  std::vector<std::string> names() const;
  std::vector<std::size_t> sizes() const;

  // Nats per frame at the weights of `memory`; the gradient is kept.
  double gradient(const std::vector<ParameterMemory>& memory, const TrainingBatch& batch, int n_threads);
  // The term of the heads of lags in the last gradient, which its return value leaves out.
  double lookahead_loss() const;
  // The gradient of parameter i, as laid out in a model file.
  void copy_gradient(std::size_t i, float* out) const;
  // Clips the gradient and takes the step; returns the norm before.
  double update(const std::vector<ParameterMemory>& memory, const UpdateRule& rule, int n_threads);

  // What the output layer reads, after a final LayerNorm and without dropout: out [n_windows][T][d_model]. Frames
  // before `first` are context alone, and nothing is written there.
  void features(const std::vector<ParameterMemory>& memory, const std::int64_t* tokens, int n_windows, int first,
                float* out, int n_threads);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace nanomd
