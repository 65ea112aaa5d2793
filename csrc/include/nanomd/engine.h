// The interface of every rollout engine: the CPU's today, others beside it.
//
//   auto engine = nanomd::make_cpu_engine(std::make_shared<nanomd::Model>(shape, tensors, rope_multipliers));
//   auto session = engine->open({...});
//   session->advance(1000, {tokens, ...});
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "nanomd/kv_cache.h"
#include "nanomd/model.h"

namespace nanomd {

class ObservablesWriter;
class Walkers;
struct WalkerOptions;

// Where trajectories stand when a session opens. All of them have seen the same number of tokens.
struct SessionOptions {
  Mode mode = Mode::kRing;
  int hop_keep = 0;  // hop only: tokens in a refilled window, in [1, W - 1]
  int n_trajs = 0;
  const std::uint16_t* history = nullptr;  // [n_trajs][n_history], the most recent tokens, n_history >= 1
  std::size_t n_history = 0;
  std::uint64_t n_before = 0;                 // tokens before the history: its first token has position n_before
  const std::uint64_t* trajectory = nullptr;  // [n_trajs], global indices
  std::uint64_t first_step = 0;               // index of the next state to be drawn
  std::uint64_t seed = 0;
  double temperature = 1.0;  // divides the logits
  int n_threads = 1;
  // States guessed ahead of the sampler where a thread has one trajectory: -1 as many as pay, 0 none, k always k, for
  // every trajectory. The tokens do not depend on it.
  int lookahead = -1;
  // To be accumulated over every state drawn, going on where this writer stands, by an engine that can (see
  // Session::observes); for one that cannot, the caller adds the tokens.
  const ObservablesWriter* observables = nullptr;
};

// Where drawn states go: state of step s of trajectory i, for s divisible by stride, at
// tokens[i * row_stride + s / stride - first_index], elements of `item_size` (1 or 2) bytes. Null tokens: not stored.
struct TokenSink {
  void* tokens = nullptr;
  std::size_t row_stride = 0;  // elements
  int item_size = 1;
  std::uint64_t stride = 1;
  std::uint64_t first_index = 0;
};

// Called from the calling thread now and then with the trajectory-steps done since the last call; true stops the work.
using ProgressCallback = std::function<bool(std::uint64_t)>;

class Session {
 public:
  virtual ~Session() = default;
  // Draws n_steps more states of every trajectory. False if the callback stopped it: the session is then spent.
  virtual bool advance(std::uint64_t n_steps, const TokenSink& sink, const ProgressCallback& progress) = 0;
  // The tokens that a new session needs to continue this one bit-identically: [n_trajs][history_length()].
  virtual std::size_t history_length() const = 0;
  virtual void copy_history(std::uint16_t* history) const = 0;
  // Does the session accumulate the observables? collect() then brings the writer that it began with, or one like it,
  // up to the last state drawn.
  virtual bool observes() const { return false; }
  virtual void collect(ObservablesWriter&) const {}
};

struct LogProbOptions {
  Mode mode = Mode::kRing;
  int hop_keep = 0;
  int n_sequences = 0;
  const std::uint16_t* tokens = nullptr;  // [n_sequences][n_tokens]
  std::size_t n_tokens = 0;
  std::uint64_t first_position = 0;  // ring only: position of the first token
  int n_threads = 1;
};

class RolloutEngine {
 public:
  virtual ~RolloutEngine() = default;
  virtual std::string name() const = 0;
  // Memory of one trajectory's caches, bytes.
  virtual std::size_t bytes_per_trajectory() const = 0;
  virtual std::unique_ptr<Session> open(const SessionOptions& options) const = 0;
  // Trajectories that are copied and stop one by one, for rare events: nanomd/walkers.h. UnsupportedError where the
  // engine has none.
  virtual std::unique_ptr<Walkers> walkers(const WalkerOptions& options) const;
  // ln p(next state | tokens up to here) after every position, through the decode path of rollouts:
  // out[n_sequences][n_tokens][n_states].
  virtual bool log_probs(const LogProbOptions& options, float* out, const ProgressCallback& progress) const = 0;
  // Tokens of the past that rebuild the caches after `n_tokens` tokens.
  virtual std::uint64_t replay_length(Mode mode, int hop_keep, std::uint64_t n_tokens) const = 0;
};

// isa: "" for the best here (or the environment's NANOMD_ISA), "sse2", "avx2", "avx512".
// column_limit: up to this many trajectories of a thread share the weights as columns, more run in SIMD lanes; -1 for
// the default. The tokens depend on neither.
std::unique_ptr<RolloutEngine> make_cpu_engine(std::shared_ptr<const Model> model, const std::string& isa = "",
                                               int column_limit = -1);

}  // namespace nanomd
