#include <vector>

#include "nanomd/check.h"
#include "nanomd/counts.h"
#include "unit_test.h"

using Table = std::vector<std::int64_t>;

namespace {

const std::vector<std::int32_t> kStates = {0, 0, 1, -1, 1, 2, 0, 1};

nanomd::Trajectories<std::int32_t> one(std::int64_t n_blocks = 1) {
  return {{kStates.data(), static_cast<std::int64_t>(kStates.size()), 0, n_blocks}};
}

}  // namespace

TEST(visits_by_block) {
  Table visits(6);
  nanomd::count_visits(one(2), 3, visits.data());
  EXPECT((visits == Table{2, 1, 0, 1, 2, 1}));
}

TEST(transitions_sliding_and_strided) {
  Table counts(9);
  nanomd::count_transitions(one(), 3, 1, 1, counts.data());
  EXPECT((counts == Table{1, 2, 0, 0, 0, 1, 1, 0, 0}));
  Table lag2(9), strided(9);
  nanomd::count_transitions(one(), 3, 2, 1, lag2.data());
  EXPECT((lag2 == Table{0, 1, 0, 1, 1, 0, 0, 1, 0}));  // pairs 0-1, 1-1, 1-0, 2-1
  nanomd::count_transitions(one(), 3, 2, 2, strided.data());
  EXPECT((strided == Table{0, 1, 0, 1, 1, 0, 0, 0, 0}));
  Table longer(9);
  nanomd::count_transitions(one(), 3, 8, 1, longer.data());
  EXPECT((longer == Table(9)));
}

TEST(projection_is_counts_times_matrix) {
  const double matrix[6] = {1, 0.5, 2, 0.25, 4, 0.125};
  double product[6] = {};
  Table rows(3);
  nanomd::project_transitions(one(), 3, 1, matrix, 2, product, rows.data());
  EXPECT((rows == Table{3, 1, 1}));
  EXPECT(product[0] == 1 + 2 * 2 && product[1] == 0.5 + 2 * 0.25);
  EXPECT(product[2] == 4 && product[4] == 1);
}

TEST(passages_with_exposure) {
  Table exposure(9), passages(9);
  nanomd::count_passages(one(), 3, 1, exposure.data(), passages.data());
  // 0 -> 1: frames 0-2 and 6-7; 0 -> 2: 0-5, then 6-7 cut; 1 -> 0: 2-6; 1 -> 2: 0-5, as neither came before; 2 -> 0:
  // 5-6; 2 -> 1: 5-7.
  EXPECT((exposure == Table{0, 3, 6, 4, 0, 5, 1, 2, 0}));
  EXPECT((passages == Table{0, 2, 1, 1, 0, 1, 1, 1, 0}));
  Table block_exposure(18), block_passages(18);
  nanomd::count_passages(one(2), 3, 1, block_exposure.data(), block_passages.data());
  EXPECT(block_exposure[3] == 2 && block_exposure[9 + 3] == 2);  // 1 -> 0, frames 2-6, split at 4
  EXPECT(block_passages[3] == 0 && block_passages[9 + 3] == 1);
}

TEST(stays) {
  Table exposure(3), exits(3), completed(15), cut(15);
  nanomd::count_stays(one(), 3, 1, 5, exposure.data(), exits.data(), completed.data(), cut.data());
  EXPECT((exposure == Table{3, 3, 1}));
  EXPECT((exits == Table{2, 1, 1}));
  EXPECT(completed[0 * 5 + 1] == 1);  // the first stay in 0 has no seen beginning
  EXPECT(completed[1 * 5 + 3] == 1 && completed[2 * 5 + 1] == 1);
  EXPECT(cut[1 * 5 + 0] == 1);
}

TEST(bad_states_are_refused) {
  Table counts(4);
  EXPECT_THROWS(nanomd::count_transitions(one(), 2, 1, 1, counts.data()), nanomd::InputError);
  EXPECT_THROWS(nanomd::count_visits(one(), 0, counts.data()), nanomd::InputError);
  Table more(9);
  EXPECT_THROWS(nanomd::count_transitions(one(), 3, 0, 1, more.data()), nanomd::InputError);
}

TEST_MAIN()
