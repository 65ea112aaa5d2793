// The CUDA engine on emulated threads: rollouts and log-probabilities to compare.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "nanomd/cuda_engine.h"
#include "random_model.h"
#include "unit_test.h"

namespace test_cuda {

using namespace nanomd;
using namespace test_models;

inline std::vector<float> log_probs(const RolloutEngine& engine, const RandomModel& model, int n, std::size_t length,
                                    Mode mode, int keep = 0, std::uint64_t first = 0) {
  const std::vector<std::uint16_t> tokens = model.tokens(static_cast<std::size_t>(n) * length);
  std::vector<float> out(tokens.size() * model.shape.n_states, NAN);
  LogProbOptions options;
  options.mode = mode, options.hop_keep = keep, options.n_sequences = n, options.tokens = tokens.data();
  options.n_tokens = length, options.first_position = first;
  EXPECT(engine.log_probs(options, out.data(), nullptr));
  return out;
}

// Largest difference where p >= 1e-7.
inline double largest_error(const std::vector<float>& a, const std::vector<float>& reference) {
  double error = 0;
  for (std::size_t i = 0; i < a.size(); ++i)
    if (reference[i] > -16.1f)
      error = std::isfinite(a[i]) ? std::max(error, std::fabs(a[i] - double{reference[i]})) : 1e9;
  return error;
}

struct Run {
  Mode mode = Mode::kRing;
  int keep = 0, n = 3;
  std::uint64_t n_steps = 24, first_trajectory = 0, stride = 1;
  double temperature = 1.0;
  int lookahead = -1;
};
inline std::vector<std::uint16_t> rollout(const RolloutEngine& engine, const RandomModel& model, const Run& run,
                                          std::uint64_t break_at = 0) {
  const std::size_t n = static_cast<std::size_t>(run.n), prompt = 5;
  std::vector<std::uint16_t> history;
  std::vector<std::uint64_t> index(n);
  for (std::size_t i = 0; i < n; ++i) {
    index[i] = run.first_trajectory + i;
    const std::vector<std::uint16_t> row = model.tokens(prompt, 100 + static_cast<unsigned>(index[i]));
    history.insert(history.end(), row.begin(), row.end());
  }
  SessionOptions options;
  options.mode = run.mode, options.hop_keep = run.keep, options.n_trajs = run.n, options.seed = 11;
  options.history = history.data(), options.n_history = prompt, options.trajectory = index.data();
  options.temperature = run.temperature, options.lookahead = run.lookahead;
  const std::uint64_t stored = (run.n_steps + run.stride - 1) / run.stride;
  std::vector<std::uint16_t> out(n * stored, 0xFFFF);
  TokenSink sink{out.data(), stored, 2, run.stride, 0};
  auto session = engine.open(options);
  if (break_at > 0) {
    EXPECT(session->advance(break_at, sink, nullptr));
    std::vector<std::uint16_t> recent(n * session->history_length());
    session->copy_history(recent.data());
    options.history = recent.data(), options.n_history = session->history_length();
    options.n_before = prompt + break_at - options.n_history, options.first_step = break_at;
    session = engine.open(options);
    EXPECT(session->advance(run.n_steps - break_at, sink, nullptr));
    return out;
  }
  EXPECT(session->advance(run.n_steps, sink, nullptr));
  return out;
}

inline CudaOptions with(Precision precision, int tile, int ranks = 0) {
  CudaOptions options;
  options.precision = precision, options.tile = tile, options.ranks = ranks;
  options.regime = ranks > 0 ? "latency" : "throughput";
  options.weights = ranks > 0 ? "auto" : "streamed";
  return options;
}

#if defined(__SANITIZE_ADDRESS__)
inline constexpr bool kSlow = true;  // emulated threads under the sanitizer
inline constexpr std::uint64_t kOrders = 2;
#else
inline constexpr bool kSlow = false;
inline constexpr std::uint64_t kOrders = 5;
#endif

}  // namespace test_cuda
