// Sessions of the CUDA engine on emulated threads: resuming, refusals, observables.
#include "cuda_emulation.h"
#include "nanomd/check.h"
#include "nanomd/observables.h"

namespace {
using namespace test_cuda;
}

TEST(a_resumed_session_continues_bit_for_bit) {
  const RandomModel ring(make_shape(20, 32, 2, 2, 2, 6, 32)), hop(paper_like(9, 32, 1, 2, 7));
  Run run;
  run.n_steps = 30, run.n = 2;
  EXPECT(rollout(*ring.emulated(), ring, run, 19) == rollout(*ring.emulated(), ring, run));
  run.mode = Mode::kHop, run.keep = 3;
  EXPECT(rollout(*hop.emulated(), hop, run, 17) == rollout(*hop.emulated(), hop, run));
}

TEST(launches_overlap_and_tokens_come_home_whole) {
  // The emulated queue runs launches and copies as late as it may: buffers in use by two launches at once would show.
  const RandomModel model(make_shape(11, 16, 1, 1, 1, 6, 16));
  Run run;
  run.n_steps = kSlow ? 150 : 300, run.n = 2;
  EXPECT(rollout(*model.emulated(with(Precision::kFp32, 8)), model, run) == rollout(*model.cpu(), model, run));
}

TEST(a_session_may_end_while_launches_run) {
  const RandomModel model(make_shape(9, 16, 1, 1, 1, 4, 16));
  ObservablesSpec spec;
  spec.n_states = 9, spec.lags = {1}, spec.set_of.assign(9, -1);
  ObservablesWriter writer(spec, 1);
  const std::uint16_t start = 3;
  const std::uint64_t index = 0;
  SessionOptions options;
  options.n_trajs = 1, options.history = &start, options.n_history = 1, options.trajectory = &index;
  options.observables = &writer;
  const auto engine = model.emulated(with(Precision::kFp16, 8));
  auto session = engine->open(options);
  std::vector<std::uint16_t> out(1000);
  const auto stop = [](std::uint64_t) -> bool { throw std::runtime_error("stop"); };
  EXPECT_THROWS(session->advance(1000, {out.data(), 1000, 2, 1, 0}, stop), std::runtime_error);
  EXPECT_THROWS(session->advance(1, {}, nullptr), InputError);
  session.reset();  // what is queued still runs, on memory that must be there
}

TEST(refusals_name_the_limit) {
  const RandomModel model(make_shape(20, 32, 1, 2, 2, 8, 32));
  EmulationOptions small;
  small.free_memory = 4 << 20;
  const auto engine = model.emulated({}, small);
  const CudaMemoryPlan plan = engine->memory_plan(Mode::kRing, 100000);
  EXPECT(plan.largest_n_trajs > 10 && plan.largest_n_trajs < 100000 && plan.total > small.free_memory);
  Run many;
  many.n = 100000;
  EXPECT_THROWS(rollout(*engine, model, many), InputError);
  EXPECT_THROWS(log_probs(*engine, model, 4000, 2, Mode::kRing), InputError);
  EXPECT_THROWS(engine->memory_plan(Mode::kRing, 0), InputError);
  EXPECT(engine->describe(2147483647).find("throughput, 16") == 0);
  EmulationOptions old;
  old.largest_cluster = 1;
  EXPECT_THROWS(model.emulated(with(Precision::kFp16, 8, 2), old), UnsupportedError);
  EXPECT(model.emulated({}, old)->describe(1).find("throughput") == 0);
  EXPECT(model.emulated()->describe(1).find("latency") == 0);
  EXPECT(model.emulated()->describe(100000).find("throughput, 16") == 0);
  EmulationOptions tiny;
  tiny.shared_limit = 2048;
  EXPECT_THROWS(model.emulated({}, tiny), UnsupportedError);
  EXPECT_THROWS(precision_named("bfloat16"), InputError);
  EXPECT_THROWS(model.emulated(with(Precision::kFp16Cache, 8)), UnsupportedError);
  RandomModel large(model.shape);
  large.values["head.weight"][5] = 1e5f;
  EXPECT_THROWS(large.emulated(), InputError);
  ModelShape wide = model.shape;
  wide.context_length = 5000;
  EXPECT_THROWS(RandomModel(wide).emulated(), UnsupportedError);
#if !defined(NANOMD_HAS_CUDA)
  EXPECT_THROWS(make_cuda_engine(model.shape, model.views, model.multipliers, {}), UnsupportedError);
#endif
}

TEST(overflow_is_reported_not_sampled) {
  RandomModel model(make_shape(20, 32, 1, 2, 2, 8, 32));
  for (float& w : model.values["blocks.0.mlp.up.bias"])
    w = 1e6f;  // the hidden layer leaves the range of half precision
  EXPECT_THROWS(rollout(*model.emulated(with(Precision::kFp16, 8)), model, {}), InputError);
}

TEST(progress_is_told_and_may_cancel) {
  const RandomModel model(make_shape(20, 16, 1, 1, 1, 4, 16));
  const std::uint16_t start = 3;
  const std::uint64_t index = 0;
  SessionOptions options;
  options.n_trajs = 1, options.history = &start, options.n_history = 1, options.trajectory = &index;
  std::uint64_t told = 0;
  const auto engine = model.emulated(with(Precision::kFp16, 8));
  EXPECT(engine->open(options)->advance(100, {}, [&](std::uint64_t n) { return told += n, false; }));
  EXPECT(told == 100);
  const auto session = engine->open(options);
  EXPECT(!session->advance(100000, {}, [](std::uint64_t) { return true; }));
  EXPECT_THROWS(session->advance(1, {}, nullptr), InputError);
}

namespace {

// The same rollout's observables: counted by the session, or by a writer that is given the tokens.
ObservablesWriter observed(const RolloutEngine& engine, const RandomModel& model, const Run& run,
                           const ObservablesSpec& spec, const std::vector<std::uint64_t>& pieces, bool reopen) {
  const std::size_t n = static_cast<std::size_t>(run.n);
  std::vector<std::uint16_t> history = model.tokens(n, 5);
  std::vector<std::uint64_t> index(n);
  for (std::size_t i = 0; i < n; ++i) index[i] = i;
  ObservablesWriter writer(spec, n);
  SessionOptions options;
  options.mode = run.mode, options.hop_keep = run.keep, options.n_trajs = run.n, options.seed = 11;
  options.history = history.data(), options.n_history = 1, options.trajectory = index.data();
  options.observables = &writer;
  auto session = engine.open(options);
  std::uint64_t done = 0;
  for (const std::uint64_t steps : pieces) {
    std::vector<std::uint16_t> tokens(n * steps);
    const bool here = session->observes();
    // A device that observes stores some states, or none; the writer must be given all.
    TokenSink sink{tokens.data(), steps, 2, here ? 3u : 1u, here ? (done + 2) / 3 : done};
    EXPECT(session->advance(steps, here && done % 2 == 1 ? TokenSink{} : sink, nullptr));
    if (here)
      session->collect(writer);
    else
      writer.add({tokens.data(), steps, 2}, steps, 1);
    done += steps;
    if (!reopen) continue;
    std::vector<std::uint16_t> recent(n * session->history_length());
    session->copy_history(recent.data());
    history = recent;
    options.history = history.data(), options.n_history = session->history_length();
    options.n_before = 1 + done - options.n_history, options.first_step = done;
    session = engine.open(options);
  }
  return writer;
}

bool equal(const ObservablesWriter& a, const ObservablesWriter& b) {
  return a.totals() == b.totals() && a.counters() == b.counters() && a.recent() == b.recent();
}

}  // namespace
TEST(observables_equal_those_of_the_cpu) {
  const RandomModel ring(make_shape(9, 16, 1, 2, 1, 6, 16)), hop(paper_like(9, 16, 1, 2, 6));
  ObservablesSpec spec;
  spec.n_states = 9;
  spec.lags = {1, 3, 11};
  spec.n_sets = 3;
  spec.set_of = {0, 0, 0, -1, 1, 1, -1, 2, -1};
  spec.edges = {0, 1, 2, 3, 6, 12};
  Run run;
  for (const int n : kSlow ? std::vector<int>{3} : std::vector<int>{1, 10}) {
    run.n = n;
    for (const bool far : kSlow ? std::vector<bool>{false} : std::vector<bool>{false, true}) {
      run.mode = far ? Mode::kHop : Mode::kRing, run.keep = 3;
      const RandomModel& model = far ? hop : ring;
      ObservablesWriter expected = observed(*model.cpu(), model, run, spec, {70}, false);
      for (const CudaOptions& options : {with(Precision::kFp32, 8), with(Precision::kFp32, 8, 2)}) {
        const auto engine = model.emulated(options);
        if (!kSlow) {  // the resumed one goes through the same code
          EXPECT(equal(observed(*engine, model, run, spec, {70}, false), expected));
          EXPECT(equal(observed(*engine, model, run, spec, {1, 7, 40, 22}, false), expected));
        }
        ObservablesWriter resumed = observed(*engine, model, run, spec, {5, 35, 30}, true);
        EXPECT(equal(resumed, expected));
        resumed.finish();
        ObservablesWriter whole = expected;
        whole.finish();
        EXPECT(resumed.totals() == whole.totals());
        EXPECT(resumed.totals() != expected.totals());  // something was under way
      }
    }
  }
  // Bare counts, no lags and no sets.
  ObservablesSpec bare;
  bare.n_states = 9, bare.set_of.assign(9, -1);
  run.mode = Mode::kRing;
  EXPECT(equal(observed(*ring.emulated(with(Precision::kFp32, 8)), ring, run, bare, {9, 4}, false),
               observed(*ring.cpu(), ring, run, bare, {13}, false)));
  // Memory: planned, and refused where it is not there.
  const auto engine = ring.emulated();
  const CudaMemoryPlan without = engine->memory_plan(Mode::kRing, 10),
                       plan = engine->memory_plan(Mode::kRing, 10, &spec);
  EXPECT(plan.per_trajectory > without.per_trajectory && plan.fixed > without.fixed);
  EXPECT(plan.largest_n_trajs < without.largest_n_trajs);
  spec.lags = {1 << 24};
  EXPECT(engine->memory_plan(Mode::kRing, 100, &spec).largest_n_trajs < 100);
  run.n = 100;
  EXPECT_THROWS(observed(*engine, ring, run, spec, {1}, false), InputError);
  EXPECT_THROWS(observed(*engine, ring, run, bare = ObservablesSpec{4, {}, 0, {-1, -1, -1, -1}, {0}}, {1}, false),
                InputError);
}

TEST_MAIN()
