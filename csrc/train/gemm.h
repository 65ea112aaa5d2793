// The one matrix product of the training step: C (+)= A B, in tiles that live in registers.
//
// The left operand is read a number at a time, so that it may lie in any order: rows, columns, or one transposed inside
// a wider matrix. The right one is read sixteen columns at a time. Forward, gradient of the input and gradient of the
// weights are then the same product with other strides:
//
//   Y = X W^T    left X,              right W^T in blocks of sixteen outputs
//   dX = dY W    left dY,             right W in blocks of sixteen inputs
//   dW += dY^T X left dY transposed,  right X as it lies
//
// Every element of C is made of chains of up to 256 fused multiply-adds over the depth, each added when it ends:
// neither the tile nor the number of rows changes a bit, and long sums lose no more digits than short ones.
#pragma once

#include <cstddef>

namespace nanomd::train {

struct Left {  // element (m, k)
  const float* data;
  std::ptrdiff_t row, depth;
};
struct Right {  // columns 16 j ... 16 j + 15 of row k
  const float* data;
  std::ptrdiff_t block, depth;
};
struct Target {
  float* data;
  std::ptrdiff_t row;
};

// Vec: sixteen floats of one instruction set (simd/).
template <class Vec>
struct Product {
  static constexpr bool kWide = Vec::kBlockTile >= 4;  // thirty-two registers
  // Rows of a tile that is N blocks wide. With one or two blocks eight rows hide the latency of the sums.
  template <int N>
  static constexpr int kRows = kWide ? (N == 4 ? 6 : 8) : Vec::kColumnTile;

  // C = bias + A B (bias null: zero); C of `rows` rows and `blocks` blocks of sixteen columns.
  static void set(int rows, int blocks, int depth, Left a, Right b, Target c, const float* bias = nullptr) {
    const int chain = depth < kChain ? depth : kChain;
    run<false>(rows, blocks, chain, a, b, c, bias);
    if (depth > chain) {
      a.data += chain * a.depth;
      b.data += chain * b.depth;
      add(rows, blocks, depth - chain, a, b, c);
    }
  }
  // C += A B
  static void add(int rows, int blocks, int depth, Left a, Right b, Target c) {
    for (int first = 0; first < depth; first += kChain) {
      run<true>(rows, blocks, depth - first < kChain ? depth - first : kChain, a, b, c, nullptr);
      a.data += kChain * a.depth;
      b.data += kChain * b.depth;
    }
  }

 private:
  static constexpr int kChain = 256;

  template <bool kAdd>
  static void run(int rows, int blocks, int depth, Left a, Right b, Target c, const float* bias) {
    int j = 0;
    if constexpr (kWide) {
      for (; j + 4 <= blocks; j += 4) panel<kAdd, 4>(rows, j, depth, a, b, c, bias);
      for (; j + 2 <= blocks; j += 2) panel<kAdd, 2>(rows, j, depth, a, b, c, bias);
    }
    for (; j < blocks; ++j) panel<kAdd, 1>(rows, j, depth, a, b, c, bias);
  }

  // N blocks of all rows, in tiles of nearly equal height.
  template <bool kAdd, int N>
  static void panel(int rows, int j, int depth, Left a, Right b, Target c, const float* bias) {
    constexpr int kMost = kRows<N>;
    b.data += j * b.block;
    c.data += j * 16;
    if (bias != nullptr) bias += j * 16;
    const int tiles = (rows + kMost - 1) / kMost, height = rows / tiles, taller = rows - tiles * height;
    for (int t = 0; t < tiles; ++t) {
      const int own = height + (t < taller ? 1 : 0);
      choose<kAdd, kMost, N>(own, depth, a, b, c, bias);
      a.data += own * a.row;
      c.data += own * c.row;
    }
  }

  // Inlined, as tiles are: a call that passes three structs takes a tenth of the time of a tile sixteen deep.
  template <bool kAdd, int M, int N>
  [[gnu::always_inline]] static void choose(int height, int depth, Left a, Right b, Target c, const float* bias) {
    if constexpr (M > 1) {
      if (height < M) return choose<kAdd, M - 1, N>(height, depth, a, b, c, bias);
    }
    tile<kAdd, M, N>(depth, a, b, c, bias);
  }

  template <bool kAdd, int M, int N>
  [[gnu::always_inline]] static void tile(int depth, Left a, Right b, Target c, const float* bias) {
    Vec sum[M][N];
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) sum[m][n] = bias != nullptr ? Vec::load(bias + n * 16) : Vec::set(0.0f);
    const float* left = a.data;
    const float* right = b.data;
    for (int k = 0; k < depth; ++k) {
      Vec wide[N];
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) wide[n] = Vec::load(right + n * b.block);
#pragma GCC unroll 8
      for (int m = 0; m < M; ++m) {
        const Vec x = Vec::set(left[m * a.row]);
#pragma GCC unroll 8
        for (int n = 0; n < N; ++n) sum[m][n] = fma(wide[n], x, sum[m][n]);
      }
      left += a.depth;
      right += b.depth;
    }
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) {
        float* to = c.data + m * c.row + n * 16;
        (kAdd ? Vec::load(to) + sum[m][n] : sum[m][n]).store(to);
      }
  }
};

}  // namespace nanomd::train
