// Kinetics of trajectories that need not be stored: populations, transition counts at several lags, residence times and
// first-passage times between named sets of states. Everything is an exact integer, so the result does not depend on
// how the work was split over calls, threads, shards or restarts, and equals what the functions of counts.h give for
// the stored tokens.
//
//   ObservablesWriter writer(spec, n_trajs);
//   while (...) { session->advance(n, sink, progress); writer.add({tokens, row_stride, item_size}, n, n_threads); }
//   writer.finish();
//   writer.totals();
//
// Every worker adds to tables of its own: nothing is locked or shared in the loop over steps.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace nanomd {

struct ObservablesSpec {
  std::int64_t n_states = 0;
  std::vector<std::int64_t> lags;         // steps, >= 1
  std::int64_t n_sets = 0;                // disjoint sets of states
  std::vector<std::int32_t> set_of;       // [n_states], set of every state or -1
  std::vector<std::int64_t> edges = {0};  // 0 = edges[0] < edges[1] < ...: bin b holds the lengths in
                                          // [edges[b], edges[b + 1]), the last one all longer ones
};

// Where the tables lie in one flat array of int64. B = number of bins, n = n_sets, V = n_states.
struct ObservablesLayout {
  ObservablesLayout() = default;
  explicit ObservablesLayout(const ObservablesSpec& spec);  // throws InputError for a spec that cannot be
  std::size_t visits;                                       // [V]
  std::size_t transitions;                                  // [n_lags][V][V], sliding
  // Residence in a set: frames in a row inside it.
  std::size_t stay_exposure;   // [n], steps that began inside: exposure / exits is the mean residence time
  std::size_t stay_exits;      // [n]
  std::size_t stay_steps;      // [n], total length of the residences in `completed`
  std::size_t stay_completed;  // [n][B], residences by length, seen from entry to exit
  std::size_t stay_cut;        // [n][B], entry seen, cut by the end of the trajectory
  // First passages i -> j as in count_passages: from the first visit to i since the last visit to j (or the start) to
  // the next visit to j.
  std::size_t passage_exposure;   // [n][n], steps on the way, completed or cut: exposure / passages is the mean time
  std::size_t passages;           // [n][n]
  std::size_t passage_steps;      // [n][n], total length of the completed ones
  std::size_t passage_completed;  // [n][n][B], by length
  std::size_t passage_cut;        // [n][n][B], cut by the end of the trajectory
  std::size_t size;
};

// Tokens of several trajectories: token t of trajectory i at tokens[i * row_stride + t], elements of item_size bytes.
struct TokenBlock {
  const void* tokens = nullptr;
  std::size_t row_stride = 0;
  int item_size = 1;
};

class ObservablesWriter {
 public:
  ObservablesWriter(const ObservablesSpec& spec, std::size_t n_trajs);

  // The next n_steps tokens of every trajectory.
  void add(const TokenBlock& block, std::size_t n_steps, int n_threads);
  // The trajectories end here: residences and passages under way are cut.
  void finish();

  std::vector<std::int64_t> totals() const;  // [layout.size]

  const ObservablesSpec& spec() const { return spec_; }
  const ObservablesLayout& layout() const { return layout_; }
  std::size_t n_trajs() const { return n_trajs_; }

  // All that is needed to go on elsewhere, as two flat arrays.
  std::size_t counters_per_trajectory() const;
  std::size_t recent_per_trajectory() const;
  const std::vector<std::int64_t>& counters() const { return counters_; }
  const std::vector<std::uint16_t>& recent() const { return recent_; }
  // Goes on where a writer with this state, these totals and the same spec stood. The state is checked.
  void restore(const std::vector<std::int64_t>& totals, const std::vector<std::int64_t>& counters,
               const std::vector<std::uint16_t>& recent);

 private:
  template <class Token>
  void add_row(std::size_t trajectory, const Token* row, std::size_t n_steps, std::int64_t* table);

  ObservablesSpec spec_;
  ObservablesLayout layout_;
  std::size_t n_trajs_;
  std::size_t max_lag_;
  std::vector<std::int64_t> counters_;             // [n_trajs][counters_per_trajectory]
  std::vector<std::uint16_t> recent_;              // [n_trajs][max_lag], token of step t at t mod max_lag
  std::vector<std::vector<std::int64_t>> tables_;  // [workers][layout.size]
};

}  // namespace nanomd
