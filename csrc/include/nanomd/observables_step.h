// The bookkeeping of sets of states for one trajectory, once for both sides: the writer on the host and the kernels of
// the CUDA engine run this very code. `add(cell, amount)` adds to a cell of the tables: plainly on the host, by an
// integer atomic on the device, so that the sum is exact in any order.
#pragma once

#include <cstddef>
#include <cstdint>

#include "nanomd/host_device.h"
#include "nanomd/observables.h"

namespace nanomd {

// What is remembered of a trajectory, in its row of counters. Then follow, for every set, whether it has been visited,
// and for every pair i, j of sets, the step at which the passage i -> j under way began, or -1.
enum Counter : std::size_t {
  kSteps,         // seen so far
  kInside,        // set of the last token, or -1
  kStayBegin,     // step of the entry
  kStayEntered,   // was the entry seen?
  kPresent,       // set visited last, or -1
  kFirstVisited,  // first of n flags
};

// What a step needs to know of the description.
struct SetTables {
  ObservablesLayout at;
  std::size_t n_sets = 0, n_bins = 0;
  const std::int64_t* edges = nullptr;  // [n_bins], edges[0] = 0
};

// The bin b with edges[b] <= length < edges[b + 1]; length >= 0.
NANOMD_HOST_DEVICE std::size_t duration_bin(const SetTables& sets, std::int64_t length) {
  std::size_t low = 0, high = sets.n_bins;
  while (high - low > 1) {
    const std::size_t middle = (low + high) / 2;
    if (sets.edges[middle] <= length)
      low = middle;
    else
      high = middle;
  }
  return low;
}

// At step `time` a trajectory leaves what it was in for `set` (or for no set, -1).
template <class Add>
NANOMD_HOST_DEVICE void enter_set(const SetTables& sets, std::int64_t* counters, std::int64_t time, std::int32_t set,
                                  Add add) {
  const std::size_t n = sets.n_sets, B = sets.n_bins;
  if (counters[kInside] >= 0) {
    const std::size_t left = static_cast<std::size_t>(counters[kInside]);
    const std::int64_t length = time - counters[kStayBegin];
    add(sets.at.stay_exposure + left, length);
    add(sets.at.stay_exits + left, 1);
    if (counters[kStayEntered]) {
      add(sets.at.stay_steps + left, length);
      add(sets.at.stay_completed + left * B + duration_bin(sets, length), 1);
    }
  }
  counters[kInside] = set;
  counters[kStayBegin] = time;
  counters[kStayEntered] = time > 0;
  if (set < 0 || set == counters[kPresent]) return;

  const std::size_t s = static_cast<std::size_t>(set);
  std::int64_t* visited = counters + kFirstVisited;
  std::int64_t* begin = visited + n;
  counters[kPresent] = set;
  for (std::size_t other = 0; other < n; ++other) {
    if (other == s) continue;
    const std::size_t arrived = other * n + s;
    if (begin[arrived] >= 0) {
      const std::int64_t length = time - begin[arrived];
      add(sets.at.passage_exposure + arrived, length);
      add(sets.at.passage_steps + arrived, length);
      add(sets.at.passages + arrived, 1);
      add(sets.at.passage_completed + arrived * B + duration_bin(sets, length), 1);
      begin[arrived] = -1;
    }
    std::int64_t& start = begin[s * n + other];
    if (start < 0) start = visited[s] || visited[other] ? time : 0;
  }
  visited[s] = 1;
}

}  // namespace nanomd
