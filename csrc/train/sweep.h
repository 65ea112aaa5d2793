// Loss and gradient of an output layer over features that are given: the convex problem that ends a training.
//
// Tiles of 64 contexts by all states stay in the second-level cache; what comes out are expected minus observed
// transitions and features, from residuals that keep their digits (output.h). Sums of a tile are float32, of tiles
// double.
#pragma once

#include <cstddef>
#include <cstdint>

#include "train/gemm.h"
#include "train/output.h"

namespace nanomd::train {

template <class Vec>
class Sweep {
 public:
  static void run(SweepTask& task) {
    constexpr std::ptrdiff_t kFlush = 1 << 14;
    std::ptrdiff_t flushed = 0;
    task.loss = 0.0;
    Rows<Vec>::zero(task.recent, size_of(task));
    for (std::ptrdiff_t first = 0; first < task.n; first += kSweepRows) {
      const int rows = static_cast<int>(task.n - first < kSweepRows ? task.n - first : kSweepRows);
      tile(task, first, rows);
      if (task.moments != nullptr && (first + rows == task.n || first + rows - flushed >= kFlush)) {
        flushed = first + rows;
        for (int k = 0; k < task.states; ++k)
          for (int f = 0; f < task.width; ++f)
            task.moments[static_cast<std::ptrdiff_t>(k) * task.width + f] +=
                static_cast<double>(task.recent[static_cast<std::ptrdiff_t>(k) * task.padded_width + f]);
        Rows<Vec>::zero(task.recent, size_of(task));
      }
    }
  }

 private:
  static std::size_t size_of(const SweepTask& task) {
    return static_cast<std::size_t>(task.padded_states) * task.padded_width;
  }

  static void tile(SweepTask& task, std::ptrdiff_t first, int rows) {
    for (int r = 0; r < rows; ++r) {
      const float* from = task.features + (first + r) * task.width;
      for (int f = 0; f < task.width; ++f) task.x[r * task.x_row + f] = from[f];
    }
    Product<Vec>::set(rows, task.padded_states / 16, task.padded_width, {task.x, task.x_row, 1},
                      {task.head, task.padded_width * 16, 16}, {task.logits, task.logit_row});
    for (int r = 0; r < rows; ++r) {
      float* z = task.logits + static_cast<std::ptrdiff_t>(r) * task.logit_row;
      const std::int64_t state = task.current[first + r], target = task.following[first + r];
      const float* table = task.table + state * task.states;
      for (int k = 0; k < task.states; ++k) z[k] += table[k];
      for (int k = task.states; k < task.padded_states; ++k) z[k] = -1e30f;
      task.loss += residual<Vec>(z, task.padded_states, target, task.weights[state * task.states + target]);
      const bool begins = r == 0 || task.current[first + r - 1] != state;
      for (int k = 0; k < task.padded_states; k += 16)
        (begins ? Vec::load(z + k) : Vec::load(task.row_sum + k) + Vec::load(z + k)).store(task.row_sum + k);
      if (r + 1 == rows || task.current[first + r + 1] != state) {
        double* sum = task.transitions + (state - task.first_state) * task.states;
        for (int k = 0; k < task.states; ++k) sum[k] += static_cast<double>(task.row_sum[k]);
      }
    }
    if (task.moments != nullptr)
      Product<Vec>::add(task.padded_states, task.padded_width / 16, rows, {task.logits, 1, task.logit_row},
                        {task.x, 16, task.x_row}, {task.recent, task.padded_width});
  }
};

}  // namespace nanomd::train
