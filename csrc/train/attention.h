// Causal attention within a window of W keys, forward and backward, in blocks of sixteen queries.
//
// The scores of a block are kept keys by queries: the queries lie in the lanes of a vector, so that maximum and sum of
// the softmax are plain operations between rows, and only the rows at both ends of the band need a mask. A block of
// queries i0 ... i0 + 15 sees the keys from `low`, the first multiple of sixteen that it may need, to i0 + 15.
// Probabilities are kept for the backward pass: to read them again takes less time than to make them.
#pragma once

#include "train/gemm.h"
#include "train/rows.h"
#include "train/task.h"

namespace nanomd::train {

template <class Vec>
class Attention {
 public:
  Attention(const Dims& dims, const LayerMemory& memory, ThreadMemory& scratch)
      : D(dims), memory_(memory), scratch_(scratch), group_(dims.model.n_head / dims.model.n_kv_head) {}

  // memory.qkv -> memory.o, for the queries of a range that begins at a multiple of sixteen.
  void forward(Range queries) const {
    const int depth = D.model.d_head();
    for (int head = 0; head < D.model.n_head; ++head)
      for (int first = queries.begin; first < queries.end; first += 16) {
        const int low = lowest(first), keys = first + 16 - low;
        const float* q = memory_.qkv + at(first, D.qkv_row) + head * D.head;
        float* p = probabilities(head, first);
        turn(q, D.qkv_row, depth, scratch_.turned);
        Product<Vec>::set(keys, 1, depth, {key(head, low), D.qkv_row, 1}, {scratch_.turned, 0, 16}, {p, 16});
        softmax(p, low, first, keys);
        Product<Vec>::set(16, D.head / 16, keys, {p, 1, 16}, {value(head, low), 16, D.qkv_row},
                          {memory_.o + at(first, D.o_row) + head * D.head, D.o_row});
      }
  }

  // scratch.d_o -> scratch.d_qkv [0, queries.end), of the rotated queries and keys.
  void backward(Range queries) const {
    const int depth = D.model.d_head();
    float* d_qkv = scratch_.d_qkv;
    Rows<Vec>::zero(d_qkv, static_cast<std::size_t>(queries.end) * D.qkv_row);
    for (int head = 0; head < D.model.n_head; ++head)
      for (int first = queries.begin; first < queries.end; first += 16) {
        const int low = lowest(first), keys = first + 16 - low, blocks = D.head / 16;
        const float* q = memory_.qkv + at(first, D.qkv_row) + head * D.head;
        const float* d_o = scratch_.d_o + at(first, D.o_row) + head * D.head;
        const float* p = probabilities(head, first);
        const std::ptrdiff_t keys_at = at(low, D.qkv_row);
        float* d_key = d_qkv + keys_at + D.q_width + head / group_ * D.head;
        float* d_value = d_key + D.kv_width;
        float* ds = scratch_.scores;
        Product<Vec>::add(keys, blocks, 16, {p, 16, 1}, {d_o, 16, D.o_row}, {d_value, D.qkv_row});
        turn(d_o, D.o_row, depth, scratch_.turned);
        Product<Vec>::set(keys, 1, depth, {value(head, low), D.qkv_row, 1}, {scratch_.turned, 0, 16}, {ds, 16});
        softmax_backward(p, ds, keys);
        Product<Vec>::set(16, blocks, keys, {ds, 1, 16}, {key(head, low), 16, D.qkv_row},
                          {d_qkv + at(first, D.qkv_row) + head * D.head, D.qkv_row});
        Product<Vec>::add(keys, blocks, 16, {ds, 16, 1}, {q, 16, D.qkv_row}, {d_key, D.qkv_row});
      }
  }

 private:
  static std::ptrdiff_t at(int index, int row) { return static_cast<std::ptrdiff_t>(index) * row; }

  int lowest(int first) const {
    const int low = first - D.model.context_length + 1;
    return low < 0 ? 0 : low / 16 * 16;
  }
  const float* key(int head, int position) const {
    return memory_.qkv + at(position, D.qkv_row) + D.q_width + head / group_ * D.head;
  }
  const float* value(int head, int position) const { return key(head, position) + D.kv_width; }
  float* probabilities(int head, int first) const {
    const std::ptrdiff_t block = static_cast<std::ptrdiff_t>(head) * (D.length / 16) + first / 16;
    return memory_.probabilities + block * D.span * 16;
  }

  // Sixteen rows of `depth` features -> [feature][16].
  static void turn(const float* x, int row, int depth, float* y) {
    for (int f = 0; f < depth; f += 4)  // depth is a multiple of eight
      for (int lane = 0; lane < 16; lane += 4) {
        const float* from = x + lane * row + f;
        float* to = y + f * 16 + lane;
        __m128 a = _mm_load_ps(from), b = _mm_load_ps(from + row);
        __m128 c = _mm_load_ps(from + 2 * row), d = _mm_load_ps(from + 3 * row);
        _MM_TRANSPOSE4_PS(a, b, c, d);
        _mm_store_ps(to, a);
        _mm_store_ps(to + 16, b);
        _mm_store_ps(to + 32, c);
        _mm_store_ps(to + 48, d);
      }
  }

  // What is added to the scores of key `j` by the queries from `first` on: 0 where 0 <= query - j < W, else -1e30.
  Vec mask(int j, int first) const {
    // Lanes from j - first on see the key, up to W further.
    static constexpr float kNo = -1e30f;
    alignas(64) static constexpr float kFrom[32] = {kNo, kNo, kNo, kNo, kNo, kNo, kNo, kNo,
                                                    kNo, kNo, kNo, kNo, kNo, kNo, kNo, kNo};
    alignas(64) static constexpr float kTo[32] = {0,   0,   0,   0,   0,   0,   0,   0,   0,   0,   0,
                                                  0,   0,   0,   0,   0,   kNo, kNo, kNo, kNo, kNo, kNo,
                                                  kNo, kNo, kNo, kNo, kNo, kNo, kNo, kNo, kNo, kNo};
    const int from = clamp(j - first), to = clamp(j - first + D.model.context_length);
    return Vec::load_any(kFrom + 16 - from) + Vec::load_any(kTo + 16 - to);
  }
  static int clamp(int lane) { return lane < 0 ? 0 : lane > 16 ? 16 : lane; }

  void softmax(float* p, int low, int first, int keys) const {
    Vec top = Vec::set(-1e30f);
    for (int r = 0; r < keys; ++r) {
      const int j = low + r;
      Vec s = Vec::load(p + r * 16);
      if (j > first || j - first + D.model.context_length < 16) {
        s = s + mask(j, first);
        s.store(p + r * 16);
      }
      top = max(top, s);
    }
    Vec sum = Vec::set(0.0f);
    for (int r = 0; r < keys; ++r) {
      const Vec e = exp_vec(Vec::load(p + r * 16) - top);
      e.store(p + r * 16);
      sum = sum + e;
    }
    const Vec inverse = Vec::set(1.0f) / sum;
    for (int r = 0; r < keys; ++r) (Vec::load(p + r * 16) * inverse).store(p + r * 16);
  }

  // ds: gradient of the probabilities -> that of the scores, p (dp - <p dp>).
  static void softmax_backward(const float* p, float* ds, int keys) {
    Vec mean = Vec::set(0.0f);
    for (int r = 0; r < keys; ++r) mean = fma(Vec::load(p + r * 16), Vec::load(ds + r * 16), mean);
    for (int r = 0; r < keys; ++r) (Vec::load(p + r * 16) * (Vec::load(ds + r * 16) - mean)).store(ds + r * 16);
  }

  const Dims& D;
  const LayerMemory& memory_;
  ThreadMemory& scratch_;
  const int group_;
};

}  // namespace nanomd::train
