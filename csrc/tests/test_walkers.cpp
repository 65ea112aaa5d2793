// Walkers: what they draw is what a session draws, wherever they stand, however they were copied, on any threads.
#include <map>
#include <numeric>

#include "nanomd/check.h"
#include "nanomd/resample.h"
#include "nanomd/walkers.h"
#include "random_model.h"
#include "unit_test.h"

namespace {

using namespace nanomd;
using test_models::RandomModel;

constexpr std::uint64_t kSeed = 5;

RandomModel model_for(Mode mode) {
  ModelShape shape = test_models::make_shape(13, 24, 2, 3, 1, 6, 40);
  shape.learned_position = mode != Mode::kRing;
  shape.markov_head = mode == Mode::kHop;
  return RandomModel(shape);
}

// What a session draws after a prompt, for one trajectory of a global index.
std::vector<std::uint16_t> rollout(const RolloutEngine& engine, Mode mode, const std::vector<std::uint16_t>& prompt,
                                   std::uint64_t index, std::size_t n_steps) {
  SessionOptions options;
  options.mode = mode;
  options.hop_keep = 3;
  options.n_trajs = 1;
  options.history = prompt.data();
  options.n_history = prompt.size();
  options.trajectory = &index;
  options.seed = kSeed;
  std::vector<std::uint16_t> tokens(n_steps);
  TokenSink sink;
  sink.tokens = tokens.data();
  sink.row_stride = n_steps;
  sink.item_size = 2;
  EXPECT(engine.open(options)->advance(n_steps, sink, nullptr));
  return tokens;
}

struct Moved {
  std::vector<std::vector<std::uint16_t>> tokens;
};

// Advances every walker: streams, first steps and numbers of steps are given.
Moved move(Walkers& walkers, const std::vector<std::uint64_t>& stream, const std::vector<std::uint64_t>& step,
           const std::vector<std::uint64_t>& n_steps, const std::vector<std::uint8_t>& stops) {
  const std::size_t n = walkers.size(), most = *std::max_element(n_steps.begin(), n_steps.end());
  std::vector<std::uint16_t> tokens(n * most);
  std::vector<std::uint64_t> taken(n);
  WalkerSteps steps{stream.data(), step.data(), n_steps.data(), stops.data(), tokens.data(), most, taken.data()};
  EXPECT(walkers.advance(steps, nullptr));
  Moved result;
  for (std::size_t i = 0; i < n; ++i)
    result.tokens.emplace_back(tokens.begin() + static_cast<std::ptrdiff_t>(i * most),
                               tokens.begin() + static_cast<std::ptrdiff_t>(i * most + taken[i]));
  return result;
}

void place_all(Walkers& walkers, const std::vector<std::vector<std::uint16_t>>& histories,
               const std::vector<std::uint64_t>& n_before) {
  std::vector<std::uint64_t> index(histories.size()), length;
  std::iota(index.begin(), index.end(), 0u);
  std::vector<std::uint16_t> tokens;
  for (const auto& history : histories) {
    length.push_back(history.size());
    tokens.insert(tokens.end(), history.begin(), history.end());
  }
  walkers.resize(histories.size());
  walkers.place({histories.size(), index.data(), tokens.data(), length.data(), n_before.data()});
}

const std::vector<std::uint8_t> kNoStop(13, 0);

}  // namespace

TEST(walkers_draw_what_sessions_draw) {
  for (const Mode mode : {Mode::kRing, Mode::kHop, Mode::kCrop}) {
    const RandomModel model = model_for(mode);
    const auto engine = model.cpu();
    for (const int n_threads : {1, 3}) {
      const auto walkers = engine->walkers({mode, 3, kSeed, 1.0, n_threads});
      std::vector<std::vector<std::uint16_t>> prompts;
      std::vector<std::uint64_t> stream, step(29, 0), n_steps;
      for (std::uint64_t i = 0; i < 29; ++i) {  // prompts and lengths of all kinds, side by side
        prompts.push_back(model.tokens(1 + i % 5, static_cast<unsigned>(i)));
        stream.push_back(100 + i);
        n_steps.push_back(i % 7 == 3 ? 0 : 5 + i);
      }
      place_all(*walkers, prompts, std::vector<std::uint64_t>(29, 0));
      const Moved first = move(*walkers, stream, step, n_steps, kNoStop);
      const Moved second = move(*walkers, stream, n_steps, std::vector<std::uint64_t>(29, 20), kNoStop);
      for (std::size_t i = 0; i < 29; ++i) {
        std::vector<std::uint16_t> drawn = first.tokens[i];
        drawn.insert(drawn.end(), second.tokens[i].begin(), second.tokens[i].end());
        EXPECT(drawn == rollout(*engine, mode, prompts[i], stream[i], n_steps[i] + 20));
      }
    }
  }
}

TEST(copies_go_on_as_their_parent_would) {
  for (const Mode mode : {Mode::kRing, Mode::kHop, Mode::kCrop}) {
    const RandomModel model = model_for(mode);
    const auto engine = model.cpu();
    const auto walkers = engine->walkers({mode, 3, kSeed, 1.0, 2});
    const std::vector<std::uint16_t> prompt = model.tokens(2);
    place_all(*walkers, {prompt, model.tokens(3, 8)}, {0, 0});
    move(*walkers, {100, 101}, {0, 0}, {17, 17}, kNoStop);
    const std::vector<std::uint64_t> parents = {1, 0, 0, 0, 1};
    walkers->select(parents.data(), parents.size());
    EXPECT(walkers->size() == 5);
    // Restored from its history, a walker goes on in the same way.
    std::vector<std::uint16_t> history(walkers->history_length(2));
    const std::uint64_t n_before = walkers->copy_history(2, history.data());
    walkers->resize(6);
    const std::uint64_t sixth = 5, length = history.size();
    EXPECT(walkers->place({1, &sixth, history.data(), &length, &n_before}) < length);
    const Moved moved =
        move(*walkers, {101, 100, 100, 7, 8, 100}, {17, 17, 17, 17, 17, 17}, {9, 9, 9, 30, 30, 9}, kNoStop);
    const std::vector<std::uint16_t> whole = rollout(*engine, mode, prompt, 100, 26);
    const std::vector<std::uint16_t> rest(whole.begin() + 17, whole.end());
    EXPECT(moved.tokens[1] == rest && moved.tokens[2] == rest && moved.tokens[5] == rest);
    EXPECT(moved.tokens[3] != moved.tokens[4]);
    EXPECT(std::vector<std::uint16_t>(moved.tokens[3].begin(), moved.tokens[3].begin() + 9) != rest);
  }
}

TEST(walkers_stop_where_they_arrive) {
  const RandomModel model = model_for(Mode::kRing);
  const auto engine = model.cpu();
  const auto walkers = engine->walkers({Mode::kRing, 0, kSeed, 1.0, 1});
  std::vector<std::uint8_t> stops(13, 0);
  stops[4] = stops[9] = 1;
  place_all(*walkers, {{4}, {1}, {2}}, {0, 0, 0});
  const Moved moved = move(*walkers, {1, 2, 3}, {0, 0, 0}, {400, 400, 1}, stops);
  for (std::uint64_t i = 0; i < 3; ++i) {
    const std::vector<std::uint16_t> whole =
        rollout(*engine, Mode::kRing, {static_cast<std::uint16_t>(i == 0 ? 4 : i)}, i + 1, 400);
    std::size_t n = 0;
    while (n < (i == 2 ? 1u : 400u) && (n == 0 || stops[whole[n - 1]] == 0)) ++n;
    EXPECT(moved.tokens[i].size() == n);
    EXPECT(moved.tokens[i] ==
           std::vector<std::uint16_t>(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(n)));
  }
}

TEST(misuse_is_refused) {
  const RandomModel model = model_for(Mode::kRing);
  const auto engine = model.cpu();
  EXPECT_THROWS(engine->walkers({Mode::kHop, 6, 0, 1.0, 1}), InputError);
  EXPECT_THROWS(engine->walkers({Mode::kRing, 0, 0, 0.0, 1}), InputError);
  const auto walkers = engine->walkers({Mode::kRing, 0, 0, 1.0, 1});
  walkers->resize(1);
  EXPECT_THROWS(walkers->history_length(0), InputError);
  EXPECT_THROWS(move(*walkers, {0}, {0}, {3}, kNoStop), InputError);
  EXPECT_THROWS(place_all(*walkers, {{13}}, {0}), InputError);
  EXPECT_THROWS(place_all(*walkers, {{1}}, {5}), InputError);  // tokens before it that the model reads
  const std::uint64_t parent = 1;
  EXPECT_THROWS(walkers->select(&parent, 1), InputError);
  place_all(*walkers, {{1}}, {0});
  const std::uint64_t zero = 0, many = std::uint64_t{1} << 40;
  std::uint64_t taken = 0;
  EXPECT(!walkers->advance({&zero, &zero, &many, nullptr, nullptr, 0, &taken}, [](std::uint64_t) { return true; }));
  EXPECT_THROWS(walkers->history_length(0), InputError);
}

TEST(resampling_keeps_the_weight_of_every_bin) {
  const std::vector<double> weight = {0.5, 1e-9, 0.1, 0.1, 0.2, 1e-12, 0.05, 0.05};
  const std::vector<std::uint64_t> bin = {3, 0, 1, 1, 3, 0, 3, 3};
  for (std::size_t per_bin = 1; per_bin < 9; ++per_bin) {
    const Resampled result = resample({8, weight.data(), bin.data(), per_bin, 1, 2});
    std::map<std::uint64_t, double> before, after;
    std::map<std::uint64_t, std::size_t> count;
    for (std::size_t i = 0; i < 8; ++i) before[bin[i]] += weight[i];
    for (std::size_t i = 0; i < result.parent.size(); ++i) {
      after[bin[result.parent[i]]] += result.weight[i];
      ++count[bin[result.parent[i]]];
    }
    for (const auto& [name, total] : before) {
      EXPECT_NEAR(after[name] / total, 1.0, 1e-12);
      EXPECT(count[name] == per_bin);
    }
  }
}

TEST(resampling_says_whose_weight_went_where) {
  const std::vector<double> weight = {0.5, 1e-9, 0.1, 0.1, 0.2, 1e-12, 0.05, 0.05};
  const std::vector<std::uint64_t> bin = {3, 0, 1, 1, 3, 0, 3, 3};
  const Resampled plain = resample({8, weight.data(), bin.data(), 2, 1, 2});
  const Resampled traced = resample({8, weight.data(), bin.data(), 2, 1, 2, true});
  EXPECT(plain.merged.empty() && plain.parent == traced.parent && plain.weight == traced.weight);
  std::vector<std::vector<std::uint64_t>> givers;
  for (const std::uint64_t parent : traced.parent) givers.push_back({parent});
  for (std::size_t i = 0; i < traced.merged.size(); i += 2) givers[traced.merged[i]].push_back(traced.merged[i + 1]);
  std::vector<int> gave(8, 0);
  for (std::size_t child = 0; child < givers.size(); ++child) {
    double most = 0;
    for (const std::uint64_t giver : givers[child]) {
      EXPECT(bin[giver] == bin[traced.parent[child]]);
      most += weight[giver];
      ++gave[giver];
    }
    EXPECT(traced.weight[child] <= most * (1 + 1e-12));
  }
  for (const int times : gave) EXPECT(times >= 1);  // no weight is lost
}

TEST(resampling_is_unbiased) {
  const std::vector<double> weight = {0.5, 0.02, 0.1, 0.1, 0.2, 0.03, 0.05};
  const std::vector<std::uint64_t> bin(7, 2);
  constexpr int kRounds = 40000;
  std::vector<double> sum(7, 0.0), squares(7, 0.0);
  for (std::uint64_t round = 0; round < kRounds; ++round) {
    const Resampled result = resample({7, weight.data(), bin.data(), 3, 11, round});
    std::vector<double> own(7, 0.0);
    for (std::size_t i = 0; i < 3; ++i) own[result.parent[i]] += result.weight[i];
    for (std::size_t i = 0; i < 7; ++i) sum[i] += own[i], squares[i] += own[i] * own[i];
  }
  for (std::size_t i = 0; i < 7; ++i) {
    const double mean = sum[i] / kRounds, error = std::sqrt((squares[i] / kRounds - mean * mean) / kRounds);
    EXPECT(std::abs(mean - weight[i]) <= 5 * error + 1e-12);
  }
}

TEST_MAIN()
