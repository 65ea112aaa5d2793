// Weights in the order in which the matrix instructions want them.
#pragma once

#include <cstdint>
#include <vector>

#include "layout.h"

namespace nanomd::cuda {

// The image of all weights, layout.weights.total_bytes long. Throws InputError for a missing or misshapen tensor, for a
// value that is not finite, or (16-bit weights) one beyond the range of half precision.
std::vector<unsigned char> pack_weights(const Layout& layout, const TensorMap& tensors,
                                        const std::vector<std::uint32_t>& rope_multipliers);

// Row of the checkpoint's qkv matrix that packed row r holds, or -1 for padding. Rows r = 16 b + g and r + 8 (g < 8)
// are the two features of pair 8 b + g that rotary positions rotate into each other: one lane then holds both.
int paired_row(int packed_row, int d_head, int n_heads_in_total);

}  // namespace nanomd::cuda
