// One to kMaxColumns columns: a column is one position of one trajectory. They may be different trajectories, or
// successive positions of one (drafts to be verified, or tokens that fill a window). Outputs, features or slots lie in
// the SIMD lanes; weights are read once for a tile of columns. The same numbers, bit for bit, as decode_lanes.h, since
// every sum runs in the order fixed in kernels.h, and the steps in that of forward.h.
//
// Successive positions of one trajectory come in order. Within a layer each column stores its keys and values and then
// attends, before the next column stores: so a column sees exactly the slots that it would have seen alone, those that
// a later column overwrites included.
#pragma once

#include <cmath>
#include <cstring>

#include "attention_columns.h"
#include "forward.h"
#include "kernels.h"
#include "nanomd/sampling.h"
#include "simd/math.h"

namespace nanomd {

// Vec: sixteen floats of one instruction set (simd/). Weight, Cache: float or Half, what weights, and keys and values,
// are stored as.
template <class Vec, class Weight, class Cache>
class ColumnPass {
 public:
  static void decode(const ColumnStep& step) {
    ColumnPass pass(step);
    forward(pass, pass.model);
  }

  // Logits of one column -> unnormalised probabilities, in place, and the drawn state, -1 if they are not finite.
  static void sample(float* logits, int n_states, float inverse_temperature, double u, std::int32_t* state,
                     double* rest) {
    const int whole = n_states / kLanes * kLanes;
    float top = logits[0];
    if (whole > 0) {
      Vec tops = Vec::load(logits);
      for (int k = kLanes; k < whole; k += kLanes) tops = max(Vec::load(logits + k), tops);
      top = max_elements(tops);
    }
    for (int k = whole; k < n_states; ++k) top = logits[k] > top ? logits[k] : top;
    for (int k = 0; k < n_states; k += kLanes)
      exp_vec((Vec::load(logits + k) - Vec::set(top)) * Vec::set(inverse_temperature)).store(logits + k);
    const Drawn drawn = sample_within(logits, n_states, u);
    *state = drawn.state;
    if (rest != nullptr) *rest = drawn.rest;
  }

  static void to_rows(const PackedLinear& w, const float* x, int x_stride, int n_columns, float* y, int y_stride) {
    product(w, x, x_stride, n_columns,
            [y, y_stride](int c, int o, Vec v) { v.store(y + static_cast<std::size_t>(c) * y_stride + o); });
  }

  // --- The lines of forward.h, for the columns from first_ on.
  const Model& model;
  const ColumnStep& step;
  const Rows x, h, qkv, attention, mlp;

  void embed() {
    const int d = model.shape.d_model;
    for (int c = 0; c < step.n_columns; ++c) {
      const Column& column = step.column[c];
      float* to = x.data + c * x.stride;
      std::memset(to, 0, sizeof(float) * x.stride);
      std::memcpy(to, model.embedding + static_cast<std::size_t>(column.token) * d, sizeof(float) * d);
      if (model.position == nullptr) continue;
      const float* row = model.position + static_cast<std::size_t>(column.position) * d;
      for (int f = 0; f < d; ++f) to[f] = to[f] + row[f];
    }
  }

  // Each column in turn, from qkv to attention; false where nobody reads further. In the last layer only the columns
  // that want logits attend, and go on.
  bool attend(int l) {
    const ModelShape& shape = model.shape;
    const KeyValueLayout layout = column_layout(shape);
    const float scale = 1.0f / std::sqrt(static_cast<float>(shape.d_head()));
    Cache* narrow = reinterpret_cast<Cache*>(step.scratch->narrow.data());
    const int first = l + 1 == shape.n_layer ? step.first_logits : 0;
    for (int c = 0; c < step.n_columns; ++c) {
      const Column& column = step.column[c];
      Cache* keys = static_cast<Cache*>(column.keys) + l * layout.keys_per_head * shape.n_kv_head;
      Cache* values = static_cast<Cache*>(column.values) + l * layout.values_per_head * shape.n_kv_head;
      float* own = qkv.data + c * qkv.stride;
      if (column.cos != nullptr)
        Attention::rotate(own, shape.n_head + shape.n_kv_head, shape.d_head(), column.cos, column.sin);
      Attention::store(shape, own, column.slot, keys, values, layout, narrow);
      if (c < first) continue;
      for (int f = 0; f < shape.d_model; ++f) own[f] = own[f] * scale;
      Attention::attend(shape, own, keys, values, column.slots, layout, step.scratch->scores.data(),
                        attention.data + c * attention.stride);
    }
    first_ = first;
    return first < step.n_columns;
  }

  void norm(const LayerNormWeights& w, Rows from, Rows to) {
    for (int c = first_; c < step.n_columns; ++c)
      layer_norm(w, from.data + c * from.stride, to.data + c * to.stride, model.shape.d_model);
  }

  template <class Store>
  void linear(const PackedLinear& w, Rows in, Store store) {
    product(w, in.data + first_ * in.stride, in.stride, step.n_columns - first_, store);
  }

  // What becomes of sixteen outputs, from o on, of column first_ + c of a product.
  auto put(Rows to) const {
    return [at = own(to), to](int c, int o, Vec y) { y.store(at + c * to.stride + o); };
  }
  auto put_gelu(Rows to) const {
    return [at = own(to), to](int c, int o, Vec y) { gelu_vec(y).store(at + c * to.stride + o); };
  }
  auto put_relu(Rows to) const {
    return
        [at = own(to), to, zero = Vec::set(0.0f)](int c, int o, Vec y) { max(y, zero).store(at + c * to.stride + o); };
  }
  auto add(Rows to) const {
    return [at = own(to), to](int c, int o, Vec y) {
      float* sum = at + c * to.stride + o;
      (Vec::load(sum) + y).store(sum);
    };
  }
  auto put_logits() const {
    return [to = logits()](int c, int o, Vec y) { y.store(to.data + static_cast<std::size_t>(c) * to.stride + o); };
  }

  void add_markov() {
    const int n = model.shape.n_choices();
    for (int c = first_; c < step.n_columns; ++c) {
      const float* row = model.markov + static_cast<std::size_t>(step.column[c].token) * n;
      float* to = logits().data + static_cast<std::size_t>(c - first_) * logits().stride;
      for (int k = 0; k < n; ++k) to[k] += row[k];
    }
  }

  void remember(Rows read) const { step.scratch->read = own(read); }

 private:
  using Attention = ColumnAttention<Vec, Cache>;

  explicit ColumnPass(const ColumnStep& of)
      : model(*of.model),
        step(of),
        x{of.scratch->x.data(), round_up(model.shape.d_model)},
        h{of.scratch->h.data(), x.stride},
        qkv{of.scratch->qkv.data(), round_up(model.shape.d_qkv())},
        attention{of.scratch->attention.data(), x.stride},
        mlp{of.scratch->mlp.data(), round_up(model.shape.d_mlp)} {}

  float* own(Rows rows) const { return rows.data + first_ * rows.stride; }
  // Those of column first_ come first.
  Rows logits() const { return {step.scratch->logits.data(), round_up(model.shape.n_choices())}; }

  static const Weight* weights(const PackedLinear& w) {
    if constexpr (sizeof(Weight) == sizeof(Half))
      return w.half;
    else
      return w.weight;
  }

  // C columns by N blocks of sixteen outputs, all in registers; x[column][stride]. store(column, output, y) takes the
  // results.
  template <int C, int N, class Store>
  static void tile(const PackedLinear& w, const float* x, int stride, int block, int column, Store store) {
    const std::size_t length = static_cast<std::size_t>(w.n_in) * kLanes;
    const Weight* weight = weights(w) + block * length;
    const float* input = x + static_cast<std::size_t>(column) * stride;
    Vec acc[C][N];
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c)
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) acc[c][n] = Vec::load(w.bias + (block + n) * kLanes);
    for (int i = 0; i < w.n_in; ++i) {
      Vec row[N];
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) row[n] = Vec::weights(weight + n * length + i * kLanes);
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c) {
        const Vec xi = Vec::set(input[c * stride + i]);
#pragma GCC unroll 8
        for (int n = 0; n < N; ++n) acc[c][n] = fma(row[n], xi, acc[c][n]);
      }
    }
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c)
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) store(column + c, (block + n) * kLanes, acc[c][n]);
  }

  // N blocks of all columns, which are cut into tiles of nearly equal width: every tile costs at least the latency of
  // its sums, so narrow ones waste time.
  template <int N, class Store>
  static void blocks(const PackedLinear& w, const float* x, int stride, int block, int n_columns, Store store) {
    constexpr int T = Vec::kColumnTile;
    const int n_tiles = (n_columns + T - 1) / T;
    for (int t = 0, column = 0; t < n_tiles; ++t) {
      const int width = (n_columns - column) / (n_tiles - t);
      switch (width) {
        case 1:
          tile<1, N>(w, x, stride, block, column, store);
          break;
        case 2:
          tile<(T < 2 ? T : 2), N>(w, x, stride, block, column, store);
          break;
        case 3:
          tile<(T < 3 ? T : 3), N>(w, x, stride, block, column, store);
          break;
        case 4:
          tile<(T < 4 ? T : 4), N>(w, x, stride, block, column, store);
          break;
        case 5:
          tile<(T < 5 ? T : 5), N>(w, x, stride, block, column, store);
          break;
        default:
          tile<(T < 6 ? T : 6), N>(w, x, stride, block, column, store);
          break;
      }
      column += width;
    }
  }

  // y[c][o] = bias[o] + sum_i W[o][i] x[c][i]; what happens with y is the caller's.
  template <class Store>
  static void product(const PackedLinear& w, const float* x, int stride, int n_columns, Store store) {
    // With few columns, more blocks at once, so that enough independent sums are in flight.
    constexpr int kAlone = Attention::kBlocks, kPair = kAlone / 2 > 0 ? kAlone / 2 : 1, kWide = Vec::kBlockTile;
    int block = 0;
    if (n_columns == 1)
      for (; block + kAlone <= w.n_blocks; block += kAlone) tile<1, kAlone>(w, x, stride, block, 0, store);
    else if (n_columns == 2)
      for (; block + kPair <= w.n_blocks; block += kPair) tile<2, kPair>(w, x, stride, block, 0, store);
    else
      for (; block + kWide <= w.n_blocks; block += kWide) blocks<kWide>(w, x, stride, block, n_columns, store);
    for (; block < w.n_blocks; ++block) blocks<1>(w, x, stride, block, n_columns, store);
  }

  // 1 for features below d, else 0: the last vector of a width that is no multiple of 16.
  static Vec mask(int d, int first) {
    alignas(64) float m[kLanes];
    for (int i = 0; i < kLanes; ++i) m[i] = first + i < d ? 1.0f : 0.0f;
    return Vec::load(m);
  }

  // x is zero beyond d on entry; y is zero beyond d, since weight and bias are padded with zeros.
  static void layer_norm(const LayerNormWeights& w, const float* x, float* y, int d) {
    const int whole = d / kLanes * kLanes;
    const float inverse = 1.0f / static_cast<float>(d);
    Vec p = Vec::set(0.0f);
    for (int f = 0; f < whole; f += kLanes) p = p + Vec::load(x + f);
    if (whole < d) p = p + Vec::load(x + whole) * mask(d, whole);
    const Vec mean = Vec::set(fold_elements(p) * inverse);
    p = Vec::set(0.0f);
    for (int f = 0; f < whole; f += kLanes) {
      const Vec t = Vec::load(x + f) - mean;
      p = fma(t, t, p);
    }
    if (whole < d) {
      const Vec t = (Vec::load(x + whole) - mean) * mask(d, whole);
      p = fma(t, t, p);
    }
    const Vec variance = Vec::set(fold_elements(p) * inverse);
    const Vec scale = Vec::set(1.0f) / sqrt(variance + Vec::set(1e-5f));
    for (int f = 0; f < d; f += kLanes) {
      const Vec t = (Vec::load(x + f) - mean) * scale;
      fma(t, Vec::load(w.weight + f), Vec::load(w.bias + f)).store(y + f);
    }
  }

  int first_ = 0;  // columns before it are done
};

}  // namespace nanomd
