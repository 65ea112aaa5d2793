// The output layer: logits of a few rows at a time, cross-entropy, and its gradient; no logits of a window in memory.
//
// With p the softmax of row t and w its weight over that of the step, the loss is -w ln p[target] and the gradient of
// the logits w (p - [target]). In a state that changes once in 10^4 frames p[target] is 1 to float32: its residual is
// therefore minus the sum of the others, which keeps its digits.
#pragma once

#include <cmath>

#include "nanomd/sampling.h"
#include "train/dropout.h"
#include "train/gemm.h"
#include "train/rows.h"
#include "train/task.h"

namespace nanomd::train {

// Of a row of logits: the largest; and, in place, their exponentials less that one.
template <class Vec>
float top_of(const float* z, int width) {
  Vec top = Vec::load(z);
  for (int k = 16; k < width; k += 16) top = max(top, Vec::load(z + k));
  return max_elements(top);
}
template <class Vec>
void exponentials(float* z, int width, float top) {
  for (int k = 0; k < width; k += 16) exp_vec(Vec::load(z + k) - Vec::set(top)).store(z + k);
}

// Logits -> their gradient, in place; returns the weighted loss.
template <class Vec>
double residual(float* z, int width, std::int64_t target, float weight) {
  const float top = top_of<Vec>(z, width), below = top - z[target];
  exponentials<Vec>(z, width, top);
  const float own = z[target];
  z[target] = 0.0f;
  Vec sum = Vec::set(0.0f);
  for (int k = 0; k < width; k += 16) sum = sum + Vec::load(z + k);
  const float others = sum_elements(sum);
  const double all = static_cast<double>(others) + static_cast<double>(own);
  z[target] = -others;
  Rows<Vec>::multiply(z, width, static_cast<float>(static_cast<double>(weight) / all));
  // Where the target is the likeliest, all = 1 + others: the logarithm of a double keeps what float32 would lose.
  return static_cast<double>(weight) * (static_cast<double>(below) + std::log(all));
}

template <class Vec>
class Output {
 public:
  explicit Output(WindowTask& task) : task_(task), D(*task.dims), M(*task.memory) {}

  // x [T][x_row] -> the loss, dx of the scored rows, and the gradients of the layer.
  double loss(const float* x, float* dx) const {
    double total = 0.0;
    for (int first = task_.scored.begin; first < task_.scored.end; first += D.head_rows) {
      const int rest = task_.scored.end - first, rows = rest < D.head_rows ? rest : D.head_rows;
      const std::ptrdiff_t place = static_cast<std::ptrdiff_t>(first) * D.x_row;
      total += block(x + place, dx + place, first, rows);
    }
    return total;
  }

  // The token objective: states drawn from the prediction of row t replace the token at t + 1.
  void replace(const float* x) const {
    int drawn[64];
    for (int t = 1; t < task_.scored.end;) {
      int rows = 0;
      for (; t < task_.scored.end && rows < D.head_rows; ++t)
        if (task_.replaced[t]) {
          copy(x + static_cast<std::ptrdiff_t>(t - 1) * D.x_row, M.head_in + rows * D.x_row);
          drawn[rows++] = t;
        }
      if (rows == 0) continue;
      if (D.model.pre_norm)
        Rows<Vec>::norm(task_.weights->norm, D.model.d_model, M.head_in, M.head_in, M.moments, rows, D.d, D.x_row);
      logits(task_.weights->head, M.head_in, rows);
      int state[64];
      for (int r = 0; r < rows; ++r) {  // all are drawn before one is replaced: the rows before them are read
        float* z = row_of(r);
        add_markov(z, task_.tokens[drawn[r] - 1]);
        exponentials<Vec>(z, D.states, top_of<Vec>(z, D.states));
        state[r] = sample_state(z, D.model.n_states, task_.draw[drawn[r]]);
      }
      for (int r = 0; r < rows; ++r) M.pending[drawn[r]] = state[r];
    }
    for (int t = 1; t < task_.scored.end; ++t)
      if (task_.replaced[t] && M.pending[t] >= 0) task_.tokens[t] = M.pending[t];
  }

 private:
  double block(const float* x, float* dx, int first, int rows) const {
    const Linear& head = task_.weights->head;
    const bool pre = D.model.pre_norm;
    const WindowDropout<Vec> dropout(task_, D.dropout.final);
    const float* h = x;
    if (pre) {
      Rows<Vec>::norm(task_.weights->norm, D.model.d_model, x, M.head_in, M.moments, rows, D.d, D.x_row);
      h = M.head_in;
    }
    if (!D.lags.empty()) look_ahead(h, first, rows);
    if (!pre && dropout.on()) {
      for (int r = 0; r < rows; ++r) copy(x + r * D.x_row, M.head_in + r * D.x_row);
      h = M.head_in;
    }
    if (dropout.on()) dropout.drop(kFinalSite, first, rows, M.head_in);
    logits(head, h, rows);
    double total = 0.0;
    for (int r = 0; r < rows; ++r) total += row(first + r, row_of(r));
    float* dh = pre ? M.head_dh : dx;
    Product<Vec>::set(rows, D.d / 16, D.states, {M.logits, D.logit_row, 1}, {head.backward, head.n_out * 16, 16},
                      {dh, D.x_row});
    head_gradient(task_.places->head, h, rows);
    if (dropout.on()) dropout.drop_again(kFinalSite, first, rows, dh);
    if (!D.lags.empty()) Rows<Vec>::add(dh, M.ahead_dh, dh, rows, D.d, D.x_row);
    if (pre) {
      const NormPlace& norm = task_.places->norm;
      Rows<Vec>::norm_backward(task_.weights->norm, D.model.d_model, x, M.moments, dh, nullptr, dx,
                               task_.gradient + norm.weight, task_.gradient + norm.bias, rows, D.d, D.x_row);
    }
    return total;
  }

  // Logits of row t -> their gradient; returns the weighted loss.
  double row(int t, float* z) const {
    const float weight = task_.weight[t];
    if (weight == 0.0f) {
      Rows<Vec>::zero(z, D.states);
      return 0.0;
    }
    const std::int32_t token = task_.tokens[t], target = task_.targets[t];
    add_markov(z, token);
    const double loss = residual<Vec>(z, D.states, target, weight);
    if (task_.weights->markov != nullptr) {
      float* to = task_.gradient + task_.places->markov + static_cast<std::ptrdiff_t>(token) * D.states;
      for (int k = 0; k < D.states; k += 16) (Vec::load(to + k) + Vec::load(z + k)).store(to + k);
    }
    return loss;
  }

  // Heads of lags, on what the output layer reads before its dropout: their loss, their gradients and M.ahead_dh. The
  // target of row t at lag k is the state of row t + k, which must count itself.
  void look_ahead(const float* h, int first, int rows) const {
    Rows<Vec>::zero(M.ahead_dh, static_cast<std::size_t>(rows) * D.x_row);
    for (std::size_t i = 0; i < D.lags.size(); ++i) {
      const Linear& head = task_.weights->lookahead[i];
      logits(head, h, rows);
      for (int r = 0; r < rows; ++r) {
        const int t = first + r, to = t + D.lags[i] - 1;
        const float weight = to < D.length && task_.weight[to] > 0.0f ? task_.weight[t] * task_.ahead[i] : 0.0f;
        if (weight == 0.0f)
          Rows<Vec>::zero(row_of(r), D.states);
        else
          task_.ahead_loss += residual<Vec>(row_of(r), D.states, task_.targets[to], weight);
      }
      Product<Vec>::add(rows, D.d / 16, D.states, {M.logits, D.logit_row, 1}, {head.backward, head.n_out * 16, 16},
                        {M.ahead_dh, D.x_row});
      head_gradient(task_.places->lookahead[i], h, rows);
    }
  }

  // The gradient of a head's own weights, from that of its logits.
  void head_gradient(const LinearPlace& place, const float* h, int rows) const {
    Product<Vec>::add(D.states, D.d / 16, rows, {M.logits, 1, D.logit_row}, {h, 16, D.x_row},
                      {task_.gradient + place.weight, D.d});
    Rows<Vec>::add_columns(M.logits, rows, D.states, D.logit_row, task_.gradient + place.bias);
  }

  void logits(const Linear& head, const float* h, int rows) const {
    Product<Vec>::set(rows, D.states / 16, D.d, {h, D.x_row, 1}, {head.forward, head.n_in * 16, 16},
                      {M.logits, D.logit_row}, head.bias);
  }
  float* row_of(int r) const { return M.logits + static_cast<std::ptrdiff_t>(r) * D.logit_row; }

  void add_markov(float* z, std::int32_t token) const {
    if (task_.weights->markov == nullptr) return;
    const int V = D.model.n_states, whole = V / 16 * 16;
    const float* row = task_.weights->markov + static_cast<std::ptrdiff_t>(token) * V;
    for (int k = 0; k < whole; k += 16) (Vec::load(z + k) + Vec::load_any(row + k)).store(z + k);
    for (int k = whole; k < V; ++k) z[k] += row[k];
  }
  void copy(const float* from, float* to) const {
    for (int f = 0; f < D.d; f += 16) Vec::load(from + f).store(to + f);
  }

  WindowTask& task_;
  const Dims& D;
  ThreadMemory& M;
};

}  // namespace nanomd::train
