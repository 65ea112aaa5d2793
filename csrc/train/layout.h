// Where a training step keeps its numbers: padded shapes, gradients, packed weights.
//
// Rows are padded with zeros to whole vectors of sixteen, and every head to a multiple of sixteen features, so that no
// product and no loop over features has a special case. Zeros stay zeros: weights, gradients and activations of the
// padding are never anything else.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "nanomd/model.h"
#include "train/team.h"

namespace nanomd::train {

// The sites of dropout, a number in the counters of its random bits.
inline constexpr int kEmbeddingSite = 0, kLayerSite = 1, kFinalSite = 63, kSitesOfPass = 64;

struct Dropout {
  float residual = 0.0f;  // on residual branches and embeddings
  float final = 0.0f;     // before the head
};

struct Dims {
  Dims(const ModelShape& shape, Dropout rates, int longest, std::vector<int> lookahead_lags = {});

  ModelShape model;
  Dropout dropout;
  std::vector<int> lags;                        // of heads that predict further ahead, in training only
  int length;                                   // T, frames of a window, padded to sixteen
  int d, m, states;                             // d_model, d_mlp and V, padded
  int head;                                     // d_head, padded
  int q_width;                                  // all query heads, padded
  int kv_width;                                 // all key heads, or all value heads
  int span;                                     // keys that a block of sixteen queries may see
  int block_rows;                               // rows that pass through an MLP at once
  int head_rows;                                // rows that pass through the output layer at once
  int x_row, qkv_row, o_row, m_row, logit_row;  // strides of activations
  std::size_t probabilities;                    // of one layer of a window

  int qkv_width() const { return q_width + 2 * kv_width; }

  // What dropout acts on, by number: embeddings and both branches of every layer, in each pass; the output.
  int dropout_place(int site) const {
    const int of_pass = 1 + 2 * model.n_layer;
    return site == kFinalSite ? 2 * of_pass : site / kSitesOfPass * of_pass + site % kSitesOfPass;
  }
  std::size_t dropout_bytes() const {
    return static_cast<std::size_t>(dropout_place(kFinalSite) + 1) * length * (d / 8);
  }
};

// One parameter. Rows and columns come in chunks (the features of a head), each padded.
struct Parameter {
  std::string name;
  int rows, columns;  // as in a model file; a vector is one row
  int row_chunk, row_padded;
  int column_chunk, column_padded;
  bool decayed;        // by AdamW
  bool by_token;       // rows of tokens that no window holds have no gradient
  std::size_t offset;  // in a gradient

  static int place(int i, int chunk, int padded) { return i / chunk * padded + i % chunk; }
  int padded_row(int i) const { return place(i, row_chunk, row_padded); }
  int stride() const { return (columns + column_chunk - 1) / column_chunk * column_padded; }
  int padded_rows() const { return (rows + row_chunk - 1) / row_chunk * row_padded; }
  std::size_t padded_size() const { return static_cast<std::size_t>(padded_rows()) * stride(); }
};

// In the order of a model file; then the heads of lags.
std::vector<Parameter> parameters_of(const Dims& dims);

// y = W x + b, packed for products in both directions.
struct Linear {
  int n_in, n_out;        // padded
  const float* forward;   // [n_out / 16][n_in][16]
  const float* backward;  // [n_in / 16][n_out][16]
  const float* bias;      // [n_out]
};
struct Norm {
  const float *weight, *bias;  // [d]
};
struct Layer {
  Linear qkv, proj, up, down;
  Norm norm1, norm2;
};

// The weights of one step; packed anew before each.
struct Weights {
  std::vector<Layer> layers;
  Norm norm{};
  Linear head{};
  std::vector<Linear> lookahead;     // a head for each lag
  const float* embedding = nullptr;  // [V][d_model], the caller's
  const float* position = nullptr;   // [W][d_model], the caller's
  const float* markov = nullptr;     // [V][V], the caller's
};

// Where the parts of a gradient lie, in floats.
struct LinearPlace {
  std::size_t weight, bias;
};
struct NormPlace {
  std::size_t weight, bias;
};
struct LayerPlace {
  LinearPlace qkv, proj, up, down;
  NormPlace norm1, norm2;
};
struct Places {
  std::size_t embedding = 0, position = 0, markov = 0;
  std::vector<LayerPlace> layers;
  NormPlace norm{};
  LinearPlace head{};
  std::vector<LinearPlace> lookahead;
  std::size_t size = 0;
};

// Packs the weights of `values` (one pointer per parameter, row-major as in a model file) into memory of its own.
class Packing {
 public:
  Packing(const Dims& dims, const std::vector<Parameter>& parameters);
  void pack(const std::vector<const float*>& values, Team& team, int n_threads);
  const Weights& weights() const { return weights_; }
  const Places& places() const { return places_; }

 private:
  struct Matrix {  // a linear map and its bias
    std::size_t weight, bias;
    float *forward, *backward, *packed_bias;
  };
  struct Vector {
    std::size_t parameter;
    float* packed;
  };
  std::size_t find(const std::string& name) const;
  void pack_matrix(const Matrix& matrix, const std::vector<const float*>& values) const;
  float* room(std::size_t floats);
  Linear add_linear(const std::string& name, LinearPlace* place);
  Linear add_head(const std::string& name, LinearPlace* place);
  Norm add_norm(const std::string& name, NormPlace* place);

  const Dims& dims_;
  const std::vector<Parameter>& parameters_;
  std::vector<AlignedBuffer> memory_;
  std::vector<Matrix> matrices_;
  std::vector<Vector> vectors_;
  Weights weights_;
  Places places_;
};

}  // namespace nanomd::train
