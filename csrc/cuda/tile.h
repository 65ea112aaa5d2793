// The rollout of one tile of trajectories: many tokens through the whole model, in one thread block or one cluster of
// them. It reads from top to bottom like the model. `Exec` says what a thread is: a CUDA thread (device_exec.cuh), or a
// fibre of the emulation on the host (csrc/tests/emulator.h), which runs this very code and checks its indices and
// barriers.
//
// Ranks of a cluster share the outputs of each product and the heads of attention between them and send results to all;
// LayerNorm and drawing are done by every rank for itself. Every sum is that of a block alone.
#pragma once

#include "arguments.h"
#include "attention.h"
#include "draw.h"
#include "matrix.h"
#include "norm.h"

namespace nanomd::cuda {

template <class Exec, int kTiles, int kGroup, bool kPrecise>
class RolloutTile {
 public:
  static constexpr int kTrajectories = kTiles * kTileColumns;
  static constexpr int kPerWarp = kTrajectories / kWarps;
  static constexpr int kCacheElement = kPrecise ? 4 : 2;

  NANOMD_TILE RolloutTile(Exec& exec, const Arguments& arguments, int tile)
      : exec_(exec),
        arg_(arguments),
        s_(arguments.layout.shape),
        w_(arguments.layout.weights),
        m_(arguments.layout.shared) {
    first_ = tile * kTrajectories;
    n_ = arguments.n_trajs - first_ < kTrajectories ? arguments.n_trajs - first_ : kTrajectories;
  }

  NANOMD_TILE void run() {
    const HalfRows<kPrecise> rows = act();
    // Products read whole steps of 16 inputs: those beyond d_model meet weights of zero and must be finite.
    for (int i = exec_.thread(); i < kTrajectories * m_.act_stride; i += kThreads) {
      rows.hi[i] = 0;
      if constexpr (kPrecise) rows.lo[i] = 0;
    }
    if (Exec::kCluster && w_.resident_fragments > 0) load_resident();
    exec_.sync_all();  // also: no rank may send into the memory of one that has not started
    NANOMD_NO_UNROLL
    for (int i = 0; i < arg_.n_steps; ++i)
      step(arg_.steps[i], arg_.angles + static_cast<std::size_t>(i) * arg_.layout.d_head);
    exec_.sync_all();  // nor of one that has ended
  }

 private:
  NANOMD_TILE void step(const StepEntry& entry, const float* angles) {
    embed(entry);
    exec_.sync();
    NANOMD_NO_UNROLL
    for (int l = 0; l < s_.n_layer; ++l) {
      const unsigned char* layer = arg_.weights + w_.layer_bytes * static_cast<std::size_t>(l);
      project_qkv(entry, angles, layer, l);
      exec_.sync_all();
      // Keys and values are all that later tokens need of one whose logits nobody wants.
      if (entry.want == Want::kNothing && l + 1 == s_.n_layer) return;
      attention(entry, l);
      exec_.sync_all();
      add_product(w_.proj, layer, l, act());
      exec_.sync_all();
      normalize_tile(reinterpret_cast<const float*>(layer + (s_.pre_norm ? w_.norm2 : w_.norm1)));
      exec_.sync();
      hidden(layer, l);
      exec_.sync_all();
      add_product(w_.down, layer, l, hid());
      exec_.sync_all();
      normalize_tile(norm_after(layer, l));
      exec_.sync();
    }
    head();
    exec_.sync_all();
    draw(entry);
  }

  // LayerNorm before the next product: pre-norm the next layer's first (or the final one), post-norm this layer's
  // second.
  NANOMD_TILE const float* norm_after(const unsigned char* layer, int l) const {
    if (!s_.pre_norm) return reinterpret_cast<const float*>(layer + w_.norm2);
    if (l + 1 < s_.n_layer) return reinterpret_cast<const float*>(layer + w_.layer_bytes + w_.norm1);
    return reinterpret_cast<const float*>(arg_.weights + w_.norm);
  }

  // A warp keeps its trajectories from the draw through embedding and norm, so these need no barrier between them.
  NANOMD_TILE int own(int j) const { return exec_.warp() * kPerWarp + j; }

  NANOMD_TILE void embed(const StepEntry& entry) {
    const int d = s_.d_model;
    exec_.sync_warp();  // the token was drawn by one lane
    NANOMD_NO_UNROLL
    for (int j = 0; j < kPerWarp; ++j) {
      const int t = own(j);
      const int token = t < n_ ? history(t)[entry.source] : 0;
      const float* row =
          reinterpret_cast<const float*>(arg_.weights + w_.embedding) + static_cast<std::size_t>(token) * d;
      const float* position = reinterpret_cast<const float*>(arg_.weights + w_.position) +
                              static_cast<std::size_t>(s_.learned_position ? entry.position : 0) * d;
      float* stream = x() + t * m_.x_stride;
      for (int i = exec_.lane(); i < d; i += 32) {
        float value = exec_.constant(row + i);
        if (s_.learned_position) value += exec_.constant(position + i);
        stream[i] = value;
      }
      exec_.sync_warp();
      const float* norm = s_.pre_norm ? reinterpret_cast<const float*>(arg_.weights + w_.norm1) : nullptr;
      normalize(exec_, stream, d, norm, false, act(), t);
    }
  }

  NANOMD_TILE void normalize_tile(const float* norm) {
    NANOMD_NO_UNROLL
    for (int j = 0; j < kPerWarp; ++j)
      normalize(exec_, x() + own(j) * m_.x_stride, s_.d_model, norm, !s_.pre_norm, act(), own(j));
  }

  // Queries, rotated and scaled, to shared memory; keys, rotated, and values to their slot of the cache.
  NANOMD_TILE void project_qkv(const StepEntry& entry, const float* angles, const unsigned char* layer, int l) {
    const int half = arg_.layout.d_head / 2, n_keys = s_.n_head + s_.n_kv_head, n_heads = n_keys + s_.n_kv_head;
    multiply<kTiles, kPrecise>(
        exec_, view(w_.qkv, layer, l), act(), [&](int b, int g, int c, const float (&acc)[kTiles][4]) {
          const int pair = b * 8 + g, head = pair / half, i = pair % half;
          if (head >= n_heads) return;
          const float* bias = reinterpret_cast<const float*>(layer + w_.qkv.bias) + b * kBlockRows + g;
          const float bias1 = exec_.constant(bias), bias2 = exec_.constant(bias + 8);
          const bool rotate = !s_.learned_position && head < n_keys;
          const float cosine = rotate ? angles[2 * i] : 1.0f, sine = rotate ? angles[2 * i + 1] : 0.0f;
          NANOMD_UNROLL
          for (int t = 0; t < kTiles; ++t) NANOMD_UNROLL
          for (int j = 0; j < 2; ++j) {
            const int trajectory = t * kTileColumns + 2 * c + j;
            float x1 = acc[t][j] + bias1, x2 = acc[t][2 + j] + bias2;
            if (rotate) {
              const float y1 = exec_.fma(x1, cosine, -(x2 * sine));
              x2 = exec_.fma(x2, cosine, x1 * sine);
              x1 = y1;
            }
            if (head < s_.n_head) {
              float* query = q() + trajectory * m_.q_stride + head * arg_.layout.d_head + i;
              exec_.publish(query, x1 * arg_.layout.query_scale);
              exec_.publish(query + half, x2 * arg_.layout.query_scale);
            } else if (trajectory < n_) {
              const bool is_value = head >= n_keys;
              unsigned char* row = cache(trajectory, l, head - (is_value ? n_keys : s_.n_head), is_value) +
                                   (static_cast<std::size_t>(entry.slot) * arg_.layout.d_head + i) * kCacheElement;
              store_cache(row, x1);
              store_cache(row + half * kCacheElement, x2);
            }
          }
        });
  }

  NANOMD_TILE void attention(const StepEntry& entry, int l) {
    const int group = s_.n_head / s_.n_kv_head, d_head = arg_.layout.d_head;
    const int pieces = (group + kGroup - 1) / kGroup;  // of the query heads of one key/value head
    const SlotWindow slots{entry.end, entry.hole_begin, entry.hole_end};
    NANOMD_NO_UNROLL
    for (int work = exec_.rank() + exec_.ranks() * exec_.warp(); work < n_ * s_.n_kv_head * pieces;
         work += exec_.ranks() * kWarps) {
      const int piece = work % pieces, kv_head = work / pieces % s_.n_kv_head,
                trajectory = work / pieces / s_.n_kv_head;
      const int first_head = kv_head * group + piece * kGroup;
      const int n_heads = group - piece * kGroup < kGroup ? group - piece * kGroup : kGroup;
      attend<kGroup, kPrecise>(exec_, q() + trajectory * m_.q_stride + first_head * d_head, n_heads, d_head,
                               cache(trajectory, l, kv_head, false), cache(trajectory, l, kv_head, true), slots,
                               [&](int head, int feature, const float (&out)[8]) {
                                 NANOMD_UNROLL
                                 for (int i = 0; i < 8; ++i)
                                   act().publish(exec_, trajectory, (first_head + head) * d_head + feature + i, out[i]);
                               });
    }
  }

  // x += W in + b
  NANOMD_TILE void add_product(const LinearLayout& linear, const unsigned char* layer, int l,
                               const HalfRows<kPrecise>& in) {
    multiply<kTiles, kPrecise>(
        exec_, view(linear, layer, l), in, [&](int b, int g, int c, const float (&acc)[kTiles][4]) {
          NANOMD_UNROLL
          for (int r = 0; r < 2; ++r) {
            const int row = b * kBlockRows + r * 8 + g;
            if (row >= s_.d_model) continue;
            const float bias = exec_.constant(reinterpret_cast<const float*>(layer + linear.bias) + row);
            NANOMD_UNROLL
            for (int t = 0; t < kTiles; ++t) NANOMD_UNROLL
            for (int j = 0; j < 2; ++j) {
              float* stream = x() + (t * kTileColumns + 2 * c + j) * m_.x_stride + row;
              exec_.publish(stream, *stream + (acc[t][2 * r + j] + bias));
            }
          }
        });
  }

  NANOMD_TILE void hidden(const unsigned char* layer, int l) {
    multiply<kTiles, kPrecise>(
        exec_, view(w_.up, layer, l), act(), [&](int b, int g, int c, const float (&acc)[kTiles][4]) {
          NANOMD_UNROLL
          for (int r = 0; r < 2; ++r) {
            const int row = b * kBlockRows + r * 8 + g;
            const float bias = exec_.constant(reinterpret_cast<const float*>(layer + w_.up.bias) + row);
            NANOMD_UNROLL
            for (int t = 0; t < kTiles; ++t) NANOMD_UNROLL
            for (int j = 0; j < 2; ++j)
              hid().publish(exec_, t * kTileColumns + 2 * c + j, row, activate(acc[t][2 * r + j] + bias));
          }
        });
  }

  NANOMD_TILE float activate(float x) const {
    if (!s_.gelu) return exec_.max(x, 0.0f);
    // x (1 + tanh u) / 2 = x / (1 + exp(-2 u)), u = sqrt(2/pi) (x + 0.044715 x^3)
    const float u = 0.7978845608f * exec_.fma(0.044715f * x, x * x, x);
    return x / (1.0f + exec_.exp(-2.0f * u));
  }

  NANOMD_TILE void head() {
    multiply<kTiles, kPrecise>(
        exec_, view(w_.head, arg_.weights, 0), act(), [&](int b, int g, int c, const float (&acc)[kTiles][4]) {
          NANOMD_UNROLL
          for (int r = 0; r < 2; ++r) {
            const int row = b * kBlockRows + r * 8 + g;
            if (row >= s_.n_states) continue;
            const float bias = exec_.constant(reinterpret_cast<const float*>(arg_.weights + w_.head.bias) + row);
            NANOMD_UNROLL
            for (int t = 0; t < kTiles; ++t) NANOMD_UNROLL
            for (int j = 0; j < 2; ++j) {
              float* z = logits(t * kTileColumns + 2 * c + j) + row;
              if (m_.logits_in_shared)
                exec_.publish(z, acc[t][2 * r + j] + bias);
              else
                *z = acc[t][2 * r + j] + bias;  // device memory, seen by all ranks
            }
          }
        });
  }

  // Every rank draws for itself, from the same numbers; the first one writes.
  NANOMD_TILE void draw(const StepEntry& entry) {
    bool finite = true;
    // Logits in device memory are one copy for all ranks, so only the first may turn them into weights.
    const bool alone = exec_.rank() == 0;
    if (alone || m_.logits_in_shared) {
      NANOMD_NO_UNROLL
      for (int j = 0; j < kPerWarp; ++j) {
        const int t = own(j);
        if (t >= n_) break;
        const int token = history(t)[entry.source];
        const float* markov = s_.markov_head ? reinterpret_cast<const float*>(arg_.weights + w_.markov) +
                                                   static_cast<std::size_t>(token) * s_.n_states
                                             : nullptr;
        float* z = logits(t);
        if (entry.want == Want::kSample) {
          finite = make_weights(exec_, z, s_.n_states, markov, arg_.inverse_temperature) && finite;
        } else {
          const std::size_t row = static_cast<std::size_t>(first_ + t) * arg_.out_stride + entry.column;
          finite =
              write_log_probs(exec_, z, s_.n_states, markov, alone ? arg_.log_probs + row * s_.n_states : nullptr) &&
              finite;
        }
      }
      const int t = own(exec_.lane());
      if (entry.want == Want::kSample && exec_.lane() < kPerWarp && t < n_) {
        const double u = rollout_uniform(arg_.seed, entry.step, exec_.constant(arg_.trajectory + first_ + t));
        const int state = sample_state(logits(t), s_.n_states, u);
        history(t)[entry.target] = static_cast<std::uint16_t>(state);
        if (alone && entry.trail >= 0)
          arg_.trail[static_cast<std::size_t>(entry.trail) * arg_.n_trajs + first_ + t] =
              static_cast<std::uint16_t>(state);
        if (alone && entry.column >= 0) {
          const std::size_t at = static_cast<std::size_t>(first_ + t) * arg_.out_stride + entry.column;
          if (arg_.item_size == 1)
            static_cast<std::uint8_t*>(arg_.out)[at] = static_cast<std::uint8_t>(state);
          else
            static_cast<std::uint16_t*>(arg_.out)[at] = static_cast<std::uint16_t>(state);
        }
      }
      if (!finite && exec_.lane() == 0) exec_.raise(arg_.status, kNotFinite);
    }
    if (!m_.logits_in_shared) exec_.sync_all();  // the other ranks take the state from the history
  }

  NANOMD_TILE void load_resident() {
    for (int l = 0; l < s_.n_layer; ++l) {
      const unsigned char* layer = arg_.weights + w_.layer_bytes * static_cast<std::size_t>(l);
      load_resident(w_.qkv, layer, l);
      load_resident(w_.proj, layer, l);
      load_resident(w_.up, layer, l);
      load_resident(w_.down, layer, l);
    }
    load_resident(w_.head, arg_.weights, 0);
  }

  NANOMD_TILE void load_resident(const LinearLayout& linear, const unsigned char* base, int l) {
    const int words = linear.k_steps * 32;  // of one block of outputs
    unsigned char* to = resident(linear, l);
    for (int b = exec_.rank(); b < linear.n_blocks; b += exec_.ranks()) {
      const unsigned char* from = base + linear.hi + static_cast<std::size_t>(b) * words * sizeof(Words4);
      for (int i = exec_.thread(); i < words; i += kThreads)
        reinterpret_cast<Words4*>(to)[b / exec_.ranks() * words + i] = exec_.load_constant(from + i * sizeof(Words4));
    }
  }

  NANOMD_TILE LinearView view(const LinearLayout& linear, const unsigned char* base, int l) const {
    return {base + linear.hi, base + linear.lo, resident(linear, l), linear.n_blocks, linear.k_steps};
  }

  // Places in shared memory, computed where they are used: kept as members they would cost registers throughout.
  NANOMD_TILE float* x() const { return reinterpret_cast<float*>(exec_.shared() + m_.x); }
  NANOMD_TILE float* q() const { return reinterpret_cast<float*>(exec_.shared() + m_.q); }
  NANOMD_TILE HalfRows<kPrecise> act() const { return half_rows(m_.act, m_.act_stride); }
  NANOMD_TILE HalfRows<kPrecise> hid() const { return half_rows(m_.hid, m_.hid_stride); }
  NANOMD_TILE HalfRows<kPrecise> half_rows(std::uint32_t at, int stride) const {
    auto* hi = reinterpret_cast<std::uint16_t*>(exec_.shared() + at);
    return {hi, hi + (kPrecise ? kTrajectories * stride : 0), stride};
  }
  NANOMD_TILE float* logits(int t) const {
    float* first = m_.logits_in_shared ? reinterpret_cast<float*>(exec_.shared() + m_.logits)
                                       : arg_.logits + static_cast<std::size_t>(first_) * m_.logit_stride;
    return first + static_cast<std::size_t>(t) * m_.logit_stride;
  }
  NANOMD_TILE unsigned char* resident(const LinearLayout& linear, int l) const {
    if (!Exec::kCluster || w_.resident_fragments == 0) return nullptr;
    return exec_.shared() + m_.resident +
           static_cast<std::size_t>(linear.resident + l * w_.resident_layer) * kFragmentBytes;
  }

  NANOMD_TILE std::uint16_t* history(int t) const {
    return arg_.history + static_cast<std::size_t>(first_ + t) * arg_.history_stride;
  }

  NANOMD_TILE unsigned char* cache(int t, int l, int kv_head, bool values) const {
    const std::size_t head = static_cast<std::size_t>(l) * s_.n_kv_head + kv_head;
    return arg_.cache + (static_cast<std::size_t>(first_ + t) * arg_.layout.cache_elements +
                         (head * 2 + (values ? 1 : 0)) * arg_.layout.head_cache) *
                            kCacheElement;
  }

  NANOMD_TILE void store_cache(unsigned char* at, float value) const {
    if constexpr (kPrecise) {
      *reinterpret_cast<float*>(at) = value;
    } else {
      *reinterpret_cast<std::uint16_t*>(at) = half_bits(value);
    }
  }

  Exec& exec_;
  const Arguments& arg_;
  const ModelShape& s_;
  const WeightLayout& w_;
  const SharedLayout& m_;
  int first_, n_;
};

}  // namespace nanomd::cuda
