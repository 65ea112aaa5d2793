#include <random>

#include "nanomd/check.h"
#include "nanomd/counts.h"
#include "nanomd/observables.h"
#include "unit_test.h"

namespace {

using namespace nanomd;

ObservablesSpec small_spec() {
  ObservablesSpec spec;
  spec.n_states = 5;
  spec.lags = {1, 4, 50};
  spec.n_sets = 2;
  spec.set_of = {0, -1, 1, 1, -1};
  spec.edges = {0, 1, 2, 5, 20};
  return spec;
}

std::vector<std::uint8_t> random_tokens(std::size_t n, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<std::uint8_t> tokens(n);
  for (std::size_t t = 0; t < n; ++t)
    tokens[t] = t > 0 && random() % 4 != 0 ? tokens[t - 1] : static_cast<std::uint8_t>(random() % 5);
  return tokens;
}

TEST(pieces_threads_and_restarts_give_the_same) {
  constexpr std::size_t kTrajs = 7, kSteps = 200;
  const std::vector<std::uint8_t> tokens = random_tokens(kTrajs * kSteps, 1);
  ObservablesWriter whole(small_spec(), kTrajs);
  whole.add({tokens.data(), kSteps, 1}, kSteps, 1);
  whole.finish();
  for (const std::size_t piece : {1u, 3u, 49u, 51u, 199u}) {
    ObservablesWriter writer(small_spec(), kTrajs);
    for (std::size_t t = 0; t < kSteps; t += piece) {
      writer.add({tokens.data() + t, kSteps, 1}, std::min(piece, kSteps - t), 3);
      ObservablesWriter next(small_spec(), kTrajs);
      next.restore(writer.totals(), writer.counters(), writer.recent());
      writer = next;
    }
    writer.finish();
    EXPECT(writer.totals() == whole.totals());
  }
  // Against the counting of stored trajectories.
  const ObservablesLayout at(small_spec());
  const std::vector<std::int64_t> totals = whole.totals();
  Trajectories<std::uint8_t> stored;
  for (std::size_t i = 0; i < kTrajs; ++i) stored.push_back({tokens.data() + i * kSteps, kSteps});
  std::vector<std::int64_t> visits(5), counts(25);
  count_visits(stored, 5, visits.data());
  for (std::size_t k = 0; k < 5; ++k) EXPECT(visits[k] == totals[at.visits + k]);
  for (std::size_t l = 0; l < 3; ++l) {
    std::fill(counts.begin(), counts.end(), 0);
    count_transitions(stored, 5, small_spec().lags[l], 1, counts.data());
    for (std::size_t k = 0; k < 25; ++k) EXPECT(counts[k] == totals[at.transitions + l * 25 + k]);
  }
}

TEST(what_cannot_be_is_refused) {
  const auto refused = [](auto change) {
    ObservablesSpec spec = small_spec();
    change(spec);
    EXPECT_THROWS(ObservablesWriter(spec, 1), InputError);
  };
  refused([](ObservablesSpec& s) { s.lags = {0}; });
  refused([](ObservablesSpec& s) { s.set_of[0] = 2; });
  refused([](ObservablesSpec& s) { s.set_of.pop_back(); });
  refused([](ObservablesSpec& s) { s.edges = {0, 2, 2}; });
  refused([](ObservablesSpec& s) { s.edges = {1}; });
  ObservablesWriter writer(small_spec(), 2);
  const std::vector<std::uint8_t> bad(2, 5);
  EXPECT_THROWS(writer.add({bad.data(), 1, 1}, 1, 1), InputError);
  EXPECT_THROWS(writer.add({bad.data(), 1, 4}, 1, 1), InputError);
  std::vector<std::int64_t> counters = writer.counters();
  counters[0] = -1;
  EXPECT_THROWS(writer.restore(writer.totals(), counters, writer.recent()), InputError);
  EXPECT_THROWS(writer.restore({}, writer.counters(), writer.recent()), InputError);
}

}  // namespace

TEST_MAIN()
