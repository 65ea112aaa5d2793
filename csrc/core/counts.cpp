#include "nanomd/counts.h"

#include <algorithm>

#include "nanomd/check.h"

namespace nanomd {
namespace {

template <class Token>
std::int64_t as_index(Token token) {
  return static_cast<std::int64_t>(token);
}

template <class Token>
void check_trajectories(const Trajectories<Token>& trajectories, std::int64_t n_states, std::int64_t spacing,
                        const char* spacing_name) {
  check(n_states >= 1, "n_states must be at least 1, got ", n_states);
  check(spacing >= 1, spacing_name, " must be at least 1, got ", spacing);
  for (std::size_t i = 0; i < trajectories.size(); ++i) {
    const Trajectory<Token>& x = trajectories[i];
    check(x.length >= 0 && x.n_blocks >= 1 && x.first_block >= 0, "trajectory ", i,
          " has a negative length or no block");
    for (std::int64_t t = 0; t < x.length; ++t)
      check(as_index(x.state[t]) < n_states, "states must lie below n_states = ", n_states, ", got ",
            as_index(x.state[t]), " in trajectory ", i, ", frame ", t);
  }
}

// First frame of block b of a trajectory: the least t with floor(t n_blocks / length) >= b.
template <class Token>
std::int64_t block_begin(const Trajectory<Token>& x, std::int64_t b) {
  return (b * x.length + x.n_blocks - 1) / x.n_blocks;
}

template <class Token>
std::int64_t block_of(const Trajectory<Token>& x, std::int64_t t) {
  return x.first_block + t * x.n_blocks / x.length;
}

// body(block, begin, end) for the frames [begin, end) of every block of a trajectory.
template <class Token, class Body>
void for_blocks(const Trajectory<Token>& x, const Body& body) {
  for (std::int64_t b = 0; b < x.n_blocks; ++b)
    body(x.first_block + b, block_begin(x, b), std::min(block_begin(x, b + 1), x.length));
}

// Adds the frames [begin, end) to table[block][cell], block by block.
template <class Token>
void add_span(const Trajectory<Token>& x, std::int64_t begin, std::int64_t end, std::int64_t cells, std::int64_t cell,
              std::int64_t* table) {
  while (begin < end) {
    const std::int64_t b = begin * x.n_blocks / x.length;
    const std::int64_t stop = std::min(end, block_begin(x, b + 1));
    table[(x.first_block + b) * cells + cell] += stop - begin;
    begin = stop;
  }
}

}  // namespace

template <class Token>
void count_visits(const Trajectories<Token>& trajectories, std::int64_t n_states, std::int64_t* visits) {
  check_trajectories(trajectories, n_states, 1, "");
  for (const Trajectory<Token>& x : trajectories)
    for_blocks(x, [&](std::int64_t block, std::int64_t begin, std::int64_t end) {
      std::int64_t* row = visits + block * n_states;
      for (std::int64_t t = begin; t < end; ++t)
        if (const std::int64_t i = as_index(x.state[t]); i >= 0) ++row[i];
    });
}

template <class Token>
void count_transitions(const Trajectories<Token>& trajectories, std::int64_t n_states, std::int64_t lag,
                       std::int64_t step, std::int64_t* counts) {
  check_trajectories(trajectories, n_states, lag, "lagtime");
  check(step >= 1, "step must be at least 1, got ", step);
  for (const Trajectory<Token>& x : trajectories)
    for_blocks(x, [&](std::int64_t block, std::int64_t begin, std::int64_t end) {
      std::int64_t* table = counts + block * n_states * n_states;
      const std::int64_t stop = std::min(end, x.length - lag);
      for (std::int64_t t = (begin + step - 1) / step * step; t < stop; t += step) {
        const std::int64_t i = as_index(x.state[t]), j = as_index(x.state[t + lag]);
        if (i >= 0 && j >= 0) ++table[i * n_states + j];
      }
    });
}

template <class Token>
void project_transitions(const Trajectories<Token>& trajectories, std::int64_t n_states, std::int64_t lag,
                         const double* matrix, std::int64_t n_columns, double* product, std::int64_t* rows) {
  check_trajectories(trajectories, n_states, lag, "lagtime");
  check(n_columns >= 1, "the matrix must have at least one column");
  for (const Trajectory<Token>& x : trajectories)
    for_blocks(x, [&](std::int64_t block, std::int64_t begin, std::int64_t end) {
      double* table = product + block * n_states * n_columns;
      std::int64_t* row = rows + block * n_states;
      const std::int64_t stop = std::min(end, x.length - lag);
      for (std::int64_t t = begin; t < stop; ++t) {
        const std::int64_t i = as_index(x.state[t]), j = as_index(x.state[t + lag]);
        if (i < 0 || j < 0) continue;
        ++row[i];
        for (std::int64_t c = 0; c < n_columns; ++c) table[i * n_columns + c] += matrix[j * n_columns + c];
      }
    });
}

template <class Token>
void count_passages(const Trajectories<Token>& trajectories, std::int64_t n_states, std::int64_t stride,
                    std::int64_t* exposure, std::int64_t* passages) {
  check_trajectories(trajectories, n_states, stride, "stride");
  const std::int64_t n = n_states, cells = n * n;
  std::vector<bool> visited(static_cast<std::size_t>(n));
  std::vector<std::int64_t> begin(static_cast<std::size_t>(cells));  // begin[i n + j]: of the passage i -> j under way
  for (const Trajectory<Token>& x : trajectories)
    for (std::int64_t offset = 0; offset < std::min(stride, x.length); ++offset) {
      std::fill(begin.begin(), begin.end(), -1);
      std::fill(visited.begin(), visited.end(), false);
      std::int64_t present = -1, last = offset;
      for (std::int64_t t = offset; t < x.length; t += stride) {
        const std::int64_t s = as_index(x.state[t]);
        last = t;
        if (s < 0 || s == present) continue;
        present = s;
        const std::int64_t block = block_of(x, t);
        for (std::int64_t other = 0; other < n; ++other) {
          if (other == s) continue;
          if (std::int64_t& start = begin[other * n + s]; start >= 0) {
            add_span(x, start, t, cells, other * n + s, exposure);
            ++passages[block * cells + other * n + s];
            start = -1;
          }
          if (std::int64_t& start = begin[s * n + other]; start < 0) start = visited[s] || visited[other] ? t : offset;
        }
        visited[s] = true;
      }
      for (std::int64_t cell = 0; cell < cells; ++cell)
        if (begin[cell] >= 0) add_span(x, begin[cell], last, cells, cell, exposure);
    }
}

template <class Token>
void count_stays(const Trajectories<Token>& trajectories, std::int64_t n_states, std::int64_t stride,
                 std::int64_t n_bins, std::int64_t* exposure, std::int64_t* exits, std::int64_t* completed,
                 std::int64_t* cut) {
  check_trajectories(trajectories, n_states, stride, "stride");
  check(n_bins >= 2, "n_bins must be at least 2, got ", n_bins);
  for (const Trajectory<Token>& x : trajectories)
    for (std::int64_t offset = 0; offset < std::min(stride, x.length); ++offset) {
      std::int64_t present = -1, begin = -1, last = offset;
      bool entered = false;  // was the beginning of this stay seen?
      for (std::int64_t t = offset; t < x.length; t += stride) {
        const std::int64_t s = as_index(x.state[t]);
        last = t;
        if (s < 0 || s == present) continue;
        if (present >= 0) {
          add_span(x, begin, t, n_states, present, exposure);
          ++exits[block_of(x, t) * n_states + present];
          if (entered) ++completed[present * n_bins + std::min((t - begin) / stride, n_bins - 1)];
        }
        entered = present >= 0;
        present = s;
        begin = t;
      }
      if (present < 0) continue;
      add_span(x, begin, last, n_states, present, exposure);
      if (entered) ++cut[present * n_bins + std::min((last - begin) / stride, n_bins - 1)];
    }
}

#define NANOMD_INSTANTIATE(Token)                                                                                     \
  template void count_visits(const Trajectories<Token>&, std::int64_t, std::int64_t*);                                \
  template void count_transitions(const Trajectories<Token>&, std::int64_t, std::int64_t, std::int64_t,               \
                                  std::int64_t*);                                                                     \
  template void project_transitions(const Trajectories<Token>&, std::int64_t, std::int64_t, const double*,            \
                                    std::int64_t, double*, std::int64_t*);                                            \
  template void count_passages(const Trajectories<Token>&, std::int64_t, std::int64_t, std::int64_t*, std::int64_t*); \
  template void count_stays(const Trajectories<Token>&, std::int64_t, std::int64_t, std::int64_t, std::int64_t*,      \
                            std::int64_t*, std::int64_t*, std::int64_t*);
NANOMD_INSTANTIATE(std::uint8_t)
NANOMD_INSTANTIATE(std::uint16_t)
NANOMD_INSTANTIATE(std::int32_t)
NANOMD_INSTANTIATE(std::int64_t)
#undef NANOMD_INSTANTIATE

}  // namespace nanomd
