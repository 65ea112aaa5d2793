// Counting in discrete trajectories: what all kinetics rests on. Everything is exact and in integers, and is split over
// blocks of time, so that a bootstrap over blocks needs no second pass over the data.
//
// Frames are states 0..n_states-1 or negative (unassigned). Trajectories are kept apart.
#pragma once

#include <cstdint>
#include <vector>

namespace nanomd {

// Token: the integer type of the states.
template <class Token>
struct Trajectory {
  const Token* state;            // [length]
  std::int64_t length;           // frames
  std::int64_t first_block = 0;  // blocks of this trajectory: first_block .. first_block + n_blocks - 1,
  std::int64_t n_blocks = 1;     // frame t lies in block first_block + floor(t n_blocks / length)
};

template <class Token>
using Trajectories = std::vector<Trajectory<Token>>;

// Frames in every state. visits [blocks][n_states], added to.
template <class Token>
void count_visits(const Trajectories<Token>& trajectories, std::int64_t n_states, std::int64_t* visits);

// Pairs (state at t, state at t + lag), for t = 0, step, 2 step, ...: step 1 is sliding, step = lag strided. Pairs with
// an unassigned end are left out. Belongs to the block of t. counts [blocks][n_states][n_states], added to.
template <class Token>
void count_transitions(const Trajectories<Token>& trajectories, std::int64_t n_states, std::int64_t lag,
                       std::int64_t step, std::int64_t* counts);

// Sliding counts times a matrix, without the counts: product[b][i][:] = sum_j counts[b][i][j] matrix[j][:].
//   matrix [n_states][n_columns], product [blocks][n_states][n_columns], rows [blocks][n_states] (row sums of counts).
template <class Token>
void project_transitions(const Trajectories<Token>& trajectories, std::int64_t n_states, std::int64_t lag,
                         const double* matrix, std::int64_t n_columns, double* product, std::int64_t* rows);

// First passages between all pairs of states (macrostates, usually), as seen at every stride-th frame; all offsets of
// the stride are followed. A passage i -> j begins at the first visit to i since the last visit to j (or since the
// start of the trajectory) and ends at the next visit to j. What lies between belongs to its exposure, whether it was
// completed or cut by the end: exposure / passages estimates the mean first passage time, unbiased by the end of the
// data where passages are rare events. Frames in neither, unassigned or not, change nothing. Frames before the first
// visit to either came from an unknown one of the two. They are given to the one that is visited first: in equilibrium
// that is, by time reversal, right on average, while leaving them out would shorten the passage times of trajectories
// that are not much longer than these.
//   exposure [blocks][n][n], frames spent on the way from i to j (divide by nothing: strides are multiplied out)
//   passages [blocks][n][n], passages completed in the block
template <class Token>
void count_passages(const Trajectories<Token>& trajectories, std::int64_t n_states, std::int64_t stride,
                    std::int64_t* exposure, std::int64_t* passages);

// Stays in every state at every stride-th frame, all offsets. An unassigned frame belongs to the state before it: of a
// state that is in no macrostate, make a macrostate more.
//   exposure [blocks][n]: frames in the state before the last frame; exits [blocks][n]: exposure / exits is the mean
//   stay. completed, cut [n][n_bins]: stays whose beginning was seen, by length in strides (the last bin holds all
//   longer ones), which ended, or were cut by the end of the data.
template <class Token>
void count_stays(const Trajectories<Token>& trajectories, std::int64_t n_states, std::int64_t stride,
                 std::int64_t n_bins, std::int64_t* exposure, std::int64_t* exits, std::int64_t* completed,
                 std::int64_t* cut);

}  // namespace nanomd
