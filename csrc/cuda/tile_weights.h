// Where RolloutTile finds the weights: in device memory, or in shared memory, where a block keeps them throughout a
// launch. Each rank of a cluster keeps those of its own outputs; the teams of a block share all.
#pragma once

#include "tile.h"

namespace nanomd::cuda {

template <class Exec, int kTiles, int kGroup, bool kPrecise>
NANOMD_TILE void RolloutTile<Exec, kTiles, kGroup, kPrecise>::load_resident() {
  for (int l = 0; l < s_.n_layer; ++l) {
    const unsigned char* layer = arg_.weights + w_.layer_bytes * static_cast<std::size_t>(l);
    load_resident(w_.qkv, layer, l);
    load_resident(w_.proj, layer, l);
    load_resident(w_.up, layer, l);
    load_resident(w_.down, layer, l);
  }
  load_resident(w_.head, arg_.weights, 0);
}

template <class Exec, int kTiles, int kGroup, bool kPrecise>
NANOMD_TILE void RolloutTile<Exec, kTiles, kGroup, kPrecise>::load_resident(const LinearLayout& linear,
                                                                            const unsigned char* base, int l) {
  const int words = linear.k_steps * 32;  // of one block of outputs
  unsigned char* to = resident(linear, l);
  for (int b = exec_.rank(); b < linear.n_blocks; b += exec_.ranks()) {
    const unsigned char* from = base + linear.hi + static_cast<std::size_t>(b) * words * sizeof(Words4);
    for (int i = exec_.team() * kThreads + exec_.thread(); i < words; i += exec_.teams() * kThreads)
      reinterpret_cast<Words4*>(to)[b / exec_.ranks() * words + i] = exec_.load_constant(from + i * sizeof(Words4));
  }
}

template <class Exec, int kTiles, int kGroup, bool kPrecise>
NANOMD_TILE unsigned char* RolloutTile<Exec, kTiles, kGroup, kPrecise>::resident(const LinearLayout& linear,
                                                                                 int l) const {
  if (Exec::kWeights == Weights::kStreamed || w_.resident_fragments == 0) return nullptr;
  return exec_.block_shared() + m_.resident +
         static_cast<std::size_t>(linear.resident + l * w_.resident_layer) * kFragmentBytes;
}

template <class Exec, int kTiles, int kGroup, bool kPrecise>
NANOMD_TILE LinearView RolloutTile<Exec, kTiles, kGroup, kPrecise>::view(const LinearLayout& linear,
                                                                         const unsigned char* base, int l) const {
  return {base + linear.hi, base + linear.lo, resident(linear, l), linear.n_blocks, linear.k_steps};
}

}  // namespace nanomd::cuda
