// One window of a training step, and the memory of the thread that works on it.
#pragma once

#include <cstdint>

#include "train/layout.h"
#include "train/rows.h"

namespace nanomd::train {

enum class Objective { kOnePass, kTwoPassToken, kTwoPassHidden };

// What the backward pass of a layer reads; see window.h for the names.
struct LayerMemory {
  float *x, *in1, *in2;  // [T][x_row]; with pre-norm in1 is x
  Moments *moments1, *moments2;
  float* qkv;            // [T][qkv_row], rotated, queries scaled by 1 / sqrt(d_head)
  float* probabilities;  // [head][T / 16][span][16]: keys by queries
  float* o;              // [T][o_row]
  float* u;              // [T][m_row]
};
inline constexpr int kMaxLayers = 12;
struct PassMemory {
  LayerMemory layer[kMaxLayers];
  float* out;  // [T][x_row]
};

struct ThreadMemory {
  PassMemory pass[2];
  float *dx, *d_first;                // [T][x_row]
  float *d_qkv, *d_o;                 // [T][qkv_row], [T][o_row]
  float *h, *t, *b;                   // [block_rows][x_row]
  float *g, *du;                      // [block_rows][m_row]
  float* scores;                      // [span][16]
  float* turned;                      // [head][16]
  float *logits, *head_in, *head_dh;  // [head_rows][logit_row], [head_rows][x_row] twice
  float* ahead_dh;                    // [head_rows][x_row]: of the heads of lags
  Moments* moments;                   // [head_rows]
  Moments* block_moments;             // [block_rows]
  std::int32_t* pending;              // [T]: states drawn by the token objective
  std::uint8_t* keep;                 // [site of both passes][T][d / 8]: units that dropout keeps
};

// Part of a window that a layer works on: rows before `begin` are read as keys alone.
struct Range {
  int begin, end;
};

struct WindowTask {
  const Dims* dims;
  const Weights* weights;
  const Places* places;
  ThreadMemory* memory;
  Objective objective;
  bool two_passes;
  // Rotary tables [T][head]: [cos | cos] and [-sin | sin]; null for learned positions.
  const float *cosine, *sine;
  std::int32_t* tokens;          // [T], padded; those that are read, replaced in place by the token objective
  const std::int32_t* targets;   // [T]
  const float* weight;           // [T], of each target over that of the step
  const std::uint8_t* replaced;  // [T]: whether the second pass reads another state, or the hidden one, there
  const double* draw;            // [T]: the uniform that chooses that state
  Range scored;                  // from the first target that counts to past the last
  std::uint64_t dropout_key;
  std::uint32_t window;   // its number in the step
  float* gradient;        // Places
  std::uint8_t* touched;  // [V]: tokens that have a gradient
  const float* ahead;     // [lags]: what turns a weight into that of a target further ahead
  double loss;            // out
  double ahead_loss;      // out: the term of the heads of lags, which `loss` leaves out
  float* out;             // [T][d_model], of Window::features
};

// Rows whose units dropout decides on (dropout.h).
struct DropoutDraw {
  std::uint64_t key;
  std::uint32_t window;
  int site, first_row, rows, width;
};

// One range of a sweep over the output layer (sweep.h).
// A range of contexts, those of a state together, and the memory of the thread that works on it.
struct SweepTask {
  int states, padded_states;  // V
  int width, padded_width;    // features, the constant one of the bias included
  int logit_row, x_row;
  const float* head;      // packed [padded_states / 16][padded_width][16]
  const float* table;     // [V][V], added by current state
  const float* weights;   // [V][V], of a transition
  const float* features;  // [n][width]
  const std::int64_t *current, *following;
  std::ptrdiff_t n;
  std::int64_t first_state;  // of the rows of `transitions`
  float *logits, *x;         // [64][logit_row], [64][x_row]
  float *row_sum, *recent;   // [padded_states], [padded_states][padded_width]
  double* transitions;       // [states of the range][V], added to
  double* moments;           // [V][width], added to; null where they are not wanted
  double loss;
};
inline constexpr int kSweepRows = 64;

}  // namespace nanomd::train
