// One step of sixteen trajectories, one in each SIMD lane: activation[feature][lane]. Nothing here sums across lanes.
// The order of every sum is fixed in kernels.h, that of the steps in forward.h.
#pragma once

#include <cmath>
#include <cstring>
#include <limits>

#include "forward.h"
#include "kernels.h"
#include "nanomd/sampling.h"
#include "simd/math.h"

namespace nanomd {

// Vec: sixteen floats of one instruction set (simd/). Cache: float or Half, what keys and values are stored as.
template <class Vec, class Cache>
class LanePass {
 public:
  static void decode(const LaneStep& step) {
    LanePass pass(step);
    forward(pass, pass.model);
  }

  // Logits [k][16] -> unnormalised probabilities, in place, and the drawn states, -1 where they are not finite.
  static void sample(float* logits, int n_states, float inverse_temperature, const double* u, std::int32_t* state,
                     double* rest) {
    const Vec inverse = Vec::set(inverse_temperature);
    Vec top = Vec::load(logits);
    const std::size_t n = static_cast<std::size_t>(n_states) * kLanes;
    for (std::size_t k = 0; k < n; k += kLanes) top = max(top, Vec::load(logits + k));
    // Sums of eight lanes each; as arrays they would go through memory at every state.
    Doubles total[2] = {}, cumulative[2] = {};
    for (std::size_t k = 0; k < n; k += kLanes) {
      exp_vec((Vec::load(logits + k) - top) * inverse).store(logits + k);
      for (int i = 0; i < 2; ++i) add_eight(logits + k + 8 * i, total[i]);
    }
    // The smallest k whose cumulative weight exceeds the target is the number of k whose does not: it never falls.
    Wholes below[2] = {};
    Doubles target[2], before[2] = {};  // the last sum that did not exceed it
    for (int lane = 0; lane < kLanes; ++lane) target[lane / 8][lane % 8] = u[lane] * total[lane / 8][lane % 8];
    for (std::size_t k = 0; k < n; k += kLanes)
      for (int i = 0; i < 2; ++i) {
        add_eight(logits + k + 8 * i, cumulative[i]);
        const Wholes not_yet = cumulative[i] <= target[i];  // true is -1
        below[i] -= not_yet;
        before[i] = not_yet ? cumulative[i] : before[i];
      }
    for (int lane = 0; lane < kLanes; ++lane) {
      std::int32_t k = static_cast<std::int32_t>(below[lane / 8][lane % 8]);
      const bool beyond = k == n_states;
      if (beyond) do
          --k;
        while (k > 0 && !(logits[static_cast<std::size_t>(k) * kLanes + lane] > 0.0f));
      const double sum = total[lane / 8][lane % 8];
      state[lane] = sum > 0.0 && sum < 1e300 ? k : -1;
      if (rest == nullptr) continue;
      const double weight = static_cast<double>(logits[static_cast<std::size_t>(k) * kLanes + lane]);
      rest[lane] = beyond ? kBelowOne : rest_within(target[lane / 8][lane % 8], before[lane / 8][lane % 8], weight);
    }
  }

  // --- The lines of forward.h.
  const Model& model;
  const LaneStep& step;
  const Rows x, h, qkv, attention, mlp;

  void embed() {
    const ModelShape& shape = model.shape;
    const int d = shape.d_model;
    float* to = x.data;
    for (int lane = 0; lane < kLanes; ++lane) {
      const float* row = model.embedding + static_cast<std::size_t>(step.token[lane]) * d;
      for (int f = 0; f < d; ++f) to[f * kLanes + lane] = row[f];
    }
    if (model.position == nullptr) return;
    const float* row = model.position + static_cast<std::size_t>(step.position) * d;
    for (int f = 0; f < d; ++f) (Vec::load(to + f * kLanes) + Vec::set(row[f])).store(to + f * kLanes);
  }

  // Of all heads, from qkv to attention; false where nobody reads further.
  bool attend(int l) {
    const ModelShape& shape = model.shape;
    const int d_head = shape.d_head(), group = shape.n_head / shape.n_kv_head,
              capacity = round_up(shape.context_length);
    const KeyValueLayout layout = lane_layout(shape);
    Cache* keys = static_cast<Cache*>(step.keys) + l * layout.keys_per_head * shape.n_kv_head;
    Cache* values = static_cast<Cache*>(step.values) + l * layout.values_per_head * shape.n_kv_head;
    float* scores = step.scratch->scores.data();
    if (step.cos != nullptr) rotate(qkv.data, shape.n_head + shape.n_kv_head, d_head, step.cos, step.sin);
    store_keys_values(shape, qkv.data, step.slot, keys, values, layout);
    if (l + 1 == shape.n_layer && !step.want_logits) return false;

    const Vec scale = Vec::set(1.0f / std::sqrt(static_cast<float>(d_head)));
    float* q = qkv.data;
    for (int f = 0; f < shape.d_model; ++f) (Vec::load(q + f * kLanes) * scale).store(q + f * kLanes);
    for (int head = 0; head < shape.n_head; ++head) {
      const Cache* head_keys = keys + (head / group) * layout.keys_per_head;
      const Cache* head_values = values + (head / group) * layout.values_per_head;
      const Vec inverse = softmax_scores(q + head * d_head * kLanes, head_keys, step.slots, d_head, scores);
      weighted_values(scores, head_values, step.slots.end, capacity, d_head, inverse,
                      attention.data + head * d_head * kLanes);
    }
    return true;
  }

  void norm(const LayerNormWeights& w, Rows from, Rows to) { layer_norm(w, from.data, to.data, model.shape.d_model); }

  template <class Store>
  void linear(const PackedLinear& w, Rows in, Store store) {
    product(w, in.data, store);
  }

  // What becomes of output o of a product.
  static auto put(Rows to) {
    return [at = to.data](int o, Vec y) { y.store(at + static_cast<std::size_t>(o) * kLanes); };
  }
  static auto put_gelu(Rows to) {
    return [at = to.data](int o, Vec y) { gelu_vec(y).store(at + o * kLanes); };
  }
  static auto put_relu(Rows to) {
    return [at = to.data, zero = Vec::set(0.0f)](int o, Vec y) { max(y, zero).store(at + o * kLanes); };
  }
  static auto add(Rows to) {
    return [at = to.data](int o, Vec y) { (Vec::load(at + o * kLanes) + y).store(at + o * kLanes); };
  }
  auto put_logits() const { return put({step.scratch->logits.data(), kLanes}); }

  void add_markov() {
    const int n = model.shape.n_choices();
    float* logits = step.scratch->logits.data();
    for (int lane = 0; lane < kLanes; ++lane) {
      const float* row = model.markov + static_cast<std::size_t>(step.token[lane]) * n;
      for (int k = 0; k < n; ++k) logits[static_cast<std::size_t>(k) * kLanes + lane] += row[k];
    }
  }

  void remember(Rows read) const { step.scratch->read = read.data; }

 private:
  typedef float Floats __attribute__((vector_size(32), may_alias));
  typedef double Doubles __attribute__((vector_size(64)));
  typedef std::int64_t Wholes __attribute__((vector_size(64)));

  static void add_eight(const float* p, Doubles& sum) {
    sum += __builtin_convertvector(*reinterpret_cast<const Floats*>(p), Doubles);
  }

  explicit LanePass(const LaneStep& of)
      : model(*of.model),
        step(of),
        x{of.scratch->x.data(), kLanes},
        h{of.scratch->h.data(), kLanes},
        qkv{of.scratch->qkv.data(), kLanes},
        attention{of.scratch->attention.data(), kLanes},
        mlp{of.scratch->mlp.data(), kLanes} {}

  // y[o] = bias[o] + sum_i W[o][i] x[i], a tile of outputs at a time; what happens with y is the caller's.
  template <class Store>
  static void product(const PackedLinear& w, const float* x, Store store) {
    constexpr int T = Vec::kTile;
    for (int block = 0; block < w.n_blocks; ++block) {
      for (int first = 0; first < kLanes; first += T) {
        const float* weight = w.weight + static_cast<std::size_t>(block) * w.n_in * kLanes + first;
        const float* bias = w.bias + block * kLanes + first;
        Vec acc[T];
#pragma GCC unroll 16
        for (int o = 0; o < T; ++o) acc[o] = Vec::set(bias[o]);
        for (int i = 0; i < w.n_in; ++i) {
          const Vec xi = Vec::load(x + i * kLanes);
#pragma GCC unroll 16
          for (int o = 0; o < T; ++o) acc[o] = fma(Vec::set(weight[i * kLanes + o]), xi, acc[o]);
        }
#pragma GCC unroll 16
        for (int o = 0; o < T; ++o) store(block * kLanes + first + o, acc[o]);
      }
    }
  }

  static void layer_norm(const LayerNormWeights& w, const float* x, float* y, int d) {
    Vec p[16];
    for (Vec& v : p) v = Vec::set(0.0f);
    for (int f = 0; f < d; ++f) p[f % 16] = p[f % 16] + Vec::load(x + f * kLanes);
    const float inverse = 1.0f / static_cast<float>(d);
    const Vec mean = fold(p) * Vec::set(inverse);
    for (Vec& v : p) v = Vec::set(0.0f);
    for (int f = 0; f < d; ++f) {
      const Vec t = Vec::load(x + f * kLanes) - mean;
      p[f % 16] = fma(t, t, p[f % 16]);
    }
    const Vec variance = fold(p) * Vec::set(inverse);
    const Vec scale = Vec::set(1.0f) / sqrt(variance + Vec::set(1e-5f));
    for (int f = 0; f < d; ++f) {
      const Vec t = (Vec::load(x + f * kLanes) - mean) * scale;
      fma(t, Vec::set(w.weight[f]), Vec::set(w.bias[f])).store(y + f * kLanes);
    }
  }

  static void rotate(float* x, int n_heads, int d_head, const float* cos, const float* sin) {
    const int half = d_head / 2;
    for (int head = 0; head < n_heads; ++head)
      for (int i = 0; i < half; ++i) {
        float* first = x + (head * d_head + i) * kLanes;
        float* second = first + half * kLanes;
        const Vec x1 = Vec::load(first), x2 = Vec::load(second), c = Vec::set(cos[i]), s = Vec::set(sin[i]);
        fma(x2, Vec::set(0.0f) - s, x1 * c).store(first);
        fma(x1, s, x2 * c).store(second);
      }
  }

  // Scores of one head's query against all slots, then e^(score - max); returns 1 / sum.
  static Vec softmax_scores(const float* q, const Cache* keys, const SlotRange& slots, int d_head, float* scores) {
    constexpr int T = Vec::kTile > 8 ? 8 : Vec::kTile;
    const std::size_t row = static_cast<std::size_t>(d_head) * kLanes;
    Vec top = Vec::set(-std::numeric_limits<float>::infinity());
    for (int slot = 0; slot < slots.end; slot += T) {
      Vec acc[T];
#pragma GCC unroll 8
      for (int s = 0; s < T; ++s) acc[s] = Vec::set(0.0f);
      const Cache* key = keys + slot * row;
      for (int f = 0; f < d_head; ++f) {
        const Vec qf = Vec::load(q + f * kLanes);
#pragma GCC unroll 8
        for (int s = 0; s < T; ++s) acc[s] = fma(qf, Vec::load(key + s * row + f * kLanes), acc[s]);
      }
#pragma GCC unroll 8
      for (int s = 0; s < T; ++s) acc[s].store(scores + (slot + s) * kLanes);
    }
    const Vec nothing = Vec::set(-std::numeric_limits<float>::infinity());
    for (int slot = slots.hole_begin; slot < slots.hole_end; ++slot) nothing.store(scores + slot * kLanes);
    for (int slot = 0; slot < slots.end; ++slot) top = max(top, Vec::load(scores + slot * kLanes));
    Vec p[16];
    for (Vec& v : p) v = Vec::set(0.0f);
    for (int slot = 0; slot < slots.end; ++slot) {
      const Vec e = exp_vec(Vec::load(scores + slot * kLanes) - top);
      e.store(scores + slot * kLanes);
      p[slot % 16] = p[slot % 16] + e;
    }
    return Vec::set(1.0f) / fold(p);
  }

  static void weighted_values(const float* weights, const Cache* values, int n_slots, int slot_capacity, int d_head,
                              Vec inverse_sum, float* out) {
    constexpr int T = Vec::kTile > 8 ? 8 : Vec::kTile;
    for (int eight = 0; eight < d_head / 8; ++eight) {
      const Cache* block = values + static_cast<std::size_t>(eight) * slot_capacity * 8 * kLanes;
      for (int first = 0; first < 8; first += T) {
        Vec acc[T];
#pragma GCC unroll 8
        for (int f = 0; f < T; ++f) acc[f] = Vec::set(0.0f);
        for (int slot = 0; slot < n_slots; ++slot) {
          const Vec e = Vec::load(weights + slot * kLanes);
          const Cache* value = block + (static_cast<std::size_t>(slot) * 8 + first) * kLanes;
#pragma GCC unroll 8
          for (int f = 0; f < T; ++f) acc[f] = fma(e, Vec::load(value + f * kLanes), acc[f]);
        }
#pragma GCC unroll 8
        for (int f = 0; f < T; ++f) (acc[f] * inverse_sum).store(out + (eight * 8 + first + f) * kLanes);
      }
    }
  }

  static void store_keys_values(const ModelShape& shape, const float* qkv, int slot, Cache* keys, Cache* values,
                                const KeyValueLayout& layout) {
    const int d_head = shape.d_head(), capacity = round_up(shape.context_length);
    const float* k = qkv + shape.d_model * kLanes;
    const float* v = k + shape.d_kv() * kLanes;
    for (int head = 0; head < shape.n_kv_head; ++head) {
      Cache* key = keys + head * layout.keys_per_head + static_cast<std::size_t>(slot) * d_head * kLanes;
      for (int f = 0; f < d_head; ++f) Vec::load(k + (head * d_head + f) * kLanes).store(key + f * kLanes);
      for (int f = 0; f < d_head; ++f)
        Vec::load(v + (head * d_head + f) * kLanes)
            .store(values + head * layout.values_per_head +
                   ((static_cast<std::size_t>(f / 8) * capacity + slot) * 8 + f % 8) * kLanes);
    }
  }
};

}  // namespace nanomd
