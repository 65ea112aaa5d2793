// The rollout of one tile of trajectories: many tokens through the whole model, in one thread block or one cluster of
// them. It reads from top to bottom like the model. `Exec` says what a thread is: a CUDA thread (device_exec.cuh), or a
// fibre of the emulation on the host (csrc/tests/emulation/emulator.h), which runs this very code and checks its
// indices and barriers.
//
// Teams of one block have a tile each and share its resident weights. Ranks of a cluster share the outputs of each
// product and the heads of attention between them and send results to all; LayerNorm and drawing are done by every rank
// for itself. Every sum is that of a block alone.
#pragma once

#include "ahead.h"
#include "arguments.h"
#include "attention.h"
#include "draw.h"
#include "matrix.h"
#include "norm.h"

namespace nanomd::cuda {

// Exec: what a thread is.
// kTiles: tiles of eight trajectories (with lookahead: of successive states) that share each weight that is read, 1
// or 2. kGroup: query heads that share each key and value that is read, 1, or 4 with grouped queries (group_constant).
// kPrecise: weights and activations as sums of two halves and an fp32 cache (fp32), else 16 bits (fp16).
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
    first_ = tile * (ahead() ? 1 : kTrajectories);
    n_ = arguments.n_trajs - first_ < kTrajectories ? arguments.n_trajs - first_ : kTrajectories;
  }

  NANOMD_TILE void run() {
    const HalfRows<kPrecise> rows = act();
    // Products read whole steps of 16 inputs: those beyond d_model meet weights of zero and must be finite.
    for (int i = exec_.thread(); i < kTrajectories * m_.act_stride; i += kThreads) {
      rows.hi[i] = 0;
      if constexpr (kPrecise) rows.lo[i] = 0;
    }
    if (Exec::kWeights != Weights::kStreamed && w_.resident_fragments > 0) load_resident();
    exec_.sync_start();   // also: no rank may send into the memory of one that has not started
    if (n_ <= 0) return;  // a team without a tile
    NANOMD_NO_UNROLL
    for (at_ = 0; at_ < arg_.n_steps; at_ += stood_) {
      if (ahead()) draft();
      step();
      if (ahead()) settle();
    }
    if (ahead() && exec_.rank() == 0 && exec_.thread() == 0) exec_.count(arg_.status + 1, passes_);
    exec_.sync_all();  // nor of one that has ended
  }

 private:
  // With lookahead, column t is the token t steps on, else trajectory t of the tile.
  NANOMD_TILE bool ahead() const { return Exec::kCluster && arg_.layout.ahead > 0; }
  NANOMD_TILE const StepEntry& entry(int t) const { return arg_.steps[Exec::fresh(at_) + (ahead() ? t : 0)]; }
  NANOMD_TILE int trajectory(int t) const { return Exec::fresh(first_) + (ahead() ? 0 : t); }

  // One token of every column through the model. `x` is the residual stream, `act` and `hid` are inputs of products.
  NANOMD_TILE void step() {
    // 1. Token (and position) -> x; its LayerNorm -> act.
    embed();
    exec_.sync();
    NANOMD_NO_UNROLL
    for (int l = 0; l < s_.n_layer; ++l) {
      const unsigned char* layer = arg_.weights + w_.layer_bytes * static_cast<std::size_t>(l);
      // 2. Queries, keys and values, rotated: act -> q and the cache.
      project_qkv(layer, l);
      exec_.sync_all();
      // Keys and values are all that later tokens need of one whose logits nobody wants.
      if (entry(0).want == Want::kNothing && l + 1 == s_.n_layer) return;
      // 3. Attention over the cache: q -> act.
      attention(l);
      exec_.sync_all();
      // 4. x += attention.
      add_product(w_.proj, layer, l, act());
      exec_.sync_all();
      // 5. LayerNorm: x -> act.
      normalize_tile(reinterpret_cast<const float*>(layer + (s_.pre_norm ? w_.norm2 : w_.norm1)));
      exec_.sync();
      // 6. Hidden layer of the MLP: act -> hid.
      hidden(layer, l);
      exec_.sync_all();
      // 7. x += MLP.
      add_product(w_.down, layer, l, hid());
      exec_.sync_all();
      // 8. The LayerNorm that comes next: x -> act.
      normalize_tile(norm_after(layer, l));
      exec_.sync();
    }
    // 9. Logits.
    head();
    exec_.sync_all();
    // 10. The next state, or log-probabilities.
    draw();
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

  NANOMD_TILE void embed() {
    const int d = s_.d_model;
    exec_.sync_warp();  // the token was drawn by one lane
    NANOMD_NO_UNROLL
    for (int j = 0; j < kPerWarp; ++j) {
      const int t = own(j);
      const int token = t < n_ ? token_of(t) : 0;
      const float* row =
          reinterpret_cast<const float*>(arg_.weights + w_.embedding) + static_cast<std::size_t>(token) * d;
      const float* position = reinterpret_cast<const float*>(arg_.weights + w_.position) +
                              static_cast<std::size_t>(s_.learned_position && t < n_ ? entry(t).position : 0) * d;
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
  NANOMD_TILE void project_qkv(const unsigned char* layer, int l) {
    const int half = arg_.layout.d_head / 2, n_keys = s_.n_head + s_.n_kv_head, n_heads = n_keys + s_.n_kv_head;
    multiply<kTiles, kPrecise>(
        exec_, view(w_.qkv, layer, l), act(), [&](int b, int g, int c, const float (&acc)[kTiles][4]) {
          const int pair = b * 8 + g, head = pair / half, i = pair % half;
          if (head >= n_heads) return;
          const float* bias = reinterpret_cast<const float*>(layer + w_.qkv.bias) + b * kBlockRows + g;
          const float bias1 = exec_.constant(bias), bias2 = exec_.constant(bias + 8);
          const bool rotate = !s_.learned_position && head < n_keys;
          const float* angles = arg_.angles + static_cast<std::size_t>(Exec::fresh(at_)) * arg_.layout.d_head + 2 * i;
          float cosine = rotate ? exec_.constant(angles) : 1.0f, sine = rotate ? exec_.constant(angles + 1) : 0.0f;
          NANOMD_UNROLL
          for (int t = 0; t < kTiles; ++t) NANOMD_UNROLL
          for (int j = 0; j < 2; ++j) {
            const int column = t * kTileColumns + 2 * c + j;
            if (rotate && ahead() && column < n_) {
              cosine = exec_.constant(angles + column * arg_.layout.d_head);
              sine = exec_.constant(angles + column * arg_.layout.d_head + 1);
            }
            float x1 = acc[t][j] + bias1, x2 = acc[t][2 + j] + bias2;
            if (rotate) {
              const float y1 = exec_.fma(x1, cosine, -(x2 * sine));
              x2 = exec_.fma(x2, cosine, x1 * sine);
              x1 = y1;
            }
            if (head < s_.n_head) {
              float* query = q() + column * m_.q_stride + head * arg_.layout.d_head + i;
              exec_.publish(query, x1 * arg_.layout.query_scale);
              exec_.publish(query + half, x2 * arg_.layout.query_scale);
            } else if (column < n_) {
              const bool is_value = head >= n_keys;
              const int slot = ahead() && column > 0 ? spare(bank_) + column - 1 : entry(0).slot;
              unsigned char* row = cache(column, l, head - (is_value ? n_keys : s_.n_head), is_value) +
                                   (static_cast<std::size_t>(slot) * arg_.layout.d_head + i) * kCacheElement;
              store_cache(row, x1);
              store_cache(row + half * kCacheElement, x2);
            }
          }
        });
  }

  NANOMD_TILE void attention(int l) {
    const int group = s_.n_head / s_.n_kv_head, d_head = arg_.layout.d_head;
    const int pieces = (group + kGroup - 1) / kGroup;  // of the query heads of one key/value head
    NANOMD_NO_UNROLL
    for (int work = exec_.rank() + exec_.ranks() * exec_.warp(); work < n_ * s_.n_kv_head * pieces;
         work += exec_.ranks() * kWarps) {
      const int piece = work % pieces, kv_head = work / pieces % s_.n_kv_head, column = work / pieces / s_.n_kv_head;
      const int first_head = kv_head * group + piece * kGroup;
      const int n_heads = group - piece * kGroup < kGroup ? group - piece * kGroup : kGroup;
      SlotWindow slots{entry(column).end, entry(column).hole_begin, entry(column).hole_end};
      if (ahead())
        slots.n_drafts = column, slots.draft_begin = (entry(0).slot + 1) % s_.context_length,
        slots.spare = spare(bank_), slots.window = s_.context_length;
      attend<kGroup, kPrecise>(exec_, q() + column * m_.q_stride + first_head * d_head, n_heads, d_head,
                               cache(column, l, kv_head, false), cache(column, l, kv_head, true), slots,
                               [&](int head, int feature, const float (&out)[8]) {
                                 NANOMD_UNROLL
                                 for (int i = 0; i < 8; ++i)
                                   act().publish(exec_, column, (first_head + head) * d_head + feature + i, out[i]);
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

  // From logits to states, and lookahead: tile_states.h.
  NANOMD_TILE void draw();
  NANOMD_TILE double uniform(int t) const;
  NANOMD_TILE void keep(int t, int state);
  NANOMD_TILE void draft();
  NANOMD_TILE void settle();

  NANOMD_TILE int token_of(int t) const { return ahead() ? drafts().token[t] : history(t)[entry(0).source]; }
  NANOMD_TILE int spare(int bank) const { return s_.context_length + bank * (arg_.layout.ahead - 1); }
  NANOMD_TILE DraftState& drafts() const { return *reinterpret_cast<DraftState*>(exec_.shared() + m_.drafts); }
  NANOMD_TILE DraftTable table() const {
    const std::size_t index = static_cast<std::size_t>(first_) * exec_.ranks() + exec_.rank();
    unsigned char* base = arg_.drafts + index * arg_.layout.draft_bytes;
    const std::size_t keys = static_cast<std::size_t>(arg_.layout.draft_rows) * 4;
    return {reinterpret_cast<std::uint32_t*>(base), reinterpret_cast<float*>(base + keys), arg_.layout.draft_rows,
            s_.n_states};
  }

  // Where the weights are: tile_weights.h.
  NANOMD_TILE void load_resident();
  NANOMD_TILE void load_resident(const LinearLayout& linear, const unsigned char* base, int l);
  NANOMD_TILE unsigned char* resident(const LinearLayout& linear, int l) const;
  NANOMD_TILE LinearView view(const LinearLayout& linear, const unsigned char* base, int l) const;

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

  NANOMD_TILE std::uint16_t* history(int t) const {
    return arg_.history + static_cast<std::size_t>(trajectory(t)) * arg_.history_stride;
  }

  NANOMD_TILE unsigned char* cache(int t, int l, int kv_head, bool values) const {
    const std::size_t head = static_cast<std::size_t>(l) * s_.n_kv_head + kv_head;
    return arg_.cache + (static_cast<std::size_t>(trajectory(t)) * arg_.layout.cache_elements +
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
  const NetworkShape& s_;
  const WeightLayout& w_;
  const SharedLayout& m_;
  int first_, n_;               // first trajectory, columns in use
  int at_ = 0, stood_ = 1;      // entry of the first column; entries that the pass has done
  int bank_ = 0, before_ = -1;  // lookahead: bank of the cache, token before the first column's
  std::uint32_t passes_ = 0;    // lookahead: that drew
};

}  // namespace nanomd::cuda

#include "tile_states.h"
#include "tile_weights.h"
