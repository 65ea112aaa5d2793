// One new query per head against the cached keys and values of its trajectory. A warp owns one key/value head of one
// trajectory and up to kGroup of its query heads: each key and value is read once for all of them, 16 bytes a lane.
// Softmax over slots in chunks, with a running maximum. The chunking depends on the model alone, so a result does not
// depend on which warp, block or rank computed it.
#pragma once

#include <cmath>

#include "layout.h"
#include "nanomd/cuda_half.h"
#include "words.h"

namespace nanomd::cuda {

// Eight consecutive cache elements as floats. kPrecise: of a cache in fp32, else in 16 bits.
template <bool kPrecise>
struct CacheRow;

template <>
struct CacheRow<false> {
  Words4 raw;
  template <class Exec>
  NANOMD_TILE void load(Exec& exec, const unsigned char* base, unsigned element) {
    raw = exec.load_cache(base + element * 2);
  }
  NANOMD_TILE void clear() { raw = {0, 0, 0, 0}; }
  NANOMD_TILE void unpack(float (&out)[8]) const {
    const std::uint32_t word[4] = {raw.x, raw.y, raw.z, raw.w};
    NANOMD_UNROLL
    for (int i = 0; i < 4; ++i) {
      out[2 * i] = half_value(static_cast<std::uint16_t>(word[i] & 0xFFFFu));
      out[2 * i + 1] = half_value(static_cast<std::uint16_t>(word[i] >> 16));
    }
  }
};

template <>
struct CacheRow<true> {
  Floats4 low, high;
  template <class Exec>
  NANOMD_TILE void load(Exec& exec, const unsigned char* base, unsigned element) {
    low = exec.load_cache_floats(base + element * 4);
    high = exec.load_cache_floats(base + element * 4 + 16);
  }
  NANOMD_TILE void clear() { low = high = {0, 0, 0, 0}; }
  NANOMD_TILE void unpack(float (&out)[8]) const {
    out[0] = low.x, out[1] = low.y, out[2] = low.z, out[3] = low.w;
    out[4] = high.x, out[5] = high.y, out[6] = high.z, out[7] = high.w;
  }
};

struct SlotWindow {
  int end, hole_begin, hole_end;
  // Lookahead: this many slots from draft_begin on, modulo the window, are elsewhere, from `spare` on.
  int n_drafts = 0, draft_begin = 0, spare = 0, window = 0;

  // Where slot s lies.
  NANOMD_TILE int place(int s) const {
    int ahead = s - draft_begin;
    if (ahead < 0) ahead += window;
    return ahead < n_drafts ? spare + ahead : s;
  }
};

// q: [kGroup heads][d_head] in shared memory, scaled by log2(e)/sqrt(d_head); keys, values: [slots][d_head].
// emit(head, feature, eight values) is called by the lanes that hold the result.
// kGroup: query heads that share each key and value that is read. kPrecise: the cache is fp32. Exec: what a thread is.
template <int kGroup, bool kPrecise, class Exec, class Emit>
NANOMD_TILE void attend(Exec& exec, const float* q, int n_heads, int d_head, const unsigned char* keys,
                        const unsigned char* values, const SlotWindow& slots, Emit emit) {
  // Loads in flight against registers: four rows of keys and of values for one head and two for four heads,
  // half of that in single precision.
  constexpr int kRows = kGroup == 1 ? (kPrecise ? 2 : 4) : (kPrecise ? 1 : 2);
  int lanes_per_slot = 1;
  while (lanes_per_slot * 8 < d_head) lanes_per_slot *= 2;
  const int lane = exec.lane(), part = lane % lanes_per_slot, row = lane / lanes_per_slot;
  const int slots_per_load = 32 / lanes_per_slot;
  const bool holds = part * 8 < d_head;  // lanes beyond a head whose width is no power of two idle

  // One head's query stays in registers; of four, each is read from shared memory when its turn comes.
  constexpr bool kKeep = kGroup == 1;
  float query[8], sum[kGroup], top[kGroup], out[kGroup][8];
  NANOMD_UNROLL
  for (int h = 0; h < kGroup; ++h) {
    sum[h] = 0.0f;
    top[h] = -INFINITY;
    NANOMD_UNROLL
    for (int i = 0; i < 8; ++i) out[h][i] = 0.0f;
  }
  const auto load_query = [&](int h, float (&to)[8]) {
    if (holds && h < n_heads) {
      const Floats4 a = load_wide<Floats4>(q + h * d_head + part * 8),
                    b = load_wide<Floats4>(q + h * d_head + part * 8 + 4);
      to[0] = a.x, to[1] = a.y, to[2] = a.z, to[3] = a.w, to[4] = b.x, to[5] = b.y, to[6] = b.z, to[7] = b.w;
    } else {
      NANOMD_UNROLL
      for (int i = 0; i < 8; ++i) to[i] = 0.0f;
    }
  };
  if constexpr (kKeep) load_query(0, query);

  NANOMD_NO_UNROLL
  for (int base = 0; base < slots.end; base += kRows * slots_per_load) {
    // 1. Load keys and values of a chunk of slots.
    CacheRow<kPrecise> key[kRows], value[kRows];
    bool valid[kRows];
    NANOMD_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const int slot = base + r * slots_per_load + row;
      valid[r] = slot < slots.end && !(slot >= slots.hole_begin && slot < slots.hole_end);
      if (valid[r] && holds) {
        const int place = Exec::kCluster ? slots.place(slot) : slot;
        const unsigned element = static_cast<unsigned>(place * d_head + part * 8);
        key[r].load(exec, keys, element);
        value[r].load(exec, values, element);
      } else {
        key[r].clear();
        value[r].clear();
      }
    }
    // 2. Scores: each lane its eight features, then summed over the lanes of a slot.
    float score[kGroup][kRows];
    NANOMD_UNROLL
    for (int h = 0; h < kGroup; ++h) {
      if constexpr (!kKeep) load_query(h, query);
      NANOMD_UNROLL
      for (int r = 0; r < kRows; ++r) {
        float k[8];
        key[r].unpack(k);
        float dot = query[0] * k[0];
        NANOMD_UNROLL
        for (int i = 1; i < 8; ++i) dot = exec.fma(query[i], k[i], dot);
        score[h][r] = dot;
      }
    }
    NANOMD_NO_UNROLL
    for (int mask = 1; mask < lanes_per_slot; mask *= 2) NANOMD_UNROLL
    for (int r = 0; r < kRows; ++r) NANOMD_UNROLL
    for (int h = 0; h < kGroup; ++h) score[h][r] += exec.shuffle_xor(score[h][r], mask);

    // 3. Running maximum: what was summed so far is scaled to the new one.
    NANOMD_UNROLL
    for (int h = 0; h < kGroup; ++h) {
      float best = -INFINITY;
      NANOMD_UNROLL
      for (int r = 0; r < kRows; ++r) {
        if (!valid[r]) score[h][r] = -INFINITY;
        best = exec.max(best, score[h][r]);
      }
      NANOMD_NO_UNROLL
      for (int mask = lanes_per_slot; mask < 32; mask *= 2) best = exec.max(best, exec.shuffle_xor(best, mask));
      const float new_top = exec.max(top[h], best);
      // A chunk may lie in the hole as a whole: with no slot seen yet there is nothing to scale.
      const float shift = new_top == -INFINITY ? 0.0f : new_top;
      const float scale = exec.exp2(top[h] - shift);
      top[h] = new_top;
      sum[h] *= scale;
      NANOMD_UNROLL
      for (int i = 0; i < 8; ++i) out[h][i] *= scale;
      NANOMD_UNROLL
      for (int r = 0; r < kRows; ++r) {
        score[h][r] = exec.exp2(score[h][r] - shift);
        sum[h] += score[h][r];
      }
    }
    // 4. Weighted values.
    NANOMD_UNROLL
    for (int r = 0; r < kRows; ++r) {
      float v[8];
      value[r].unpack(v);
      NANOMD_UNROLL
      for (int h = 0; h < kGroup; ++h) NANOMD_UNROLL
      for (int i = 0; i < 8; ++i) out[h][i] = exec.fma(score[h][r], v[i], out[h][i]);
    }
  }

  // 5. Sums over the lanes that had other slots.
  NANOMD_NO_UNROLL
  for (int mask = lanes_per_slot; mask < 32; mask *= 2) NANOMD_UNROLL
  for (int h = 0; h < kGroup; ++h) {
    sum[h] += exec.shuffle_xor(sum[h], mask);
    NANOMD_UNROLL
    for (int i = 0; i < 8; ++i) out[h][i] += exec.shuffle_xor(out[h][i], mask);
  }
  // 6. The mean, by the first lanes.
  NANOMD_UNROLL
  for (int h = 0; h < kGroup; ++h) {
    if (row == 0 && holds && h < n_heads) {
      const float inverse = 1.0f / sum[h];
      NANOMD_UNROLL
      for (int i = 0; i < 8; ++i) out[h][i] *= inverse;
      emit(h, part * 8, out[h]);
    }
  }
}

}  // namespace nanomd::cuda
