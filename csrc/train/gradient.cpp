#include "train/gradient.h"

#include <algorithm>
#include <cmath>

#include "nanomd/check.h"

namespace nanomd::train {

namespace {
constexpr int kPieceFloats = 8192;  // of a piece, at least
}

Gradient::Gradient(const std::vector<Parameter>& parameters, const Kernels& kernels, std::size_t size, int n_states)
    : parameters_(parameters),
      kernels_(kernels),
      n_states_(n_states),
      total_(size),
      touched_(static_cast<std::size_t>(n_states), 0),
      was_touched_(touched_) {
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    const int height = std::max(1, kPieceFloats / parameters[i].stride());
    for (int row = 0; row < parameters[i].padded_rows(); row += height)
      pieces_.push_back({i, row, std::min(height, parameters[i].padded_rows() - row)});
  }
  squares_.resize(pieces_.size());
}

void Gradient::make_groups(int n_groups) {
  while (groups_.size() < static_cast<std::size_t>(n_groups))
    groups_.push_back(std::make_unique<GroupGradient>(total_.size(), n_states_));
}

void Gradient::clear(GroupGradient& group) const {
  for (const Parameter& parameter : parameters_) {
    float* own = group.values.data() + parameter.offset;
    if (!parameter.by_token) {
      std::fill_n(own, parameter.padded_size(), 0.0f);
      continue;
    }
    for (std::size_t token = 0; token < group.touched.size(); ++token)
      if (group.touched[token]) std::fill_n(own + token * parameter.stride(), parameter.stride(), 0.0f);
  }
  std::fill(group.touched.begin(), group.touched.end(), std::uint8_t{0});
}

void Gradient::add_up(int n_groups, Team& team, int n_threads) {
  was_touched_ = touched_;
  for (std::size_t token = 0; token < touched_.size(); ++token) {
    touched_[token] = 0;
    for (int g = 0; g < n_groups; ++g) touched_[token] |= groups_[g]->touched[token];
  }
  team.run(pieces_.size(), n_threads, [&](int, std::size_t i) { squares_[i] = add_piece(pieces_[i], n_groups); });
  double square = 0.0;
  for (const double piece : squares_) square += piece;
  norm_ = std::sqrt(square);
}

// The sum of squares of the piece.
double Gradient::add_piece(const Piece& piece, int n_groups) {
  const Parameter& parameter = parameters_[piece.parameter];
  const std::size_t stride = static_cast<std::size_t>(parameter.stride());
  double square = 0.0;
  const auto add_rows = [&](int first, int n) {
    const std::size_t offset = parameter.offset + static_cast<std::size_t>(first) * stride;
    const std::size_t size = static_cast<std::size_t>(n) * stride;
    std::fill_n(total_.data() + offset, size, 0.0f);
    for (int g = 0; g < n_groups; ++g)
      if (!parameter.by_token || groups_[g]->touched[first])
        kernels_.add(groups_[g]->values.data() + offset, total_.data() + offset, size);
    square += kernels_.square(total_.data() + offset, size);
  };
  if (!parameter.by_token) {
    add_rows(piece.first, piece.rows);
    return square;
  }
  const int last = std::min(piece.first + piece.rows, parameter.rows);
  for (int row = piece.first; row < last; ++row)
    if (touched_[row] || was_touched_[row]) add_rows(row, 1);
  return square;
}

void Gradient::copy(std::size_t i, float* out) const {
  check(i < parameters_.size(), "there are ", parameters_.size(), " parameters, got ", i);
  const Parameter& parameter = parameters_[i];
  for (int row = 0; row < parameter.rows; ++row) {
    const float* from =
        total_.data() + parameter.offset + static_cast<std::size_t>(parameter.padded_row(row)) * parameter.stride();
    for (int c = 0; c < parameter.columns; ++c)
      *out++ = from[Parameter::place(c, parameter.column_chunk, parameter.column_padded)];
  }
}

void Gradient::update(const std::vector<ParameterMemory>& memory, const AdamW& rule, float decay, Team& team,
                      int n_threads) const {
  team.run(pieces_.size(), n_threads, [&](int, std::size_t i) {
    const std::size_t parameter = pieces_[i].parameter;
    AdamW own = rule;
    own.decay = parameters_[parameter].decayed ? decay : 0.0f;
    update_piece(pieces_[i], memory[parameter], own);
  });
}

void Gradient::update_piece(const Piece& piece, const ParameterMemory& memory, const AdamW& rule) const {
  const Parameter& parameter = parameters_[piece.parameter];
  for (int row = 0; row < parameter.rows; ++row) {
    const int padded = parameter.padded_row(row);
    if (padded < piece.first || padded >= piece.first + piece.rows) continue;
    const float* gradient = total_.data() + parameter.offset + static_cast<std::size_t>(padded) * parameter.stride();
    for (int c = 0; c < parameter.columns; c += parameter.column_chunk) {
      const std::size_t at = static_cast<std::size_t>(row) * parameter.columns + c;
      kernels_.update(rule, gradient + Parameter::place(c, parameter.column_chunk, parameter.column_padded),
                      memory.value + at, memory.first + at, memory.second + at,
                      static_cast<std::size_t>(std::min(parameter.column_chunk, parameter.columns - c)));
    }
  }
}

}  // namespace nanomd::train
