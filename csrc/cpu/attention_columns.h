// Attention of one column: slots of the cache, or features of the values, in the SIMD lanes.
#pragma once

#include <cstring>
#include <limits>

#include "kernels.h"
#include "simd/math.h"

namespace nanomd {

// Vec: sixteen floats of one instruction set (simd/). Cache: float or Half, what keys and values are stored as.
template <class Vec, class Cache>
struct ColumnAttention {
  static constexpr int kBlocks = Vec::kTile > 8 ? 8 : Vec::kTile;  // vectors of sixteen in flight

  // Pairs (i, i + half) of each head; where half is no multiple of 16 they are gathered.
  static void rotate(float* x, int n_heads, int d_head, const float* cos, const float* sin) {
    const int half = d_head / 2;
    if (half % kLanes == 0) {
      for (int head = 0; head < n_heads; ++head)
        for (int i = 0; i < half; i += kLanes)
          rotate_pairs(x + head * d_head + i, x + head * d_head + half + i, cos + i, sin + i);
      return;
    }
    alignas(64) float a[kLanes] = {}, b[kLanes] = {}, c[kLanes] = {}, s[kLanes] = {};
    for (int head = 0; head < n_heads; ++head)
      for (int i = 0; i < half; i += kLanes) {
        const std::size_t bytes = sizeof(float) * (half - i < kLanes ? half - i : kLanes);
        float* first = x + head * d_head + i;
        std::memcpy(a, first, bytes);
        std::memcpy(b, first + half, bytes);
        std::memcpy(c, cos + i, bytes);
        std::memcpy(s, sin + i, bytes);
        rotate_pairs(a, b, c, s);
        std::memcpy(first, a, bytes);
        std::memcpy(first + half, b, bytes);
      }
  }

  // Keys lie in columns of [d_head][slot], values in rows of [slot][d_head padded].
  static void store(const ModelShape& shape, const float* qkv, int slot, Cache* keys, Cache* values,
                    const KeyValueLayout& layout, Cache* narrow) {
    const int d_head = shape.d_head(), head_pad = round_up(d_head), capacity = round_up(shape.context_length);
    const float* k = qkv + shape.d_model;
    const int n = 2 * shape.d_kv();
    for (int f = 0; f < n; f += 8) narrow_eight(k + f, narrow + f);
    for (int head = 0; head < shape.n_kv_head; ++head) {
      Cache* column = keys + head * layout.keys_per_head + slot;
      for (int f = 0; f < d_head; ++f) column[static_cast<std::size_t>(f) * capacity] = narrow[head * d_head + f];
      std::memcpy(values + head * layout.values_per_head + static_cast<std::size_t>(slot) * head_pad,
                  narrow + shape.d_kv() + head * d_head, sizeof(Cache) * d_head);
    }
  }

  // out[n_head][d_head] from the scaled query; `scores` holds [n_head][slots padded] and then the padded outputs.
  static void attend(const ModelShape& shape, const float* q, const Cache* keys, const Cache* values,
                     const SlotRange& slots, const KeyValueLayout& layout, float* scores, float* out) {
    const int d_head = shape.d_head(), head_pad = round_up(d_head), capacity = round_up(shape.context_length);
    const int group = shape.n_head / shape.n_kv_head;
    float* inverse = scores + static_cast<std::size_t>(shape.n_head) * capacity;
    float* padded = inverse + round_up(shape.n_head);
    for (int head = 0; head < shape.n_head; ++head)
      inverse[head] = softmax(q + head * d_head, keys + (head / group) * layout.keys_per_head, slots, capacity, d_head,
                              scores + static_cast<std::size_t>(head) * capacity);
    const auto run = [&]<int H, int B>(int head, int block) {
      const float* weights[H];
      const Cache* value[H];
      for (int h = 0; h < H; ++h) {
        weights[h] = scores + static_cast<std::size_t>(head + h) * capacity;
        value[h] = values + ((head + h) / group) * layout.values_per_head + block * kLanes;
      }
      weighted_values<H, B>(weights, value, slots.end, head_pad, inverse + head,
                            padded + static_cast<std::size_t>(head) * head_pad + block * kLanes);
    };
    // Narrow heads several at a time: a sum over slots has one order, so only different sums can run side by side.
    const int blocks = head_pad / kLanes;
    int head = 0;
    if (blocks == 1)
      for (; head + kBlocks <= shape.n_head; head += kBlocks) run.template operator()<kBlocks, 1>(head, 0);
    if (blocks == 2 && kBlocks >= 2)
      for (; head + kBlocks / 2 <= shape.n_head; head += kBlocks / 2)
        run.template operator()<(kBlocks >= 2 ? kBlocks / 2 : 1), 2>(head, 0);
    for (; head < shape.n_head; ++head) {
      int block = 0;
      for (; block + kBlocks <= blocks; block += kBlocks) run.template operator()<1, kBlocks>(head, block);
      for (; block < blocks; ++block) run.template operator()<1, 1>(head, block);
    }
    for (head = 0; head < shape.n_head; ++head)
      std::memcpy(out + head * d_head, padded + static_cast<std::size_t>(head) * head_pad, sizeof(float) * d_head);
  }

 private:
  static void rotate_pairs(float* first, float* second, const float* cos, const float* sin) {
    const Vec x1 = Vec::load(first), x2 = Vec::load(second), c = Vec::load(cos), s = Vec::load(sin);
    fma(x2, Vec::set(0.0f) - s, x1 * c).store(first);
    fma(x1, s, x2 * c).store(second);
  }

  // d_kv is a multiple of 8 only.
  static void narrow_eight(const float* x, float* y) { std::memcpy(y, x, 8 * sizeof(float)); }
  static void narrow_eight(const float* x, Half* y) {
    alignas(64) float wide[kLanes] = {};
    alignas(64) Half half[kLanes];
    std::memcpy(wide, x, 8 * sizeof(float));
    Vec::load(wide).store(half);
    std::memcpy(y, half, 8 * sizeof(Half));
  }

  // N vectors of sixteen slots.
  template <int N>
  static void score_blocks(const float* q, const Cache* keys, int slot, int capacity, int d_head, float* scores) {
    Vec acc[N];
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) acc[n] = Vec::set(0.0f);
    for (int f = 0; f < d_head; ++f) {
      const Vec qf = Vec::set(q[f]);
      const Cache* key = keys + static_cast<std::size_t>(f) * capacity + slot;
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) acc[n] = fma(qf, Vec::load(key + n * kLanes), acc[n]);
    }
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) acc[n].store(scores + slot + n * kLanes);
  }

  // Scores of all slots, then e^(score - max); returns 1 / sum.
  static float softmax(const float* q, const Cache* keys, const SlotRange& slots, int capacity, int d_head,
                       float* scores) {
    const int end = round_up(slots.end);
    int slot = 0;
    for (; slot + kBlocks * kLanes <= end; slot += kBlocks * kLanes)
      score_blocks<kBlocks>(q, keys, slot, capacity, d_head, scores);
    for (; slot < end; slot += kLanes) score_blocks<1>(q, keys, slot, capacity, d_head, scores);
    for (int s = slots.hole_begin; s < slots.hole_end; ++s) scores[s] = -std::numeric_limits<float>::infinity();
    for (int s = slots.end; s < end; ++s) scores[s] = -std::numeric_limits<float>::infinity();
    Vec tops = Vec::load(scores);
    for (int s = kLanes; s < end; s += kLanes) tops = max(tops, Vec::load(scores + s));
    alignas(64) float each[kLanes];
    tops.store(each);
    for (int width = kLanes / 2; width >= 1; width /= 2)
      for (int i = 0; i < width; ++i) each[i] = each[i] > each[i + width] ? each[i] : each[i + width];
    const Vec top = Vec::set(each[0]);
    Vec p = Vec::set(0.0f);
    for (int s = 0; s < end; s += kLanes) {
      const Vec e = exp_vec(Vec::load(scores + s) - top);
      e.store(scores + s);
      p = p + e;
    }
    return 1.0f / fold_elements(p);
  }

  // B blocks of sixteen features of each of H heads.
  template <int H, int B>
  static void weighted_values(const float* const (&weights)[H], const Cache* const (&values)[H], int n_slots,
                              int head_pad, const float* inverse, float* out) {
    Vec acc[H][B];
#pragma GCC unroll 8
    for (int h = 0; h < H; ++h)
#pragma GCC unroll 8
      for (int b = 0; b < B; ++b) acc[h][b] = Vec::set(0.0f);
    for (int slot = 0; slot < n_slots; ++slot) {
      const std::size_t row = static_cast<std::size_t>(slot) * head_pad;
#pragma GCC unroll 8
      for (int h = 0; h < H; ++h) {
        const Vec e = Vec::set(weights[h][slot]);
#pragma GCC unroll 8
        for (int b = 0; b < B; ++b) acc[h][b] = fma(e, Vec::load(values[h] + row + b * kLanes), acc[h][b]);
      }
    }
#pragma GCC unroll 8
    for (int h = 0; h < H; ++h)
#pragma GCC unroll 8
      for (int b = 0; b < B; ++b) (acc[h][b] * Vec::set(inverse[h])).store(out + h * head_pad + b * kLanes);
  }
};

}  // namespace nanomd
