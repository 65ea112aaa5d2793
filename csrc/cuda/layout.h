// Where everything lies: weights in device memory, activations in shared memory. Plain numbers, made once on the host,
// passed to kernels by value.
#pragma once

#include <cstddef>
#include <cstdint>

#include "nanomd/model.h"

namespace nanomd::cuda {

inline constexpr int kWarps = 8;  // that take a tile: a thread block, or a team of one
inline constexpr int kThreads = 32 * kWarps;
inline constexpr int kBlockRows = 16;               // outputs of one matrix instruction
inline constexpr int kTileColumns = 8;              // trajectories of one matrix instruction
inline constexpr int kStepDepth = 16;               // inputs of one matrix instruction
inline constexpr int kLargestRanks = 8;             // thread blocks of a cluster that any device accepts
inline constexpr std::size_t kFragmentBytes = 512;  // 16 x 16 halves, in the order in which 32 lanes load them

// y = W x + b. Weights as fragments [n_blocks][k_steps][32 lanes][8 halves], hi + lo halves in the precise engine.
struct LinearLayout {
  std::uint32_t hi = 0, lo = 0;  // bytes from the start of the layer (or of the model, for the head)
  std::uint32_t bias = 0;        // [n_blocks * 16] float
  std::uint32_t resident = 0;    // fragments before this linear map in a rank's resident weights
  int n_blocks = 0, k_steps = 0;
};

struct WeightLayout {
  LinearLayout qkv, proj, up, down;    // within a layer
  std::uint32_t norm1 = 0, norm2 = 0;  // [d] weight, then [d] bias; within a layer
  std::size_t layer_bytes = 0;
  LinearLayout head;  // within the model
  std::size_t norm = 0, embedding = 0, position = 0, markov = 0, multipliers = 0;
  std::size_t total_bytes = 0;
  int resident_fragments = 0;  // of one rank, all layers and the head (0: read from device memory)
  int resident_layer = 0;      // fragments of one layer
};

// Bytes from the start of a team's shared memory: teams lie one after the other, then the resident weights. Strides in
// elements, chosen so that the lanes of a warp, which address 8 trajectories by 4 pieces, fall into different banks.
struct SharedLayout {
  std::uint32_t x = 0;         // [T][x_stride] float, the residual stream
  std::uint32_t act = 0;       // [parts][T][act_stride] half, input of a product
  std::uint32_t hid = 0;       // [parts][T][hid_stride] half, hidden layer of the MLP
  std::uint32_t q = 0;         // [T][q_stride] float, queries; shares memory with hid
  std::uint32_t logits = 0;    // [T][logit_stride] float; shares memory with hid in a block alone
  std::uint32_t drafts = 0;    // DraftState, with lookahead
  std::uint32_t resident = 0;  // fragments, from the start of the block
  int x_stride = 0, act_stride = 0, hid_stride = 0, q_stride = 0, logit_stride = 0;
  std::uint32_t guard = 0;       // unused bytes after every region, for tests
  bool logits_in_shared = true;  // else in a scratch of device memory
  std::uint32_t team_bytes = 0;
  std::size_t total_bytes = 0;
};

struct Layout {
  NetworkShape shape;
  WeightLayout weights;
  SharedLayout shared;
  int tile = 0;                 // T: trajectories of a block, 8 or 16
  int ranks = 1;                // thread blocks that share a tile
  int teams = 1;                // tiles of one block, which share its resident weights
  bool latency = false;         // by cluster kernels, even of one block
  int ahead = 0;                // lookahead: columns of a tile are successive states of one trajectory, at most so many
  int draft_rows = 0;           // pairs of states in a table of drafts
  std::size_t draft_bytes = 0;  // of one rank's table: keys, then weights
  bool precise = false;         // split weights and activations, fp32 cache
  float query_scale = 0;        // 1/sqrt(d_head), times log2(e): the softmax takes powers of two

  int d_head = 0;
  std::size_t head_cache = 0;      // elements of one layer's keys (or values) of one key/value head of one trajectory
  std::size_t cache_elements = 0;  // of one trajectory: [L][n_kv_head][key, value][slots()][d_head]
  std::size_t cache_bytes() const { return cache_elements * (precise ? 4 : 2); }
  // Of the cache: those of the window, then (lookahead) two banks for what is not yet sure to stand. A pass writes one
  // bank while what stood of the pass before is copied from the other.
  int slots() const { return shape.context_length + (ahead > 0 ? 2 * (ahead - 1) : 0); }
  int trajectories_a_tile() const { return ahead > 0 ? 1 : tile; }
  bool resident() const { return weights.resident_fragments > 0; }
};

// `shared_limit`: bytes of shared memory a block may take. `resident`: try to keep each rank's share of the weights in
// shared memory, for so many teams; else there is one. `guard`: unused bytes between regions, for tests. Throws
// UnsupportedError, naming the limit.
Layout make_layout(const NetworkShape& shape, bool precise, int tile, int ranks, std::size_t shared_limit,
                   bool resident, std::size_t guard = 0, int teams = 1);

// The same with so many columns of lookahead (>= 2), where the logits lie in shared memory; else unchanged.
Layout with_lookahead(Layout layout, int columns);

}  // namespace nanomd::cuda
