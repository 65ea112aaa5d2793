#include "train/layout.h"

#include <algorithm>
#include <utility>

namespace nanomd::train {

namespace {

// A stride of an odd number of cache lines: rows then fall into all sets of a cache, whatever the width.
int spread(int width) {
  const int lines = round_up(width) / kLanes;
  return (lines + 1 - lines % 2) * kLanes;
}

}  // namespace

Dims::Dims(const ModelShape& shape, Dropout rates, int longest, std::vector<int> lookahead_lags)
    : model(shape), dropout(rates), lags(std::move(lookahead_lags)) {
  length = round_up(longest);
  d = round_up(shape.d_model);
  m = round_up(shape.d_mlp);
  states = round_up(shape.n_states);
  head = round_up(shape.d_head());
  q_width = shape.n_head * head;
  kv_width = shape.n_kv_head * head;
  // The sixteen queries themselves, W - 1 positions before the first, and what rounding down to sixteen adds.
  span = std::min(length, round_up(shape.context_length - 1) + kLanes);
  block_rows = std::min(length, 64);
  // Logits of a block stay in the second-level cache; fewer than 32 rows would read the weights too often.
  head_rows = std::min(length, std::clamp(round_up(65536 / states), 32, 64));
  x_row = spread(d);
  qkv_row = spread(qkv_width());
  o_row = spread(q_width);
  m_row = spread(m);
  logit_row = spread(states);
  probabilities = static_cast<std::size_t>(shape.n_head) * (length / kLanes) * span * kLanes;
}

std::vector<Parameter> parameters_of(const Dims& dims) {
  const ModelShape& shape = dims.model;
  std::vector<Parameter> all;
  std::size_t offset = 0;
  const auto add = [&](const std::string& name, int rows, int columns, int row_chunk, int column_chunk, bool decayed,
                       bool by_token) {
    Parameter p{name,
                rows,
                columns,
                row_chunk,
                rows == 1 ? 1 : round_up(row_chunk),
                column_chunk,
                round_up(column_chunk),
                decayed,
                by_token,
                offset};
    offset += p.padded_size();
    all.push_back(p);
  };
  const int d = shape.d_model, V = shape.n_states;
  const auto linear = [&](const std::string& name, int rows, int columns, int row_chunk, int column_chunk) {
    add(name + ".weight", rows, columns, row_chunk, column_chunk, true, false);
    add(name + ".bias", 1, rows, 1, row_chunk, false, false);
  };
  const auto norm = [&](const std::string& name) {
    add(name + ".weight", 1, d, 1, d, false, false);
    add(name + ".bias", 1, d, 1, d, false, false);
  };
  add("embedding.weight", V, d, V, d, false, true);
  if (shape.learned_position) add("position.weight", shape.context_length, d, shape.context_length, d, false, false);
  for (int l = 0; l < shape.n_layer; ++l) {
    const std::string block = "blocks." + std::to_string(l) + ".";
    linear(block + "attention.qkv", shape.d_qkv(), d, shape.d_head(), d);
    linear(block + "attention.proj", d, d, d, shape.d_head());
    linear(block + "mlp.up", shape.d_mlp, d, shape.d_mlp, d);
    linear(block + "mlp.down", d, shape.d_mlp, d, shape.d_mlp);
    norm(block + "norm1");
    norm(block + "norm2");
  }
  if (shape.pre_norm) norm("norm");
  linear("head", V, d, V, d);
  if (shape.markov_head) add("markov.weight", V, V, V, V, false, true);
  for (std::size_t i = 0; i < dims.lags.size(); ++i) linear("training_heads.heads." + std::to_string(i), V, d, V, d);
  return all;
}

Packing::Packing(const Dims& dims, const std::vector<Parameter>& parameters) : dims_(dims), parameters_(parameters) {
  const ModelShape& shape = dims.model;
  for (int l = 0; l < shape.n_layer; ++l) {
    const std::string block = "blocks." + std::to_string(l) + ".";
    Layer layer{};
    LayerPlace place{};
    layer.qkv = add_linear(block + "attention.qkv", &place.qkv);
    layer.proj = add_linear(block + "attention.proj", &place.proj);
    layer.up = add_linear(block + "mlp.up", &place.up);
    layer.down = add_linear(block + "mlp.down", &place.down);
    layer.norm1 = add_norm(block + "norm1", &place.norm1);
    layer.norm2 = add_norm(block + "norm2", &place.norm2);
    weights_.layers.push_back(layer);
    places_.layers.push_back(place);
  }
  if (shape.pre_norm) weights_.norm = add_norm("norm", &places_.norm);
  weights_.head = add_head("head", &places_.head);
  for (std::size_t i = 0; i < dims.lags.size(); ++i) {
    LinearPlace place{};
    weights_.lookahead.push_back(add_head("training_heads.heads." + std::to_string(i), &place));
    places_.lookahead.push_back(place);
  }
  places_.embedding = parameters_[find("embedding.weight")].offset;
  if (shape.learned_position) places_.position = parameters_[find("position.weight")].offset;
  if (shape.markov_head) places_.markov = parameters_[find("markov.weight")].offset;
  places_.size = parameters_.back().offset + parameters_.back().padded_size();
}

std::size_t Packing::find(const std::string& name) const {
  const auto found = std::find_if(parameters_.begin(), parameters_.end(),
                                  [&](const Parameter& parameter) { return parameter.name == name; });
  return static_cast<std::size_t>(found - parameters_.begin());
}

float* Packing::room(std::size_t floats) { return memory_.emplace_back(floats).data(); }

Linear Packing::add_linear(const std::string& name, LinearPlace* place) {
  const std::size_t weight = find(name + ".weight"), bias = find(name + ".bias");
  const Parameter& shape = parameters_[weight];
  const std::size_t size = shape.padded_size();
  const Matrix matrix{weight, bias, room(size), room(size), room(parameters_[bias].padded_size())};
  matrices_.push_back(matrix);
  *place = {shape.offset, parameters_[bias].offset};
  return {shape.stride(), shape.padded_rows(), matrix.forward, matrix.backward, matrix.packed_bias};
}

Linear Packing::add_head(const std::string& name, LinearPlace* place) {
  const Linear head = add_linear(name, place);
  // A state that is none has no probability.
  float* bias = matrices_.back().packed_bias;
  std::fill(bias + dims_.model.n_states, bias + dims_.states, -1e30f);
  return head;
}

Norm Packing::add_norm(const std::string& name, NormPlace* place) {
  const std::size_t weight = find(name + ".weight"), bias = find(name + ".bias");
  const Vector scale{weight, room(parameters_[weight].padded_size())};
  const Vector shift{bias, room(parameters_[bias].padded_size())};
  vectors_.push_back(scale);
  vectors_.push_back(shift);
  *place = {parameters_[weight].offset, parameters_[bias].offset};
  return {scale.packed, shift.packed};
}

void Packing::pack(const std::vector<const float*>& values, Team& team, int n_threads) {
  team.run(matrices_.size(), n_threads, [&](int, std::size_t i) { pack_matrix(matrices_[i], values); });
  for (const Vector& vector : vectors_)
    std::copy_n(values[vector.parameter], parameters_[vector.parameter].columns, vector.packed);
  weights_.embedding = values[find("embedding.weight")];
  if (dims_.model.learned_position) weights_.position = values[find("position.weight")];
  if (dims_.model.markov_head) weights_.markov = values[find("markov.weight")];
}

void Packing::pack_matrix(const Matrix& matrix, const std::vector<const float*>& values) const {
  const Parameter& shape = parameters_[matrix.weight];
  const std::size_t n_in = static_cast<std::size_t>(shape.stride()),
                    n_out = static_cast<std::size_t>(shape.padded_rows());
  const float* from = values[matrix.weight];
  for (int r = 0; r < shape.rows; ++r) {
    const std::size_t row = static_cast<std::size_t>(shape.padded_row(r));
    float* forward = matrix.forward + row / kLanes * n_in * kLanes + row % kLanes;
    float* backward = matrix.backward + row * kLanes;
    for (int c = 0; c < shape.columns; c += shape.column_chunk) {
      const int first = Parameter::place(c, shape.column_chunk, shape.column_padded);
      const int width = std::min(shape.column_chunk, shape.columns - c);
      for (int i = 0; i < width; ++i) {
        const float value = *from++;
        const std::size_t column = static_cast<std::size_t>(first + i);
        forward[column * kLanes] = value;
        backward[column / kLanes * n_out * kLanes + column % kLanes] = value;
      }
    }
  }
  const Parameter& bias = parameters_[matrix.bias];
  for (int c = 0; c < bias.columns; ++c)
    matrix.packed_bias[Parameter::place(c, bias.column_chunk, bias.column_padded)] = values[matrix.bias][c];
}

}  // namespace nanomd::train
