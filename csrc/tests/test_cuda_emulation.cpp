// The CUDA engine without a GPU: the kernels' code on emulated threads against the CPU engine.
#include <cmath>
#include <cstring>
#include <random>

#include "cuda/draw.h"
#include "cuda/emulator.h"
#include "cuda/layout.h"
#include "cuda/pack.h"
#include "cuda/session.h"
#include "nanomd/check.h"
#include "nanomd/cuda_engine.h"
#include "nanomd/cuda_half.h"
#include "nanomd/observables.h"
#include "random_model.h"
#include "unit_test.h"

namespace {

using namespace nanomd;
using namespace test_models;

std::vector<float> log_probs(const RolloutEngine& engine, const RandomModel& model, int n, std::size_t length,
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
double largest_error(const std::vector<float>& a, const std::vector<float>& reference) {
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
std::vector<std::uint16_t> rollout(const RolloutEngine& engine, const RandomModel& model, const Run& run,
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

CudaOptions with(const std::string& precision, int tile, int ranks = 0) {
  CudaOptions options;
  options.precision = precision, options.tile = tile, options.ranks = ranks;
  options.regime = ranks > 0 ? "latency" : "throughput";
  return options;
}

#if defined(__SANITIZE_ADDRESS__)
constexpr bool kSlow = true;  // emulated threads under the sanitizer
constexpr std::uint64_t kOrders = 2;
#else
constexpr bool kSlow = false;
constexpr std::uint64_t kOrders = 5;
#endif

}  // namespace

TEST(half_precision_rounds_to_nearest_even) {
  for (std::uint32_t bits = 0; bits < 0x7C00; ++bits) {
    const float value = half_value(static_cast<std::uint16_t>(bits));
    EXPECT(half_bits(value) == bits);
    EXPECT(half_bits(-value) == (bits | 0x8000u));
    if (bits == 0x7BFF) break;
    const float next = half_value(static_cast<std::uint16_t>(bits + 1)), middle = value + (next - value) / 2;
    EXPECT(half_bits(middle) == bits + (bits & 1));
    EXPECT(half_bits(std::nextafterf(middle, 0.0f)) == bits);
    EXPECT(half_bits(std::nextafterf(middle, 1e30f)) == bits + 1);
  }
  EXPECT(half_bits(65519.0f) == 0x7BFF && half_bits(65520.0f) == 0x7C00);
  EXPECT(std::isnan(half_value(half_bits(NAN))) && std::isinf(half_value(half_bits(INFINITY))));
}

TEST(rows_are_paired_once_each) {
  for (const int d_head : {8, 24, 32}) {
    const int heads = 5, rows = heads * d_head, blocks = (rows + 15) / 16;
    std::vector<int> seen(static_cast<std::size_t>(rows), 0);
    for (int r = 0; r < blocks * 16; ++r) {
      const int source = cuda::paired_row(r, d_head, heads);
      if (source < 0) continue;
      ++seen[static_cast<std::size_t>(source)];
      if (r % 16 < 8) EXPECT(cuda::paired_row(r + 8, d_head, heads) == source + d_head / 2);
    }
    for (const int count : seen) EXPECT(count == 1);
  }
}

TEST(log_probs_equal_the_cpu_engine) {
  struct Case {
    ModelShape shape;
    Mode mode;
    int keep;
    std::uint64_t first;
    int n;
    CudaOptions options;
  };
  ModelShape markov = make_shape(21, 24, 2, 3, 1, 7, 40);  // one group of three heads, widths that fill no tile
  markov.markov_head = true;
  ModelShape relu = make_shape(11, 40, 1, 1, 1, 6, 24);  // a head of 40 features: five lanes of eight
  relu.gelu = false;
  ModelShape post = make_shape(9, 32, 2, 2, 2, 9, 64);
  post.pre_norm = false;
  const std::vector<Case> cases = {
      {make_shape(20, 32, 2, 2, 2, 8, 64), Mode::kRing, 0, 0, 3, with("float32", 8)},
      {make_shape(20, 32, 2, 2, 2, 8, 64), Mode::kRing, 0, 5, 17, with("float16", 16)},
      {markov, Mode::kRing, 0, 1000000007, 9, with("float32", 8)},
      {markov, Mode::kRing, 0, 3, 2, with("float16", 8, 2)},
      {relu, Mode::kRing, 0, 0, 1, with("float16", 8)},
      {post, Mode::kRing, 0, 0, 2, with("float32", 8, 4)},
      {post, Mode::kHop, 4, 0, 2, with("float32", 8)},
      {paper_like(7, 64, 1, 8, 10), Mode::kHop, 5, 0, 2, with("float16", 8)},
      {paper_like(7, 64, 1, 8, 10), Mode::kCrop, 0, 0, 1, with("float32", 8)},
      {make_shape(12, 64, 1, 8, 1, 40, 64), Mode::kRing, 0, 33, 1, with("float32", 8)},  // eight heads in two pieces
  };
  for (const Case& test : cases) {
    const RandomModel model(test.shape);
    const std::size_t length = 2 * test.shape.context_length + 3;
    const std::vector<float> expected =
        log_probs(*model.cpu(), model, test.n, length, test.mode, test.keep, test.first);
    const std::vector<float> found =
        log_probs(*model.emulated(test.options), model, test.n, length, test.mode, test.keep, test.first);
    const double error = largest_error(found, expected);
    const bool precise = test.options.precision == "float32";
    std::printf("     d %3d, W %2d, %s: |ln p error| %.2e\n", test.shape.d_model, test.shape.context_length,
                test.options.precision.c_str(), error);
    EXPECT(error < (precise ? 1e-4 : 2e-2));
    EXPECT(precise || error > 1e-6);  // else this would not be the 16-bit engine
  }
}

TEST(tokens_equal_the_cpu_engine) {
  // In single precision a draw within rounding of a boundary is one in a million.
  const RandomModel ring(make_shape(20, 32, 2, 2, 1, 8, 64)), hop(paper_like(9, 32, 1, 2, 8));
  EXPECT(rollout(*ring.emulated(with("float32", 8)), ring, {}) == rollout(*ring.cpu(), ring, {}));
  EXPECT(rollout(*hop.emulated(with("float32", 8)), hop, {Mode::kHop, 3}) == rollout(*hop.cpu(), hop, {Mode::kHop, 3}));
  EXPECT(rollout(*hop.emulated(with("float32", 8)), hop, {Mode::kCrop}) == rollout(*hop.cpu(), hop, {Mode::kCrop}));
  Run warm;
  warm.temperature = 1.7, warm.stride = 3, warm.first_trajectory = 1234567890123;
  EXPECT(rollout(*ring.emulated(with("float32", 8)), ring, warm) == rollout(*ring.cpu(), ring, warm));
}

TEST(a_trajectory_does_not_depend_on_its_company) {
  const RandomModel model(make_shape(20, 32, 2, 2, 2, 8, 64));
  Run all;
  all.n = 19, all.n_steps = 14;
  const std::vector<std::uint16_t> expected = rollout(*model.emulated(with("float16", 16)), model, all);
  const std::vector<float> probabilities = log_probs(*model.emulated(with("float16", 16)), model, 3, 12, Mode::kRing);
  for (const CudaOptions& options : {with("float16", 8), with("float16", 8, 1), with("float16", 8, 4)}) {
    for (const int first : {0, 17}) {
      Run some;
      some.first_trajectory = static_cast<std::uint64_t>(first), some.n = 2, some.n_steps = 14;
      const std::vector<std::uint16_t> found = rollout(*model.emulated(options), model, some);
      EXPECT(std::equal(found.begin(), found.end(), expected.begin() + first * 14));
    }
    const std::vector<float> again = log_probs(*model.emulated(options), model, 3, 12, Mode::kRing);
    EXPECT(std::memcmp(again.data(), probabilities.data(), again.size() * sizeof(float)) == 0);
  }
}

TEST(the_order_of_threads_changes_nothing) {
  ModelShape shape = make_shape(20, 32, 2, 2, 1, 8, 64);
  shape.markov_head = true;
  const RandomModel model(shape);
  for (const CudaOptions& options : {with("float16", 8), with("float16", 8, 2)}) {
    std::vector<float> expected;
    for (std::uint64_t seed = 0; seed < kOrders; ++seed) {
      EmulationOptions emulation;
      emulation.order_seed = seed;
      const std::vector<float> found = log_probs(*model.emulated(options, emulation), model, 2, 10, Mode::kRing);
      if (seed == 0) expected = found;
      EXPECT(std::memcmp(found.data(), expected.data(), found.size() * sizeof(float)) == 0);
    }
  }
}

TEST(wide_vocabularies_keep_their_logits_in_device_memory) {
  const RandomModel model(make_shape(2500, 16, 1, 1, 1, 4, 16));
  const CudaOptions options = with("float32", 8);
  EXPECT(!cuda::make_layout(model.shape, true, 8, 1, 227 << 10, false).shared.logits_in_shared);
  const std::vector<float> expected = log_probs(*model.cpu(), model, 2, 6, Mode::kRing);
  EXPECT(largest_error(log_probs(*model.emulated(options), model, 2, 6, Mode::kRing), expected) < 1e-4);
  EXPECT(largest_error(log_probs(*model.emulated(with("float32", 8, 2)), model, 2, 6, Mode::kRing), expected) < 1e-4);
  Run run;
  run.n_steps = 6;
  EXPECT(rollout(*model.emulated(options), model, run) == rollout(*model.cpu(), model, run));
  EXPECT(rollout(*model.emulated(with("float32", 8, 2)), model, run) == rollout(*model.cpu(), model, run));
}

TEST(a_resumed_session_continues_bit_for_bit) {
  const RandomModel ring(make_shape(20, 32, 2, 2, 2, 6, 32)), hop(paper_like(9, 32, 1, 2, 7));
  Run run;
  run.n_steps = 30, run.n = 2;
  EXPECT(rollout(*ring.emulated(), ring, run, 19) == rollout(*ring.emulated(), ring, run));
  run.mode = Mode::kHop, run.keep = 3;
  EXPECT(rollout(*hop.emulated(), hop, run, 17) == rollout(*hop.emulated(), hop, run));
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
  EmulationOptions old;
  old.largest_cluster = 1;
  EXPECT_THROWS(model.emulated(with("float16", 8, 2), old), UnsupportedError);
  EXPECT(model.emulated({}, old)->describe(1).find("throughput") == 0);
  EXPECT(model.emulated()->describe(1).find("latency") == 0);
  EXPECT(model.emulated()->describe(100000).find("throughput, 16") == 0);
  EmulationOptions tiny;
  tiny.shared_limit = 2048;
  EXPECT_THROWS(model.emulated({}, tiny), UnsupportedError);
  EXPECT_THROWS(model.emulated(with("bfloat16", 8)), InputError);
  RandomModel large(model.shape);
  large.values["head.weight"][5] = 1e5f;
  EXPECT_THROWS(large.emulated(), InputError);
#if !defined(NANOMD_HAS_CUDA)
  EXPECT_THROWS(make_cuda_engine(model.shape, model.views, model.multipliers, {}), UnsupportedError);
#endif
}

TEST(overflow_is_reported_not_sampled) {
  RandomModel model(make_shape(20, 32, 1, 2, 2, 8, 32));
  for (float& w : model.values["blocks.0.mlp.up.bias"])
    w = 1e6f;  // the hidden layer leaves the range of half precision
  EXPECT_THROWS(rollout(*model.emulated(with("float16", 8)), model, {}), InputError);
}

TEST(progress_is_told_and_may_cancel) {
  const RandomModel model(make_shape(20, 16, 1, 1, 1, 4, 16));
  const std::uint16_t start = 3;
  const std::uint64_t index = 0;
  SessionOptions options;
  options.n_trajs = 1, options.history = &start, options.n_history = 1, options.trajectory = &index;
  std::uint64_t told = 0;
  const auto engine = model.emulated(with("float16", 8));
  EXPECT(engine->open(options)->advance(100, {}, [&](std::uint64_t n) { return told += n, false; }));
  EXPECT(told == 100);
  const auto session = engine->open(options);
  EXPECT(!session->advance(100000, {}, [](std::uint64_t) { return true; }));
  EXPECT_THROWS(session->advance(1, {}, nullptr), InputError);
}

TEST(the_emulator_sees_what_it_should) {
  const auto run = [](std::uint64_t seed, auto body) {
    cuda::Emulator emulator(1, 4096, seed);
    int result = 0;
    emulator.run([&](cuda::Emulator::Thread& thread) { body(thread, result); });
    return result;
  };
  // A barrier that one thread misses.
  EXPECT_THROWS(run(0,
                    [](auto& thread, int&) {
                      if (thread.thread() != 5) thread.sync();
                    }),
                std::runtime_error);
  // A race: the value read depends on the order of threads.
  const auto race = [](auto& thread, int& result) {
    auto* shared = reinterpret_cast<int*>(thread.shared());
    shared[thread.thread()] = thread.thread();
    const int neighbour = shared[(thread.thread() + 1) % cuda::kThreads];  // no barrier before this
    thread.sync();
    if (thread.thread() == 0) result = neighbour;
  };
  EXPECT(run(0, race) != 1);
  bool differs = false;
  for (std::uint64_t seed = 1; seed < 6; ++seed) differs = differs || run(seed, race) != run(0, race);
  EXPECT(differs);
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

TEST(lookahead_changes_no_state) {
  // Windows shorter than the columns, and longer; far past a full one; hops and crops, whose refills go through
  // together; a table of guesses that is mostly wrong, since the weights are random.
  ModelShape markov = make_shape(21, 24, 2, 3, 1, 5, 40);
  markov.markov_head = true;
  struct Case {
    RandomModel model;
    Mode mode;
    int keep;
    std::string precision;
  };
  const Case cases[] = {
      {RandomModel(make_shape(20, 32, 2, 2, 1, 13, 64)), Mode::kRing, 0, "float16"},
      {RandomModel(markov), Mode::kRing, 0, "float32"},
      {RandomModel(paper_like(9, 32, 2, 2, 12)), Mode::kHop, 4, "float16"},
      {RandomModel(paper_like(9, 32, 1, 2, 11)), Mode::kCrop, 0, "float32"},
  };
  for (const Case& test : cases) {
    if (kSlow && test.mode != Mode::kHop) continue;  // whose refills and steps take both ways through the kernel
    Run run{test.mode, test.keep, 2, kSlow ? 18 : 30};
    run.stride = 3;
    const auto engine = test.model.emulated(with(test.precision, 8, 2)),
               plain = test.model.emulated(with(test.precision, 8));
    EXPECT(engine->describe(2).find("states ahead") != std::string::npos);
    EXPECT(plain->describe(2).find("ahead") == std::string::npos);
    const std::vector<std::uint16_t> expected = rollout(*plain, test.model, run);
    EXPECT(rollout(*engine, test.model, run, 17) == expected);
    for (const int drafts : kSlow ? std::vector<int>{2} : std::vector<int>{-1, 0, 2}) {
      run.lookahead = drafts;
      EXPECT(rollout(*engine, test.model, run) == expected);
    }
    const std::vector<float> known = log_probs(*plain, test.model, 1, 25, test.mode, test.keep);
    const std::vector<float> found = log_probs(*engine, test.model, 1, 25, test.mode, test.keep);
    EXPECT(std::memcmp(found.data(), known.data(), known.size() * sizeof(float)) == 0);
  }
  for (std::uint64_t seed = 1; seed < (kSlow ? 1 : kOrders); ++seed) {
    EmulationOptions emulation;
    emulation.order_seed = seed;
    const Run run{Mode::kRing, 0, 1, 40};
    EXPECT(rollout(*cases[0].model.emulated(with("float16", 8, 2), emulation), cases[0].model, run) ==
           rollout(*cases[0].model.emulated(with("float16", 8)), cases[0].model, run));
  }
}

TEST(lookahead_draws_several_states_a_pass) {
  ModelShape shape = make_shape(9, 16, 1, 1, 1, 12, 16);
  shape.markov_head = true;
  RandomModel model(shape);
  for (int k = 0; k < 9; ++k) model.values["markov.weight"][static_cast<std::size_t>(k) * 10] = 7.0f;
  const std::uint16_t start[2] = {3, 4};
  const std::uint64_t index[2] = {0, 1};
  SessionOptions options;
  options.n_trajs = 2, options.history = start, options.n_history = 1, options.trajectory = index;
  const auto engine = model.emulated(with("float16", 8, 2));
  const std::uint32_t n = kSlow ? 40 : 200;
  const auto passes = [&](int lookahead) {
    options.lookahead = lookahead;
    const auto session = engine->open(options);
    EXPECT(session->advance(n, {}, nullptr));
    return dynamic_cast<const cuda::TiledSession&>(*session).passes();
  };
  const std::uint32_t many = passes(-1), few = passes(1);
  std::printf("     %.2f states a pass with 7 states ahead, %.2f with 1\n", 2.0 * n / many, 2.0 * n / few);
  EXPECT(many < n && 2 * few < 3 * n && many < few && few >= n);
  EXPECT(passes(0) == 0);
}

TEST(draws_by_a_warp_are_those_of_one_lane) {
  std::mt19937 random(5);
  for (const int n : {1, 2, 31, 32, 33, 100, 1000}) {
    std::vector<float> weight(static_cast<std::size_t>(n));
    for (const bool sparse : {false, true}) {
      for (float& w : weight) w = sparse && random() % 4 != 0 ? 0.0f : std::exp2(-static_cast<float>(random() % 30));
      weight[random() % weight.size()] = 1.0f;
      cuda::Emulator emulator(1, 64, 0);
      bool equal = true;
      std::vector<double> u = {0.0, 0.5, 1.0 - 0x1.0p-53};
      for (int i = 0; i < 60; ++i) u.push_back(static_cast<double>(random()) * 0x1.0p-32);
      emulator.run([&](cuda::Emulator::Thread& thread) {
        for (const double x : u)
          equal = (cuda::draw_state(thread, weight.data(), n, x) == sample_state(weight.data(), n, x)) && equal;
      });
      EXPECT(equal);
    }
  }
}

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
      for (const CudaOptions& options : {with("float32", 8), with("float32", 8, 2)}) {
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
  EXPECT(equal(observed(*ring.emulated(with("float32", 8)), ring, run, bare, {9, 4}, false),
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
