// Groups of states: the draw in two decisions is the flat draw, and every path of the engine draws the same.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>

#include "cpu/kernels.h"
#include "nanomd/check.h"
#include "nanomd/sampling.h"
#include "nanomd/walkers.h"
#include "random_model.h"
#include "unit_test.h"

namespace {

using namespace nanomd;
using test_models::RandomModel;

// Weights of groups and of their states, and the ends of the states' shares of [0, 1) in one flat softmax.
struct Head {
  std::vector<float> group;
  std::vector<std::vector<float>> members;
  std::vector<int> start;
  std::vector<long double> end;

  Head(std::vector<float> groups, std::vector<std::vector<float>> states)
      : group(std::move(groups)), members(std::move(states)) {
    const long double total = std::accumulate(group.begin(), group.end(), 0.0L);
    long double cumulative = 0;
    for (std::size_t g = 0; g < group.size(); ++g) {
      start.push_back(static_cast<int>(end.size()));
      const long double within = std::accumulate(members[g].begin(), members[g].end(), 0.0L);
      for (const float weight : members[g]) {
        cumulative += static_cast<long double>(group[g]) / total * (static_cast<long double>(weight) / within);
        end.push_back(cumulative);
      }
    }
  }
  // In two decisions, as the engine draws.
  int draw(double u) const {
    const Drawn choice = sample_within(group.data(), static_cast<int>(group.size()), u);
    EXPECT(choice.state >= 0 && choice.rest >= 0.0 && choice.rest < 1.0);
    const std::size_t g = static_cast<std::size_t>(choice.state);
    return start[g] + sample_state(members[g].data(), static_cast<int>(members[g].size()), choice.rest);
  }
  // In one, in extended precision.
  int flat(double u) const {
    return static_cast<int>(std::upper_bound(end.begin(), end.end(), static_cast<long double>(u)) - end.begin());
  }
  double distance_to_an_end(double u) const {
    double least = 1;
    for (const long double e : end) least = std::min(least, static_cast<double>(std::fabs(e - u)));
    return least;
  }
  bool possible(int state) const {
    const auto next = std::upper_bound(start.begin(), start.end(), state);
    const std::size_t g = static_cast<std::size_t>(next - start.begin()) - 1;
    const std::size_t member = static_cast<std::size_t>(state - start[g]);
    return group[g] > 0 && member < members[g].size() && members[g][member] > 0;
  }
};

Head random_head(unsigned seed, float width) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, width);
  std::vector<float> groups;
  std::vector<std::vector<float>> members;
  for (int g = 0; g < 40; ++g) {
    groups.push_back(std::exp(normal(random)));
    members.emplace_back();
    for (unsigned k = 0; k < 1 + random() % 30; ++k) members.back().push_back(std::exp(normal(random)));
  }
  return {groups, members};
}

// Shares of 0, of an underflowing group, of groups of one, of a state in a group that is next to impossible.
Head edges() {
  return {{0.0f, 1e-38f, 0.5f, 1e-12f, 0.0f, 1.0f, 3e-45f, 0.25f, 0.0f},
          {{1.0f, 1.0f},
           {1.0f, 2.0f},
           {1.0f},
           {0.0f, 1e-6f, 1.0f},
           {1.0f},
           {0.0f, 0.3f, 0.0f, 1.0f, 0.0f},
           {1.0f},
           {2.0f, 1e-30f, 1.0f, 0.0f},
           {1.0f}}};
}

std::vector<std::uint16_t> rollout(const RolloutEngine& engine, Mode mode, int n_trajs, int n_threads, int lookahead) {
  std::vector<std::uint16_t> prompt(static_cast<std::size_t>(n_trajs) * 2, 3), tokens(prompt.size() / 2 * 60);
  std::vector<std::uint64_t> index(static_cast<std::size_t>(n_trajs));
  std::iota(index.begin(), index.end(), 100u);
  SessionOptions options;
  options.mode = mode;
  options.hop_keep = 3;
  options.n_trajs = n_trajs;
  options.history = prompt.data();
  options.n_history = 2;
  options.trajectory = index.data();
  options.seed = 5;
  options.n_threads = n_threads;
  options.lookahead = lookahead;
  TokenSink sink;
  sink.tokens = tokens.data();
  sink.row_stride = 60;
  sink.item_size = 2;
  EXPECT(engine.open(options)->advance(60, sink, nullptr));
  return tokens;
}

RandomModel model_for(Mode mode, const std::vector<int>& sizes) {
  ModelShape shape = test_models::make_shape(std::accumulate(sizes.begin(), sizes.end(), 0), 24, 2, 3, 1, 6, 40);
  shape.group_sizes = sizes;
  shape.learned_position = mode != Mode::kRing;
  shape.markov_head = mode == Mode::kHop;
  return RandomModel(shape);
}

const std::vector<std::vector<int>> kSizes = {{1, 20, 3, 16, 1, 7}, std::vector<int>(33, 1), {40, 1}};

}  // namespace

TEST(two_decisions_are_the_flat_draw) {
  std::mt19937_64 random(3);
  std::vector<Head> heads = {edges()};
  for (unsigned seed = 0; seed < 20; ++seed) heads.push_back(random_head(seed, seed % 2 == 0 ? 1.0f : 6.0f));
  for (const Head& head : heads)
    for (int i = 0; i < 20000; ++i) {
      const double u = static_cast<double>(random() >> 11) * 0x1.0p-53;
      const int state = head.draw(u);
      EXPECT(head.possible(state));
      if (head.distance_to_an_end(u) > 1e-13) EXPECT(state == head.flat(u));
    }
}

TEST(two_decisions_at_the_edges) {
  // Of the last, u * total minus the first weight rounds to the whole of the second for the largest u.
  std::vector<Head> heads = {
      edges(), random_head(1, 1.0f), random_head(2, 20.0f), {{0x1.8p-52f, 1.5f}, {{1.0f}, {1.0f, 1.0f, 0.0f}}}};
  for (const Head& head : heads) {
    std::vector<double> uniforms = {0.0, 0x1.0p-53, 1.0 - 0x1.0p-53};
    for (const long double end : head.end)  // some last bits to either side of every end
      for (double u = std::min(static_cast<double>(end), 1.0 - 0x1.0p-53), i = 0; i < 4; ++i, u = std::nextafter(u, 0))
        uniforms.insert(uniforms.end(), {u, std::min(2 * static_cast<double>(end) - u, 1.0 - 0x1.0p-53)});
    std::sort(uniforms.begin(), uniforms.end());
    int before = 0;
    for (const double u : uniforms) {
      const int state = head.draw(u);
      EXPECT(head.possible(state) && state >= before);
      before = state;
    }
    const auto first = std::find_if(head.end.begin(), head.end.end(), [](long double e) { return e > 0; });
    EXPECT(head.draw(0.0) == first - head.end.begin());
  }
  // Beyond the last share, where rounding might end: the last state that can be drawn.
  EXPECT(edges().draw(1.0) == edges().draw(1.0 - 0x1.0p-53));
  const float lost[2] = {1.0f, NAN}, nothing[2] = {0.0f, 0.0f};
  EXPECT(sample_within(lost, 2, 0.9).state == -1 && sample_within(nothing, 2, 0.5).state == -1);
}

TEST(lanes_and_columns_leave_the_same_rest) {
  const Head head = edges();
  const int n = static_cast<int>(head.group.size());
  std::mt19937_64 random(4);
  for (const std::string& isa : available_isas()) {
    const Kernels& kernels = choose_kernels(isa);
    for (int round = 0; round < 100; ++round) {
      AlignedBuffer logits(static_cast<std::size_t>(n) * kLanes);
      alignas(64) double u[kLanes], rest[kLanes];
      std::int32_t many[kLanes];
      for (int lane = 0; lane < kLanes; ++lane) {
        u[lane] = lane == 15 ? 1.0 : lane == 14 ? 0.0 : static_cast<double>(random() >> 11) * 0x1.0p-53;
        for (int k = 0; k < n; ++k)
          logits.data()[k * kLanes + lane] = std::log(head.group[static_cast<std::size_t>(k)]);  // -inf of 0
      }
      kernels.sample_lanes(logits.data(), n, 1.0f, u, many, rest);
      for (int lane = 0; lane < kLanes; ++lane) {
        AlignedBuffer row(kLanes);
        for (int k = 0; k < n; ++k) row.data()[k] = std::log(head.group[static_cast<std::size_t>(k)]);
        std::int32_t one = 0;
        double its_rest = 0;
        kernels.sample_column(row.data(), n, 1.0f, u[lane], &one, &its_rest);
        EXPECT(one == many[lane] && its_rest == rest[lane]);
      }
    }
  }
}

TEST(every_path_draws_the_same_states) {
  for (const std::vector<int>& sizes : kSizes)
    for (const Mode mode : {Mode::kRing, Mode::kHop, Mode::kCrop}) {
      const RandomModel model = model_for(mode, sizes);
      for (const Precision precision : {Precision::kFp32, Precision::kFp16Cache, Precision::kFp16})
        for (const std::string& isa : available_isas()) {
          const auto lanes = model.cpu(isa, 0, precision), columns = model.cpu(isa, 16, precision);
          const std::vector<std::uint16_t> states = rollout(*lanes, mode, 19, 1, 0);
          EXPECT(rollout(*columns, mode, 19, 1, 0) == states);
          EXPECT(rollout(*columns, mode, 19, 3, -1) == states);
          EXPECT(rollout(*model.cpu(isa, 4, precision), mode, 19, 2, -1) == states);
          if (mode == Mode::kCrop) continue;  // drafts nothing
          for (const int lookahead : {1, 31}) EXPECT(rollout(*columns, mode, 19, 2, lookahead) == states);
        }
    }
}

TEST(walkers_draw_what_sessions_draw) {
  for (const std::vector<int>& sizes : kSizes)
    for (const Mode mode : {Mode::kRing, Mode::kHop, Mode::kCrop}) {
      const RandomModel model = model_for(mode, sizes);
      const auto engine = model.cpu();
      const std::vector<std::uint16_t> states = rollout(*engine, mode, 19, 1, 0), prompt(38, 3);
      const auto walkers = engine->walkers({mode, 3, 5, 1.0, 2});
      walkers->resize(19);
      std::vector<std::uint64_t> walker(19), stream(19), length(19, 2), zero(19, 0), n_steps(19, 60), taken(19);
      std::iota(walker.begin(), walker.end(), 0u);
      std::iota(stream.begin(), stream.end(), 100u);
      walkers->place({19, walker.data(), prompt.data(), length.data(), zero.data()});
      std::vector<std::uint16_t> tokens(19 * 60);
      EXPECT(walkers->advance({stream.data(), zero.data(), n_steps.data(), nullptr, tokens.data(), 60, taken.data()},
                              nullptr));
      EXPECT(tokens == states);
      EXPECT_THROWS(engine->walkers({mode, 3, 5, 0.5, 2}), UnsupportedError);
    }
}

TEST(log_probabilities_are_normalised_and_of_the_states_drawn) {
  const RandomModel model = model_for(Mode::kRing, kSizes[0]);
  const auto engine = model.cpu();
  const std::vector<std::uint16_t> tokens(4000, 3);  // many sequences, of one token each
  LogProbOptions options;
  options.tokens = tokens.data();
  options.n_tokens = 1;
  options.n_sequences = 1;
  std::vector<float> log_p(48);
  EXPECT(engine->log_probs(options, log_p.data(), nullptr));
  double sum = 0;
  for (const float l : log_p) sum += std::exp(static_cast<double>(l));
  EXPECT_NEAR(sum, 1.0, 1e-5);
  std::vector<std::uint64_t> index(4000);
  std::iota(index.begin(), index.end(), 0u);
  SessionOptions session;
  session.n_trajs = 4000;
  session.history = tokens.data();
  session.n_history = 1;
  session.trajectory = index.data();
  std::vector<std::uint8_t> drawn(4000);
  TokenSink sink;
  sink.tokens = drawn.data();
  sink.row_stride = 1;
  EXPECT(engine->open(session)->advance(1, sink, nullptr));
  for (std::size_t k = 0; k < 48; ++k) {
    const double p = std::exp(static_cast<double>(log_p[k]));
    const double n = static_cast<double>(std::count(drawn.begin(), drawn.end(), static_cast<std::uint8_t>(k)));
    EXPECT(std::abs(n - 4000 * p) <= 4.5 * std::sqrt(4000 * p) + 3);
  }
}

TEST(sizes_that_do_not_fit_are_refused) {
  const RandomModel good = model_for(Mode::kRing, {2, 2});
  constexpr int kMost = std::numeric_limits<int>::max();
  for (const std::vector<int>& sizes :
       {std::vector<int>{4}, {2, 1}, {2, 3}, {0, 4}, {-1, 5}, {1, 1, 1, 1, 1}, {kMost, kMost}, {1, 1, 2, 0}}) {
    ModelShape shape = good.shape;
    shape.group_sizes = sizes;
    EXPECT_THROWS(Model(shape, good.views, good.multipliers), InputError);
  }
  for (const char* name : {"group.weight", "group.bias", "head.weight"}) {
    TensorMap views = good.views;
    views.erase(name);
    EXPECT_THROWS(Model(good.shape, views, good.multipliers), InputError);
  }
  ModelShape shape = good.shape;
  shape.group_sizes = {1, 1, 2};  // tensors of two groups
  EXPECT_THROWS(Model(shape, good.views, good.multipliers), InputError);
  EXPECT_THROWS(good.emulated(), UnsupportedError);
}

TEST(a_temperature_is_refused) {
  const RandomModel model = model_for(Mode::kRing, {2, 2});
  const std::uint16_t prompt = 0;
  const std::uint64_t index = 0;
  SessionOptions options;
  options.n_trajs = 1;
  options.history = &prompt;
  options.n_history = 1;
  options.trajectory = &index;
  EXPECT(model.cpu()->open(options) != nullptr);
  for (const double temperature : {0.5, 1.0 + 1e-15, 2.0}) {
    options.temperature = temperature;
    EXPECT_THROWS(model.cpu()->open(options), UnsupportedError);
  }
  options.temperature = -1.0;
  EXPECT_THROWS(model.cpu()->open(options), InputError);
}

TEST_MAIN()
