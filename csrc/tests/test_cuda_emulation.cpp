// The CUDA engine without a GPU: the kernels' code on emulated threads against the CPU engine.
#include <cmath>
#include <random>

#include "cuda/draw.h"
#include "cuda/layout.h"
#include "cuda/pack.h"
#include "cuda_emulation.h"
#include "emulation/emulator.h"
#include "nanomd/cuda_half.h"

namespace {
using namespace test_cuda;
}

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
      {make_shape(20, 32, 2, 2, 2, 8, 64), Mode::kRing, 0, 0, 3, with(Precision::kFp32, 8)},
      {make_shape(20, 32, 2, 2, 2, 8, 64), Mode::kRing, 0, 5, 17, with(Precision::kFp16, 16)},
      {markov, Mode::kRing, 0, 1000000007, 9, with(Precision::kFp32, 8)},
      {markov, Mode::kRing, 0, 3, 2, with(Precision::kFp16, 8, 2)},
      {relu, Mode::kRing, 0, 0, 1, with(Precision::kFp16, 8)},
      {post, Mode::kRing, 0, 0, 2, with(Precision::kFp32, 8, 4)},
      {post, Mode::kHop, 4, 0, 2, with(Precision::kFp32, 8)},
      {paper_like(7, 64, 1, 8, 10), Mode::kHop, 5, 0, 2, with(Precision::kFp16, 8)},
      {paper_like(7, 64, 1, 8, 10), Mode::kCrop, 0, 0, 1, with(Precision::kFp32, 8)},
      {make_shape(12, 64, 1, 8, 1, 40, 64), Mode::kRing, 0, 33, 1,
       with(Precision::kFp32, 8)},  // eight heads in two pieces
  };
  for (const Case& test : cases) {
    const RandomModel model(test.shape);
    const std::size_t length = 2 * test.shape.context_length + 3;
    const std::vector<float> expected =
        log_probs(*model.cpu(), model, test.n, length, test.mode, test.keep, test.first);
    const std::vector<float> found =
        log_probs(*model.emulated(test.options), model, test.n, length, test.mode, test.keep, test.first);
    const double error = largest_error(found, expected);
    const bool precise = test.options.precision == Precision::kFp32;
    std::printf("     d %3d, W %2d, %s: |ln p error| %.2e\n", test.shape.d_model, test.shape.context_length,
                precision_name(test.options.precision), error);
    EXPECT(error < (precise ? 1e-4 : 2e-2));
    EXPECT(precise || error > 1e-6);  // else this would not be the 16-bit engine
  }
}

TEST(tokens_equal_the_cpu_engine) {
  // In single precision a draw within rounding of a boundary is one in a million.
  const RandomModel ring(make_shape(20, 32, 2, 2, 1, 8, 64)), hop(paper_like(9, 32, 1, 2, 8));
  EXPECT(rollout(*ring.emulated(with(Precision::kFp32, 8)), ring, {}) == rollout(*ring.cpu(), ring, {}));
  EXPECT(rollout(*hop.emulated(with(Precision::kFp32, 8)), hop, {Mode::kHop, 3}) ==
         rollout(*hop.cpu(), hop, {Mode::kHop, 3}));
  EXPECT(rollout(*hop.emulated(with(Precision::kFp32, 8)), hop, {Mode::kCrop}) ==
         rollout(*hop.cpu(), hop, {Mode::kCrop}));
  Run warm;
  warm.temperature = 1.7, warm.stride = 3, warm.first_trajectory = 1234567890123;
  EXPECT(rollout(*ring.emulated(with(Precision::kFp32, 8)), ring, warm) == rollout(*ring.cpu(), ring, warm));
}
TEST(wide_vocabularies_keep_their_logits_in_device_memory) {
  const RandomModel model(make_shape(2500, 16, 1, 1, 1, 4, 16));
  const CudaOptions options = with(Precision::kFp32, 8);
  EXPECT(!cuda::make_layout(model.shape, true, 8, 1, 227 << 10, false).shared.logits_in_shared);
  const std::vector<float> expected = log_probs(*model.cpu(), model, 2, 6, Mode::kRing);
  EXPECT(largest_error(log_probs(*model.emulated(options), model, 2, 6, Mode::kRing), expected) < 1e-4);
  EXPECT(largest_error(log_probs(*model.emulated(with(Precision::kFp32, 8, 2)), model, 2, 6, Mode::kRing), expected) <
         1e-4);
  Run run;
  run.n_steps = 6;
  EXPECT(rollout(*model.emulated(options), model, run) == rollout(*model.cpu(), model, run));
  EXPECT(rollout(*model.emulated(with(Precision::kFp32, 8, 2)), model, run) == rollout(*model.cpu(), model, run));
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

TEST_MAIN()
