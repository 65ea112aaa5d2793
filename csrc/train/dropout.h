// Which units dropout keeps: random bits, drawn in the forward pass and read in both.
//
// A unit's bit is a pure function of key, window, site, row and feature: sixteen bits of Philox4x32-10 (philox.h), of
// which a block of four words has eight, for eight features. Blocks are drawn a vector at a time; the words are those
// of the scalar function, so that the bits depend neither on the instruction set nor on the thread.
#pragma once

#include <cstdint>
#include <cstring>

#include "train/task.h"

namespace nanomd::train {

// Rate -> coins below this one drop a unit; what is kept is divided by the probability that this gives.
inline std::uint32_t coin_limit(float rate) {
  const double limit = static_cast<double>(rate) * 65536.0 + 0.5;
  return limit < 65535.0 ? static_cast<std::uint32_t>(limit) : 65535u;
}

// Vec: sixteen floats of one instruction set (simd/).
template <class Vec>
struct Dropping {
  using Words = typename Vec::Words;

  // keep [rows][width / 8]: bit i of a byte is that of feature i of its eight.
  static void draw(const DropoutDraw& of, std::uint32_t limit, std::uint8_t* keep) {
    constexpr int kCount = Words::kCount;
    const int blocks = of.width / 8, n = of.rows * blocks;
    alignas(64) std::uint64_t row[kCount], block[kCount];
    for (int i = 0; i < kCount; ++i) {
      row[i] = static_cast<std::uint64_t>(of.first_row + i / blocks);
      block[i] = static_cast<std::uint64_t>(i % blocks);
    }
    const std::uint64_t rows_on = kCount / blocks, blocks_on = kCount % blocks,
                        end = static_cast<std::uint64_t>(blocks);
    for (int done = 0; done < n; done += kCount) {
      std::uint8_t bytes[kCount];
      random_bits(of, Words::load(row), Words::load(block), static_cast<std::uint16_t>(limit), bytes);
      std::memcpy(keep + done, bytes, static_cast<std::size_t>(n - done < kCount ? n - done : kCount));
      for (int i = 0; i < kCount; ++i) {
        block[i] += blocks_on;
        const std::uint64_t over = block[i] >= end;
        row[i] += rows_on + over;
        block[i] -= over * end;
      }
    }
  }

  // x = 0 or x / (1 - rate), rows of `width` features that are `row` apart.
  static void apply(const std::uint8_t* keep, std::uint32_t limit, int rows, int width, float* x, int row) {
    const Vec scale = Vec::set(65536.0f / static_cast<float>(65536 - limit));
    for (int r = 0; r < rows; ++r, x += row)
      for (int f = 0; f < width; f += 16, keep += 2) {
        std::uint16_t bits;
        std::memcpy(&bits, keep, sizeof bits);
        keep_lanes(Vec::load(x + f) * scale, bits).store(x + f);
      }
  }

 private:
  // Ten rounds of Philox on counters (row, site, block, window).
  static void random_bits(const DropoutDraw& of, Words c0, Words c2, std::uint16_t limit, std::uint8_t* bytes) {
    const Words multiplier0 = Words::set(0xD2511F53u), multiplier1 = Words::set(0xCD9E8D57u);
    Words c1 = Words::set(static_cast<std::uint32_t>(of.site)), c3 = Words::set(of.window);
    std::uint32_t k0 = static_cast<std::uint32_t>(of.key), k1 = static_cast<std::uint32_t>(of.key >> 32);
#pragma GCC unroll 10
    for (int round = 0; round < 10; ++round) {
      const Words p0 = multiplier0 * c0, p1 = multiplier1 * c2;
      c0 = p1.high() ^ c1 ^ Words::set(k0);
      c1 = p1;
      c2 = p0.high() ^ c3 ^ Words::set(k1);
      c3 = p0;
      k0 += 0x9E3779B9u;
      k1 += 0xBB67AE85u;
    }
    halves_from(c0, c1, c2, c3, limit, bytes);
  }
};

// Dropout of one rate within a window.
template <class Vec>
class WindowDropout {
 public:
  WindowDropout(const WindowTask& task, float rate) : task_(task), limit_(coin_limit(rate)) {}
  bool on() const { return limit_ > 0; }

  // Forward: chooses the units of rows x [rows][x_row] at a site, and drops the others.
  void drop(int site, int first_row, int rows, float* x) const {
    Dropping<Vec>::draw({task_.dropout_key, task_.window, site, first_row, rows, task_.dims->d}, limit_,
                        keep(site, first_row));
    drop_again(site, first_row, rows, x);
  }
  // Backward: the same units of the gradient.
  void drop_again(int site, int first_row, int rows, float* x) const {
    Dropping<Vec>::apply(keep(site, first_row), limit_, rows, task_.dims->d, x, task_.dims->x_row);
  }

 private:
  std::uint8_t* keep(int site, int row) const {
    const Dims& D = *task_.dims;
    const std::size_t place = static_cast<std::size_t>(D.dropout_place(site)) * D.length + row;
    return task_.memory->keep + place * (D.d / 8);
  }

  const WindowTask& task_;
  const std::uint32_t limit_;
};

}  // namespace nanomd::train
