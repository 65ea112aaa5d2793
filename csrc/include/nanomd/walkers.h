// Walkers: trajectories of which each stands where it stands, is copied with its caches, and stops where it arrives.
// The engine of rare-event sampling. A walker's next states are those of a rollout with the same history, position,
// stream and steps, bit for bit: copies differ from then on by the stream alone.
//
//   auto walkers = engine->walkers({mode, hop_keep, seed});
//   walkers->resize(100);
//   walkers->place(...);                   // a history each
//   walkers->advance({...});               // to a number of steps each, or to a state that stops
//   walkers->select(parents, n_children);  // split and end
#pragma once

#include <cstddef>
#include <cstdint>

#include "nanomd/engine.h"

namespace nanomd {

struct WalkerOptions {
  Mode mode = Mode::kRing;
  int hop_keep = 0;  // hop only: tokens in a refilled window, in [1, W - 1]
  std::uint64_t seed = 0;
  double temperature = 1.0;  // divides the logits
  int n_threads = 1;
};

// Histories of some walkers, one after the other in one array.
struct Placement {
  std::size_t n = 0;
  const std::uint64_t* walker = nullptr;    // [n], each at most once
  const std::uint16_t* tokens = nullptr;    // all histories
  const std::uint64_t* length = nullptr;    // [n] tokens of each, at least 1 and the engine's replay_length
  const std::uint64_t* n_before = nullptr;  // [n] tokens before them: the first has position n_before
};

struct WalkerSteps {
  const std::uint64_t* stream = nullptr;   // [size()] second half of the counter of the random numbers
  const std::uint64_t* step = nullptr;     // [size()] first half, for the next state
  const std::uint64_t* n_steps = nullptr;  // [size()] states to draw at most; 0 leaves a walker alone
  const std::uint8_t* stops = nullptr;     // [V] not 0: a walker that draws this state goes no further; or null
  std::uint16_t* tokens = nullptr;         // [size()][row_stride] takes the states, or null
  std::size_t row_stride = 0;
  std::uint64_t* taken = nullptr;  // [size()] takes the number of states drawn
};

class Walkers {
 public:
  virtual ~Walkers() = default;
  virtual std::size_t size() const = 0;
  // Keeps the first n walkers, and adds walkers without a history up to n.
  virtual void resize(std::size_t n) = 0;
  // Gives walkers a history, whatever they were before. Returns the tokens that were fed to fill caches.
  virtual std::uint64_t place(const Placement& placement) = 0;
  // Walker i becomes a copy of the present walker parent[i], for i < n; who is nobody's parent ends.
  virtual void select(const std::uint64_t* parent, std::size_t n) = 0;
  // False if the callback stopped it: no walker is to be used then before it is placed anew.
  virtual bool advance(const WalkerSteps& steps, const ProgressCallback& progress) = 0;
  // What `place` needs so that the walker goes on bit-identically: its latest tokens, and how many came before them.
  virtual std::size_t history_length(std::size_t walker) const = 0;
  virtual std::uint64_t copy_history(std::size_t walker, std::uint16_t* tokens) const = 0;
};

}  // namespace nanomd
