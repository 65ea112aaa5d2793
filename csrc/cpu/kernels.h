// The functions that exist once per instruction set, and the choice among them at run time.
//
// THE ORDER OF SUMMATION. The lanes kernel (sixteen trajectories in SIMD lanes) and the columns kernel (sixteen
// outputs, features or slots in SIMD lanes, for one or more positions) give bit-identical logits because every number
// is made in one order:
// clang-format off
//   linear maps    acc = bias[o]; then acc = fma(W[o][i], x[i], acc) for i = 0, 1, ...
//   LayerNorm      sums over features in 16 partial sums (feature mod 16), folded by `fold` below;
//                  mean = sum * (1/d); squared deviations likewise, with fma;
//                  y = fma((x - mean) * (1 / sqrt(var + eps)), weight, bias)
//   rotary         (x1 cos - x2 sin, x2 cos + x1 sin) as fma(-x2, sin, x1 * cos), fma(x1, sin, x2 * cos)
//   scores         the query is scaled by 1/sqrt(d_head) after the rotation; acc = 0, fma over features 0, 1, ...
//   softmax        maximum over slots; e = exp(score - max); sum in 16 partial sums (slot mod 16), folded
//   values         acc = 0; fma(e[slot], v[slot][f], acc) over slots 0, 1, ..., then times 1 / sum
//   residual       x = x + y (norm = post normalises the sum)
//   logits         linear map, then + markov[token][k]; of the groups, and then of the states of the group drawn
//   probabilities  exp((logit - max) * (1 / temperature)); cumulative sums in double, in state order
//   fold(p[16])    p[i] += p[i + 8] (i < 8); p[i] += p[i + 4] (i < 4); p[i] += p[i + 2] (i < 2); p[0] + p[1]
// clang-format on
// exp is one polynomial (simd/math.h) for softmax, GELU and sampling. Slots that hold nothing count as e = 0 with
// v = 0. Weights, keys and values kept in 16 bits are rounded once and widened exactly; all arithmetic is fp32. AVX2
// and AVX-512 agree bit for bit; SSE2 has no fused operations and differs in the last bits.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "nanomd/clustering.h"
#include "nanomd/kv_cache.h"
#include "nanomd/model.h"

namespace nanomd {

inline constexpr int kMaxColumns = 32;  // positions in one step of the columns kernel

// Working memory of one thread: [feature][16] in the lanes kernel, [column][feature] in the columns kernel.
struct Scratch {
  explicit Scratch(const ModelShape& shape);
  AlignedBuffer x, h, qkv, attention, mlp, scores, narrow, logits;

  // With groups of states: what the head read at the last step, by column or [feature][16], those of the first logits
  // first; a copy of it by trajectory; and the logits of states, kSharing rows.
  const float* read = nullptr;
  AlignedBuffer gathered, members;

  // Rotary phases, computed once for all groups of trajectories that a thread takes through the same positions:
  // [phase mod kAngleRows][cosines, sines], and which phase each row holds.
  AlignedBuffer angles;
  std::vector<std::uint64_t> angle_phase;
};
inline constexpr int kAngleRows = 64;  // at least kMaxColumns
inline constexpr int kSharing = 6;     // trajectories that share the weights of a group of states

// One token of sixteen trajectories.
struct LaneStep {
  const Model* model = nullptr;
  Scratch* scratch = nullptr;
  void* keys = nullptr;  // layout: lane_layout
  void* values = nullptr;
  const std::int32_t* token = nullptr;  // [16]
  const float* cos = nullptr;           // [d_head / 2], null for learned positions
  const float* sin = nullptr;
  int position = 0;          // row of the learned positions
  int slot = 0;              // where this token's keys and values go
  SlotRange slots;           // what attention reads, this token included
  bool want_logits = false;  // else only the caches are filled
};

// One position of one trajectory.
struct Column {
  std::int32_t token = 0;
  int position = 0;
  int slot = 0;
  SlotRange slots;
  const float* cos = nullptr;
  const float* sin = nullptr;
  void* keys = nullptr;  // of its trajectory; layout: column_layout
  void* values = nullptr;
};

struct ColumnStep {
  const Model* model = nullptr;
  Scratch* scratch = nullptr;
  int n_columns = 0;
  int first_logits = 0;  // columns before it only fill the caches; its logits are the first in the scratch memory
  Column column[kMaxColumns];
};

// Sizes of caches, in elements (float or Half). W is padded to a multiple of 16 slots, d_head to 16 features in the
// values of columns.
// clang-format off
//   lanes, sixteen trajectories  keys   [layer][kv_head][slot][d_head][16]
//                                values [layer][kv_head][d_head / 8][slot][8][16]
//   columns, one trajectory      keys   [layer][kv_head][d_head][slot]
//                                values [layer][kv_head][slot][d_head padded]
// clang-format on
struct KeyValueLayout {
  std::size_t keys_per_head, values_per_head;
  std::size_t keys, values;
};
KeyValueLayout lane_layout(const ModelShape& shape);
KeyValueLayout column_layout(const ModelShape& shape);

struct Kernels {
  const char* name;
  int column_limit;  // up to this many trajectories run faster as columns than in lanes (measured)
  bool (*supported)();
  // Logits, n of them: ModelShape::n_choices.
  void (*decode_lanes[kPrecisions])(const LaneStep&);      // logits to scratch.logits[n][16]
  void (*decode_columns[kPrecisions])(const ColumnStep&);  // logits to scratch.logits[column][n padded to 16]
  // y[column][output] of one linear map, whatever kernel made x[column][n_in]: the states of a group.
  void (*product[kPrecisions])(const PackedLinear& w, const float* x, int x_stride, int n_columns, float* y,
                               int y_stride);
  // logits -> unnormalised probabilities, in place; and the drawn states, from one uniform per lane, or one. `rest`, if
  // not null: that of sampling.h.
  void (*sample_lanes)(float* logits, int n, float inverse_temperature, const double* u, std::int32_t* state,
                       double* rest);
  void (*sample_column)(float* logits, int n, float inverse_temperature, double u, std::int32_t* state, double* rest);
  void (*nearest)(const LloydInput& input, float* work, std::int32_t* labels);  // nearest.h
  void (*exp)(const float* x, float* y, std::size_t n);  // n a multiple of 16, aligned: for tests
};

const Kernels& sse2_kernels();
const Kernels& avx2_kernels();
const Kernels& avx512_kernels();

// The best that this processor runs, or the one named ("sse2", "avx2", "avx512"; "" chooses, heeding NANOMD_ISA).
// Throws InputError for an unknown name, UnsupportedError where the processor cannot.
const Kernels& choose_kernels(const std::string& name = "");
std::vector<std::string> available_isas();

}  // namespace nanomd
