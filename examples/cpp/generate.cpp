// Generates trajectories from a model folder, without Python: one line of state labels per trajectory on standard
// output, populations on standard error.
//
//   nanomd_generate MODEL_FOLDER N_STEPS N_TRAJS SEED START_LABEL
//
// The states are those of nanomd.Sampler.load(MODEL_FOLDER).generate(N_STEPS, N_TRAJS, seed=SEED, start=[START_LABEL] *
// N_TRAJS), one by one.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <memory>
#include <numeric>
#include <vector>

#include "nanomd/engine.h"
#include "nanomd/model_file.h"
#include "nanomd/observables.h"

int main(int argc, char** argv) try {
  if (argc != 6) {
    std::fprintf(stderr, "usage: %s MODEL_FOLDER N_STEPS N_TRAJS SEED START_LABEL\n", argv[0]);
    return 2;
  }
  const auto number = [&](int i) { return std::strtoll(argv[i], nullptr, 10); };
  const std::uint64_t n_steps = static_cast<std::uint64_t>(number(2));
  const std::size_t n_trajs = static_cast<std::size_t>(number(3));
  if (number(2) < 1 || number(3) < 1 || number(2) > 1'000'000'000 / number(3)) {
    std::fprintf(stderr, "N_STEPS and N_TRAJS must be positive, their product at most 10^9\n");
    return 2;
  }

  const nanomd::LoadedModel loaded = nanomd::load_model_folder(argv[1]);
  const std::vector<std::int64_t>& labels = loaded.state_symbols;
  const auto start = std::find(labels.begin(), labels.end(), number(5));
  if (start == labels.end()) {
    std::fprintf(stderr, "the model knows no state %s\n", argv[5]);
    return 2;
  }

  // All trajectories start from one state; a trajectory depends on the seed and its index alone.
  const std::vector<std::uint16_t> history(n_trajs, static_cast<std::uint16_t>(start - labels.begin()));
  std::vector<std::uint64_t> index(n_trajs);
  std::iota(index.begin(), index.end(), 0u);
  const nanomd::ModelShape& shape = loaded.model->shape;
  nanomd::SessionOptions options;
  options.mode = shape.learned_position ? nanomd::Mode::kHop : nanomd::Mode::kRing;
  options.hop_keep = shape.learned_position ? std::max(1, shape.context_length / 2) : 0;
  options.n_trajs = static_cast<int>(n_trajs);
  options.history = history.data();
  options.n_history = 1;
  options.trajectory = index.data();
  options.seed = static_cast<std::uint64_t>(number(4));

  const std::unique_ptr<nanomd::RolloutEngine> engine = nanomd::make_cpu_engine(loaded.model);
  const std::unique_ptr<nanomd::Session> session = engine->open(options);
  std::vector<std::uint16_t> tokens(n_trajs * n_steps);
  nanomd::TokenSink sink;
  sink.tokens = tokens.data();
  sink.row_stride = n_steps;
  sink.item_size = 2;
  session->advance(n_steps, sink, nullptr);

  for (std::size_t i = 0; i < n_trajs; ++i)
    for (std::uint64_t t = 0; t < n_steps; ++t)
      std::printf("%lld%c", static_cast<long long>(labels[tokens[i * n_steps + t]]), t + 1 < n_steps ? ' ' : '\n');

  nanomd::ObservablesSpec spec;
  spec.n_states = shape.n_states;
  spec.set_of.assign(static_cast<std::size_t>(shape.n_states), -1);
  nanomd::ObservablesWriter observables(spec, n_trajs);
  observables.add({tokens.data(), n_steps, 2}, n_steps, 1);
  observables.finish();
  const std::vector<std::int64_t> visits = observables.totals();
  std::fprintf(stderr, "%zu x %llu steps of %g %s on %s; populations:", n_trajs,
               static_cast<unsigned long long>(n_steps), loaded.frame_interval, loaded.frame_unit.c_str(),
               engine->name().c_str());
  for (std::size_t k = 0; k < labels.size(); ++k)
    std::fprintf(stderr, " %lld:%.4f", static_cast<long long>(labels[k]),
                 static_cast<double>(visits[k]) / static_cast<double>(n_trajs * n_steps));
  std::fprintf(stderr, "\n");
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "error: %s\n", error.what());
  return 1;
}
