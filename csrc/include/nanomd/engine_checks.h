// What every engine demands of its caller, and what follows from the mode alone.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "nanomd/check.h"
#include "nanomd/engine.h"

namespace nanomd {

inline void check_mode(const NetworkShape& shape, Mode mode, int hop_keep) {
  check(mode != Mode::kRing || !shape.learned_position,
        "mode ring needs rotary positions, but this model has learned ones; use hop or crop");
  check(mode != Mode::kHop || (hop_keep >= 1 && hop_keep < shape.context_length), "hop_keep must be in [1, ",
        shape.context_length - 1, "] (below the context length), got ", hop_keep);
}

inline void check_tokens(const std::uint16_t* tokens, std::size_t n, int n_states) {
  for (std::size_t i = 0; i < n; ++i)
    check(tokens[i] < n_states, "tokens must be in [0, ", n_states - 1, "], got ", tokens[i]);
}

// Tokens of the past that rebuild the caches after `n_tokens` tokens; see RolloutEngine.
inline std::uint64_t mode_replay(const NetworkShape& shape, Mode mode, int hop_keep, std::uint64_t n_tokens) {
  const std::int64_t n = static_cast<std::int64_t>(n_tokens), W = shape.context_length;
  if (mode == Mode::kRing)
    return std::min<std::uint64_t>(n_tokens, static_cast<std::uint64_t>(shape.receptive_field()));
  return static_cast<std::uint64_t>(mode == Mode::kHop ? hop_window(n, W, hop_keep) : crop_window(n, W));
}

// Tokens of the past that a session remembers.
inline std::uint64_t mode_history(const NetworkShape& shape, Mode mode) {
  return static_cast<std::uint64_t>(mode == Mode::kRing ? shape.receptive_field() : shape.context_length);
}

// The temperature divides the logits of states: those of groups of them, tempered apart, would give another model.
inline void check_temperature(const ModelShape& shape, double temperature) {
  check(temperature > 0 && std::isfinite(temperature), "sampling_temperature must be positive, got ", temperature);
  if (shape.grouped() && temperature != 1.0)
    throw UnsupportedError(join("sampling_temperature must be 1 for a model with groups of states, got ", temperature,
                                ": it would have to compute all states of all groups; use backend=\"reference\""));
}

// Returns the tokens at the end of the history that are fed to fill the caches.
inline std::uint64_t check_session(const ModelShape& shape, const SessionOptions& options) {
  check_mode(shape, options.mode, options.hop_keep);
  check(options.n_trajs >= 1, "n_trajs must be at least 1, got ", options.n_trajs);
  check(options.n_threads >= 1, "n_threads must be at least 1, got ", options.n_threads);
  check_temperature(shape, options.temperature);
  check(options.n_history >= 1, "a rollout starts from at least one state");
  const std::uint64_t replay = mode_replay(shape, options.mode, options.hop_keep, options.n_before + options.n_history);
  check(replay <= options.n_history, "the history must hold the last ", replay, " tokens, got ", options.n_history);
  check_tokens(options.history, options.n_history * static_cast<std::size_t>(options.n_trajs), shape.n_states);
  return replay;
}

inline void check_sequences(const NetworkShape& shape, const LogProbOptions& options) {
  check_mode(shape, options.mode, options.hop_keep);
  check(options.n_threads >= 1, "n_threads must be at least 1, got ", options.n_threads);
  check_tokens(options.tokens, options.n_tokens * static_cast<std::size_t>(options.n_sequences), shape.n_states);
}

}  // namespace nanomd
