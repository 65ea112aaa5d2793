// The variants of the CUDA kernels draw the same states, bit for bit: tiles, clusters, resident weights, lookahead.
#include "cuda/layout.h"
#include "cuda/session.h"
#include "cuda_emulation.h"
#include "nanomd/check.h"

namespace {

using namespace test_cuda;

CudaOptions resident(int tile) {
  CudaOptions options = with(Precision::kFp16, tile);
  options.weights = "resident";
  return options;
}

// A device so small that blocks take several tiles.
EmulationOptions one_multiprocessor(std::uint64_t order_seed = 0) {
  EmulationOptions emulation;
  emulation.multiprocessors = 1, emulation.order_seed = order_seed;
  return emulation;
}

// With the gaps that the emulated engine leaves between regions, room for what fits a device without them.
EmulationOptions roomy() {
  EmulationOptions emulation;
  emulation.shared_limit += 2048;
  return emulation;
}

const ModelShape kXs = make_shape(20, 64, 2, 2, 2, 64, 256), kS = make_shape(100, 128, 4, 4, 4, 128, 512);

}  // namespace

TEST(a_trajectory_does_not_depend_on_its_company) {
  const RandomModel model(make_shape(20, 32, 2, 2, 2, 8, 64));
  Run all;
  all.n = 19, all.n_steps = 14;
  const std::vector<std::uint16_t> expected = rollout(*model.emulated(with(Precision::kFp16, 16)), model, all);
  const std::vector<float> probabilities =
      log_probs(*model.emulated(with(Precision::kFp16, 16)), model, 3, 12, Mode::kRing);
  for (const CudaOptions& options :
       {with(Precision::kFp16, 8), with(Precision::kFp16, 8, 1), with(Precision::kFp16, 8, 4), resident(16)}) {
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
  for (const CudaOptions& options : {with(Precision::kFp16, 8), with(Precision::kFp16, 8, 2)}) {
    std::vector<float> expected;
    for (std::uint64_t seed = 0; seed < kOrders; ++seed) {
      EmulationOptions emulation;
      emulation.order_seed = seed;
      const std::vector<float> found = log_probs(*model.emulated(options, emulation), model, 2, 10, Mode::kRing);
      if (seed == 0) expected = found;
      EXPECT(std::memcmp(found.data(), expected.data(), found.size() * sizeof(float)) == 0);
    }
  }
  // Logits in device memory, where one rank draws for all.
  const RandomModel wide(make_shape(2500, 16, 1, 1, 1, 4, 16));
  const Run run{Mode::kRing, 0, 2, 4};
  for (std::uint64_t seed = 1; seed < kOrders; ++seed) {
    EmulationOptions emulation;
    emulation.order_seed = seed;
    EXPECT(rollout(*wide.emulated(with(Precision::kFp32, 8, 2), emulation), wide, run) ==
           rollout(*wide.cpu(), wide, run));
  }
}

TEST(resident_weights_change_no_bit) {
  ModelShape markov = make_shape(21, 24, 2, 3, 1, 7, 40);  // one group of three heads, widths that fill no tile
  markov.markov_head = true;
  struct Case {
    RandomModel model;
    Mode mode;
    int keep;
  };
  const Case cases[] = {{RandomModel(make_shape(20, 32, 2, 2, 2, 8, 64)), Mode::kRing, 0},
                        {RandomModel(markov), Mode::kRing, 0},
                        {RandomModel(paper_like(9, 32, 2, 2, 6)), Mode::kHop, 3}};
  for (const Case& test : cases) {
    Run run{test.mode, test.keep, 19, kSlow ? 4u : 12u};  // tiles of 8 and 8 in one block, of 3 in another
    const auto streamed = test.model.emulated(with(Precision::kFp16, 8));
    EXPECT(streamed->describe(19).find("resident") == std::string::npos);
    const std::vector<std::uint16_t> expected = rollout(*streamed, test.model, run);
    for (const int tile : {8, 16}) {
      const auto engine = test.model.emulated(resident(tile), one_multiprocessor());
      const std::string size = std::to_string(tile);
      EXPECT(engine->describe(19) ==
             "throughput, " + size + " + " + size + " trajectories a block, weights resident, fp16");
      EXPECT(rollout(*engine, test.model, run, 3) == expected);
    }
    if (kSlow) continue;
    EXPECT(rollout(*test.model.emulated(resident(8)), test.model, run) == expected);  // a block for each tile
    const std::vector<float> known = log_probs(*streamed, test.model, 9, 9, test.mode, test.keep);
    const std::vector<float> found =
        log_probs(*test.model.emulated(resident(8), one_multiprocessor()), test.model, 9, 9, test.mode, test.keep);
    EXPECT(std::memcmp(found.data(), known.data(), known.size() * sizeof(float)) == 0);
    for (std::uint64_t seed = 1; seed < kOrders; ++seed)
      EXPECT(rollout(*test.model.emulated(resident(8), one_multiprocessor(seed)), test.model, run) == expected);
  }
}

TEST(resident_weights_of_configuration_xs) {
  // Two tiles of 16 fit the 227 KiB of compute capability 9.0 beside the weights, to the last few bytes.
  const cuda::Layout layout = cuda::make_layout(kXs, false, 16, 1, 227 << 10, true, 0, 2);
  EXPECT(layout.resident() && layout.teams == 2 && layout.shared.total_bytes <= 227 << 10);
  EXPECT(layout.weights.resident_fragments * cuda::kFragmentBytes == 200704);
  EXPECT(!cuda::make_layout(kS, false, 8, 1, 227 << 10, true).resident());
  const RandomModel model(kXs);
  EXPECT(model.emulated({}, roomy())->describe(100000) ==
         "throughput, 16 + 16 trajectories a block, weights resident, fp16");
  EXPECT(model.emulated({}, roomy())->describe(1000) == "throughput, 8 trajectories a block, weights resident, fp16");
  Run run;
  run.n = kSlow ? 9 : 33, run.n_steps = kSlow ? 1 : 4;
  EmulationOptions emulation = roomy();
  emulation.multiprocessors = 1;
  const std::vector<std::uint16_t> expected = rollout(*model.emulated(with(Precision::kFp16, 16)), model, run);
  const auto engine = model.emulated(resident(kSlow ? 8 : 16), emulation);
  EXPECT(engine->describe(run.n).find(kSlow ? "8 + 8" : "16 + 16") != std::string::npos);
  EXPECT(rollout(*engine, model, run) == expected);
}

TEST(weights_are_resident_where_that_costs_no_threads) {
  const RandomModel xs(kXs), s(kS);
  const auto describe = [](const RandomModel& model, const std::string& weights, int teams, std::size_t limit,
                           int n = 100000) {
    CudaOptions options;
    options.weights = weights;
    EmulationOptions emulation;
    emulation.largest_teams = teams, emulation.shared_limit = limit;
    return model.emulated(options, emulation)->describe(n);
  };
  const std::string streamed = "throughput, 16 trajectories a block, fp16";
  EXPECT(describe(xs, "streamed", 2, 232448) == streamed);
  EXPECT(describe(xs, "auto", 2, 225000) == "throughput, 8 + 8 trajectories a block, weights resident, fp16");
  // Two tiles fit no longer. Forced, one tile comes with the weights all the same.
  EXPECT(describe(xs, "auto", 2, 216800) == streamed);
  EXPECT(describe(xs, "resident", 2, 216800) == "throughput, 16 trajectories a block, weights resident, fp16");
  // A device whose streamed kernel runs once a multiprocessor loses nothing.
  EXPECT(describe(xs, "auto", 1, 216800) == "throughput, 16 trajectories a block, weights resident, fp16");
  EXPECT(describe(s, "auto", 2, 232448) == streamed);
  EXPECT(describe(s, "resident", 2, 232448, 1).find("latency, 8 blocks a cluster, weights resident") == 0);
  EXPECT(describe(s, "streamed", 2, 232448, 1).find("latency, 8 blocks a cluster, 7 states ahead") == 0);
  try {
    (void)describe(s, "resident", 2, 232448);
    EXPECT(false);
  } catch (const UnsupportedError& error) {
    const std::string text = error.what();
    EXPECT(text.find("weights=\"resident\" needs 16") == 0 && text.find("the device has 232448") != std::string::npos);
  }
  CudaOptions wrong = with(Precision::kFp32, 8);
  wrong.weights = "resident";
  EXPECT_THROWS(xs.emulated(wrong), InputError);
  wrong.precision = Precision::kFp16, wrong.weights = "shared";
  EXPECT_THROWS(xs.emulated(wrong), InputError);
}

TEST(lookahead_changes_no_state) {
  // Windows shorter than the columns, and longer; far past a full one; hops and crops, whose refills go through
  // together; a table of guesses that is mostly wrong, since the weights are random.
  ModelShape markov = make_shape(21, 24, 2, 3, 1, 5, 40);
  markov.markov_head = true;
  struct Case {
    RandomModel model;
    Mode mode;
    int keep;
    Precision precision;
  };
  const Case cases[] = {
      {RandomModel(make_shape(20, 32, 2, 2, 1, 13, 64)), Mode::kRing, 0, Precision::kFp16},
      {RandomModel(markov), Mode::kRing, 0, Precision::kFp32},
      {RandomModel(paper_like(9, 32, 2, 2, 12)), Mode::kHop, 4, Precision::kFp16},
      {RandomModel(paper_like(9, 32, 1, 2, 11)), Mode::kCrop, 0, Precision::kFp32},
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
    EXPECT(rollout(*cases[0].model.emulated(with(Precision::kFp16, 8, 2), emulation), cases[0].model, run) ==
           rollout(*cases[0].model.emulated(with(Precision::kFp16, 8)), cases[0].model, run));
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
  const auto engine = model.emulated(with(Precision::kFp16, 8, 2));
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

TEST_MAIN()
