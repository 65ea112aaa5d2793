// One step of one trajectory: sixteen outputs, features or slots in the SIMD lanes. The same numbers, bit for bit, as
// decode_many.h, since every sum runs in the order fixed in kernels.h.
#pragma once

#include <cmath>
#include <cstring>
#include <limits>

#include "kernels.h"
#include "nanomd/sampling.h"
#include "simd_math.h"

namespace nanomd {

template <class Vec>
struct Single {
  // Several blocks of sixteen outputs at once, so that enough independent sums are in flight.
  template <int N, class Store>
  static void linear_blocks(const PackedLinear& w, const float* x, int block, Store store) {
    const std::size_t stride = static_cast<std::size_t>(w.n_in) * kLanes;
    const float* weight = w.weight + block * stride;
    Vec acc[N];
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) acc[n] = Vec::load(w.bias + (block + n) * kLanes);
    for (int i = 0; i < w.n_in; ++i) {
      const Vec xi = Vec::set(x[i]);
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) acc[n] = fma(Vec::load(weight + n * stride + i * kLanes), xi, acc[n]);
    }
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) store((block + n) * kLanes, acc[n]);
  }

  template <class Store>
  static void linear(const PackedLinear& w, const float* x, Store store) {
    constexpr int N = Vec::kTile > 8 ? 8 : Vec::kTile;
    int block = 0;
    for (; block + N <= w.n_blocks; block += N) linear_blocks<N>(w, x, block, store);
    for (; block < w.n_blocks; ++block) linear_blocks<1>(w, x, block, store);
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

  // Pairs (i, i + half) lie at distances that are no multiple of 16 floats: gathered into vectors of pairs of one head.
  static void rotate(float* x, int n_heads, int d_head, const float* cos, const float* sin) {
    const int half = d_head / 2;
    alignas(64) float a[kLanes], b[kLanes], c[kLanes] = {}, s[kLanes] = {};
    for (int head = 0; head < n_heads; ++head)
      for (int i = 0; i < half; i += kLanes) {
        const int n = half - i < kLanes ? half - i : kLanes;
        float* first = x + head * d_head + i;
        float* second = first + half;
        std::memset(a, 0, sizeof a);
        std::memset(b, 0, sizeof b);
        std::memcpy(a, first, sizeof(float) * n);
        std::memcpy(b, second, sizeof(float) * n);
        std::memcpy(c, cos + i, sizeof(float) * n);
        std::memcpy(s, sin + i, sizeof(float) * n);
        const Vec x1 = Vec::load(a), x2 = Vec::load(b), vc = Vec::load(c), vs = Vec::load(s);
        fma(x2, Vec::set(0.0f) - vs, x1 * vc).store(a);
        fma(x1, vs, x2 * vc).store(b);
        std::memcpy(first, a, sizeof(float) * n);
        std::memcpy(second, b, sizeof(float) * n);
      }
  }

  template <int N>
  static void score_blocks(const float* q, const float* keys, int slot, int capacity, int d_head, float* scores) {
    Vec acc[N];
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) acc[n] = Vec::set(0.0f);
    for (int f = 0; f < d_head; ++f) {
      const Vec qf = Vec::set(q[f]);
      const float* key = keys + static_cast<std::size_t>(f) * capacity + slot;
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) acc[n] = fma(qf, Vec::load(key + n * kLanes), acc[n]);
    }
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) acc[n].store(scores + slot + n * kLanes);
  }

  static float softmax_scores(const float* q, const float* keys, const SlotRange& slots, int capacity, int d_head,
                              float* scores) {
    constexpr int N = Vec::kTile > 8 ? 8 : Vec::kTile;
    const int end = round_up(slots.end);
    int slot = 0;
    for (; slot + N * kLanes <= end; slot += N * kLanes) score_blocks<N>(q, keys, slot, capacity, d_head, scores);
    for (; slot < end; slot += kLanes) score_blocks<1>(q, keys, slot, capacity, d_head, scores);
    for (int s = slots.hole_begin; s < slots.hole_end; ++s) scores[s] = -std::numeric_limits<float>::infinity();
    for (int s = slots.end; s < end; ++s) scores[s] = -std::numeric_limits<float>::infinity();
    Vec tops = Vec::load(scores);
    for (int s = kLanes; s < end; s += kLanes) tops = max(tops, Vec::load(scores + s));
    alignas(64) float each[kLanes];
    tops.store(each);
    float top = each[0];
    for (const float value : each) top = value > top ? value : top;
    Vec p = Vec::set(0.0f);
    for (int s = 0; s < end; s += kLanes) {
      const Vec e = exp_vec(Vec::load(scores + s) - Vec::set(top));
      e.store(scores + s);
      p = p + e;
    }
    return 1.0f / fold_elements(p);
  }

  template <int N>
  static void value_blocks(const float* weights, const float* values, int n_slots, int d_pad, Vec inverse, float* out) {
    Vec acc[N];
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) acc[n] = Vec::set(0.0f);
    for (int slot = 0; slot < n_slots; ++slot) {
      const Vec e = Vec::set(weights[slot]);
      const float* value = values + static_cast<std::size_t>(slot) * d_pad;
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) acc[n] = fma(e, Vec::load(value + n * kLanes), acc[n]);
    }
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) (acc[n] * inverse).store(out + n * kLanes);
  }

  static void decode(const DecodeStep& step) {
    const Model& model = *step.model;
    const ModelShape& shape = model.shape;
    const int d = shape.d_model, d_pad = round_up(d), d_head = shape.d_head(), head_pad = round_up(d_head);
    const int group = shape.n_head / shape.n_kv_head, capacity = round_up(shape.context_length);
    const KeyValueLayout layout = single_layout(shape);
    float* x = step.scratch->x.data();
    float* h = step.scratch->h.data();
    float* qkv = step.scratch->qkv.data();
    float* attention = step.scratch->attention.data();
    float* mlp = step.scratch->mlp.data();
    float* scores = step.scratch->scores.data();
    alignas(64) float head_out[1024];
    const Vec zero = Vec::set(0.0f);
    const auto add_to_x = [x](int o, Vec y) { (Vec::load(x + o) + y).store(x + o); };

    std::memset(x, 0, sizeof(float) * d_pad);
    std::memcpy(x, model.embedding + static_cast<std::size_t>(step.token[0]) * d, sizeof(float) * d);
    if (model.position != nullptr) {
      const float* row = model.position + static_cast<std::size_t>(step.position) * d;
      for (int f = 0; f < d; ++f) x[f] = x[f] + row[f];
    }

    for (int l = 0; l < shape.n_layer; ++l) {
      const LayerWeights& layer = model.layers[l];
      float* keys = step.keys + l * layout.keys_per_head * shape.n_kv_head;
      float* values = step.values + l * layout.values_per_head * shape.n_kv_head;
      const float* input = x;
      if (shape.pre_norm) {
        layer_norm(layer.norm1, x, h, d);
        input = h;
      }
      linear(layer.qkv, input, [qkv](int o, Vec y) { y.store(qkv + o); });
      if (step.cos != nullptr) rotate(qkv, shape.n_head + shape.n_kv_head, d_head, step.cos, step.sin);
      for (int head = 0; head < shape.n_kv_head; ++head) {
        const float* k = qkv + d + head * d_head;
        float* column = keys + head * layout.keys_per_head + step.slot;
        for (int f = 0; f < d_head; ++f) column[static_cast<std::size_t>(f) * capacity] = k[f];
        std::memcpy(values + head * layout.values_per_head + static_cast<std::size_t>(step.slot) * head_pad,
                    qkv + d + shape.d_kv() + head * d_head, sizeof(float) * d_head);
      }
      if (l + 1 == shape.n_layer && !step.want_logits) return;  // nobody reads further

      const float scale = 1.0f / std::sqrt(static_cast<float>(d_head));
      for (int f = 0; f < d; ++f) qkv[f] = qkv[f] * scale;
      for (int head = 0; head < shape.n_head; ++head) {
        const float* head_keys = keys + (head / group) * layout.keys_per_head;
        const float* head_values = values + (head / group) * layout.values_per_head;
        const Vec inverse =
            Vec::set(softmax_scores(qkv + head * d_head, head_keys, step.slots, capacity, d_head, scores));
        for (int f = 0; f < head_pad;) {
          const int left = (head_pad - f) / kLanes;
          float* out = head_out + f;
          if (left >= 4 && Vec::kTile >= 4) {
            value_blocks<4>(scores, head_values + f, step.slots.end, head_pad, inverse, out);
            f += 4 * kLanes;
          } else if (left >= 2) {
            value_blocks<2>(scores, head_values + f, step.slots.end, head_pad, inverse, out);
            f += 2 * kLanes;
          } else {
            value_blocks<1>(scores, head_values + f, step.slots.end, head_pad, inverse, out);
            f += kLanes;
          }
        }
        std::memcpy(attention + head * d_head, head_out, sizeof(float) * d_head);
      }
      linear(layer.proj, attention, add_to_x);
      if (shape.pre_norm)
        layer_norm(layer.norm2, x, h, d);
      else
        layer_norm(layer.norm1, x, x, d);
      const float* mlp_input = shape.pre_norm ? h : x;
      if (shape.gelu)
        linear(layer.up, mlp_input, [mlp](int o, Vec y) { gelu_vec(y).store(mlp + o); });
      else
        linear(layer.up, mlp_input, [mlp, zero](int o, Vec y) { max(y, zero).store(mlp + o); });
      linear(layer.down, mlp, add_to_x);
      if (!shape.pre_norm) layer_norm(layer.norm2, x, x, d);
    }

    const float* last = x;
    if (shape.pre_norm) {
      layer_norm(model.norm, x, h, d);
      last = h;
    }
    float* logits = step.scratch->logits.data();
    linear(model.head, last, [logits](int o, Vec y) { y.store(logits + o); });
    if (model.markov != nullptr) {
      const float* row = model.markov + static_cast<std::size_t>(step.token[0]) * shape.n_states;
      for (int k = 0; k < shape.n_states; ++k) logits[k] += row[k];
    }
  }

  static void sample(float* logits, int n_states, float inverse_temperature, const double* u, std::int32_t* state) {
    float top = logits[0];
    for (int k = 1; k < n_states; ++k) top = logits[k] > top ? logits[k] : top;
    for (int k = 0; k < n_states; k += kLanes)
      exp_vec((Vec::load(logits + k) - Vec::set(top)) * Vec::set(inverse_temperature)).store(logits + k);
    state[0] = sample_state(logits, n_states, u[0]);
  }
};

}  // namespace nanomd
