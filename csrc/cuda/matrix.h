// Y = W X + b for a tile of trajectories: a warp takes 16 outputs at a time, all inputs, all trajectories of the tile.
// Every output of every trajectory is summed over the inputs in the same order whatever the tile, the number of blocks
// or the number of ranks, so a trajectory does not depend on the company it ran in.
#pragma once

#include "half_rows.h"
#include "layout.h"
#include "words.h"

namespace nanomd::cuda {

// Fragments in flight per lane: enough to hide the latency of L2 (512 bytes each and warp), few enough not to spill.
// kPrecise, here and below: weights and inputs are sums of two halves.
template <bool kPrecise>
inline constexpr int kFragmentsInFlight = kPrecise ? 2 : 4;

// Weights of one linear map, as one block sees them.
struct LinearView {
  const unsigned char* hi;  // fragments in device memory
  const unsigned char* lo;
  const unsigned char* resident;  // this rank's fragments in shared memory, or null
  int n_blocks, k_steps;
};

// finish(block, g, c, acc): acc[t][0..1] are output 16 block + g of trajectories 8 t + 2 c and + 1, acc[t][2..3] output
// 16 block + g + 8 of the same. kTiles: tiles of eight trajectories that share each weight. Exec: what a thread is.
template <int kTiles, bool kPrecise, class Exec, class Finish>
NANOMD_TILE void multiply(Exec& exec, const LinearView& w, const HalfRows<kPrecise>& in, Finish finish) {
  constexpr int kInFlight = kFragmentsInFlight<kPrecise>;
  const int lane = exec.lane(), g = lane / 4, c = lane % 4;
  NANOMD_NO_UNROLL
  for (int b = exec.rank() + exec.ranks() * exec.warp(); b < w.n_blocks; b += exec.ranks() * kWarps) {
    exec.sync_warp();  // the matrix instruction wants whole warps, and `finish` may have parted this one
    float acc[kTiles][4];
    NANOMD_UNROLL
    for (int t = 0; t < kTiles; ++t) acc[t][0] = acc[t][1] = acc[t][2] = acc[t][3] = 0.0f;
    const bool resident =
        Exec::kWeights == Weights::kResident || (Exec::kWeights == Weights::kEither && w.resident != nullptr);
    const std::size_t first = static_cast<std::size_t>(resident ? b / exec.ranks() : b) * w.k_steps;
    const unsigned char* hi = (resident ? w.resident : w.hi) + (first * 32 + lane) * sizeof(Words4);
    const unsigned char* lo = kPrecise ? w.lo + (first * 32 + lane) * sizeof(Words4) : nullptr;
    NANOMD_NO_UNROLL
    for (int s0 = 0; s0 < w.k_steps; s0 += kInFlight) {
      Words4 a[kInFlight], a_lo[kInFlight];
      NANOMD_UNROLL
      for (int u = 0; u < kInFlight; ++u) {
        if (s0 + u < w.k_steps) {
          const std::size_t at = static_cast<std::size_t>(s0 + u) * kFragmentBytes;
          a[u] = resident ? load_wide<Words4>(hi + at) : exec.load_constant(hi + at);
          if constexpr (kPrecise) a_lo[u] = exec.load_constant(lo + at);
        }
      }
      NANOMD_UNROLL
      for (int u = 0; u < kInFlight; ++u) {
        if (s0 + u < w.k_steps) {
          NANOMD_UNROLL
          for (int t = 0; t < kTiles; ++t) {
            const int at = (t * kTileColumns + g) * in.stride + (s0 + u) * kStepDepth + c * 4;
            const Words2 x = load_wide<Words2>(in.hi + at);
            if constexpr (kPrecise) {
              // (w + w') (x + x') without w' x', which is below the rounding of the sum.
              exec.multiply_add(acc[t], a_lo[u], x);
              exec.multiply_add(acc[t], a[u], load_wide<Words2>(in.lo + at));
            }
            exec.multiply_add(acc[t], a[u], x);
          }
        }
      }
    }
    finish(b, g, c, acc);
  }
}

}  // namespace nanomd::cuda
