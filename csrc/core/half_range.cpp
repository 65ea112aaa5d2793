// Can a key or value overflow 16 bits? Bounds that hold for every input, from the weights alone.
#include <algorithm>
#include <cmath>

#include "nanomd/check.h"
#include "nanomd/model.h"

namespace nanomd {

namespace {

// Largest |component| of what LayerNorm hands on is not needed: its normalised vector n has |n| <= sqrt(d), so
//   |sum_i W_i (w_i n_i + b_i) + bias| <= sqrt(d) |W w| + |sum_i W_i b_i + bias|.
double bound_after_norm(const float* row, double bias, const LayerNormWeights& norm, int d) {
  double squares = 0, shift = bias;
  for (int i = 0; i < d; ++i) {
    const double w = row[i * kLanes];
    squares += w * norm.weight[i] * w * norm.weight[i];
    shift += w * norm.bias[i];
  }
  return std::sqrt(squares * d) + std::abs(shift);
}

// The first layer of a post-norm model reads embeddings, whose largest components are known.
std::vector<double> largest_inputs(const Model& model) {
  const int d = model.shape.d_model;
  std::vector<double> tokens(d, 0.0), positions(d, 0.0);
  for (int t = 0; t < model.shape.n_states; ++t)
    for (int i = 0; i < d; ++i)
      tokens[i] =
          std::max(tokens[i], std::abs(static_cast<double>(model.embedding[static_cast<std::size_t>(t) * d + i])));
  if (model.position != nullptr)
    for (int p = 0; p < model.shape.context_length; ++p)
      for (int i = 0; i < d; ++i)
        positions[i] =
            std::max(positions[i], std::abs(static_cast<double>(model.position[static_cast<std::size_t>(p) * d + i])));
  for (int i = 0; i < d; ++i) tokens[i] += positions[i];
  return tokens;
}

}  // namespace

void check_cache_range(const Model& model) {
  const ModelShape& shape = model.shape;
  const int d = shape.d_model;
  const std::vector<double> inputs = largest_inputs(model);
  for (int l = 0; l < shape.n_layer; ++l) {
    const PackedLinear& qkv = model.layers[l].qkv;
    const bool raw = !shape.pre_norm && l == 0;
    const LayerNormWeights& norm = shape.pre_norm ? model.layers[l].norm1 : model.layers[std::max(l - 1, 0)].norm2;
    for (int o = d; o < shape.d_qkv(); ++o) {
      const float* row = qkv.weight + static_cast<std::size_t>(o / kLanes) * d * kLanes + o % kLanes;
      double bound = 0;
      if (raw) {
        bound = std::abs(static_cast<double>(qkv.bias[o]));
        for (int i = 0; i < d; ++i) bound += std::abs(static_cast<double>(row[i * kLanes])) * inputs[i];
      } else {
        bound = bound_after_norm(row, qkv.bias[o], norm, d);
      }
      // A rotation mixes two components: at most sqrt(2) times the larger.
      if (!(bound * 1.42 <= kLargestHalf))
        throw UnsupportedError(join("keys or values of layer ", l, " could reach ", bound * 1.42,
                                    ", too large for 16 bits (65504); use precision fp32"));
    }
  }
}

}  // namespace nanomd
