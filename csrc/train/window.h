// Forward and backward through the model for one window, from top to bottom.
//
//   pre    in1 = x            h = LN1 in1   in2 = x + attention(h)   out = in2 + MLP(LN2 in2)
//   post   in1 = x + attention(x)           in2 = LN1 in1 + MLP(LN1 in1)        out = LN2 in2
//
// Kept for the backward pass are the residual stream before each LayerNorm with its moments, queries, keys and values,
// probabilities, attention's output and the hidden layer before its activation; what a LayerNorm or the activation gave
// is made again, which takes less time than to read it from the third-level cache. Rows that no scored target depends
// on are left out: of the last layer, burn-in is read as keys and values alone.
#pragma once

#include "train/attention.h"
#include "train/output.h"

namespace nanomd::train {

template <class Vec>
class Window {
 public:
  // Adds the gradient of the window to task.gradient; the loss to task.loss.
  static void run(WindowTask& task) {
    Window window(task);
    task.loss = window.gradient();
  }

  // What the output layer reads, without dropout: task.out [T][d_model], from task.scored.begin to its end.
  static void features(WindowTask& task) {
    Window window(task);
    PassMemory& pass = task.memory->pass[0];
    window.need(task.scored.begin);
    window.embed(pass);
    window.forward(pass, false);
    window.put_features(pass.out);
  }

 private:
  using R = Rows<Vec>;
  using P = Product<Vec>;

  explicit Window(WindowTask& of)
      : task(of),
        D(*of.dims),
        M(*of.memory),
        w(*of.weights),
        places(*of.places),
        pre(D.model.pre_norm),
        dropout(of, D.dropout.residual) {
    end_ = round_up_rows(task.scored.end);
  }

  WindowTask& task;
  const Dims& D;
  ThreadMemory& M;
  const Weights& w;
  const Places& places;
  const bool pre;
  const WindowDropout<Vec> dropout;
  // begin_[l + 1]: the first row that layer l gives, a multiple of sixteen; begin_[0]: the first that is read.
  int begin_[kMaxLayers + 1] = {};
  int first_ = 0;  // that the last layer gives, but for attention, whose queries come in sixteens
  int end_ = 0;
  int pass_ = 0;

  static int round_up_rows(int n) { return (n + 15) / 16 * 16; }
  static std::ptrdiff_t at(int index, int row) { return static_cast<std::ptrdiff_t>(index) * row; }

  // The rows that a pass has to give, and what they need of each layer.
  void need(int first) {
    first_ = first;
    begin_[D.model.n_layer] = first / 16 * 16;
    for (int l = D.model.n_layer; l > 0; --l) {
      const int low = begin_[l] - D.model.context_length + 1;
      begin_[l - 1] = low < 0 ? 0 : low / 16 * 16;
    }
  }
  int given(int l) const { return l + 1 < D.model.n_layer ? begin_[l + 1] : first_; }  // by layer l

  double gradient() {
    const bool hidden = task.two_passes && task.objective == Objective::kTwoPassHidden;
    if (task.two_passes) {
      need(0);
      embed(M.pass[0]);
      forward(M.pass[0], hidden);
      if (!hidden) Output<Vec>(task).replace(M.pass[0].out);
    }
    need(task.scored.begin);
    pass_ = hidden ? 1 : 0;
    PassMemory& last = M.pass[pass_];
    embed(last);
    if (hidden) mix(M.pass[0].out, last.layer[0].x);
    forward(last, true);
    R::zero(M.dx, static_cast<std::size_t>(end_) * D.x_row);
    const double loss = Output<Vec>(task).loss(last.out, M.dx);
    backward(last);
    if (hidden) {
      split();
      need(0);
      pass_ = 0;
      float* d_embedded = M.dx;  // what reached the embeddings directly
      M.dx = M.d_first;
      M.d_first = d_embedded;
      backward(M.pass[0]);
      R::add(M.dx, d_embedded, M.dx, end_, D.d, D.x_row);
    }
    embed_backward();
    return loss;
  }

  void put_features(const float* x) const {
    const int d = D.model.d_model, whole = d / 16 * 16;
    for_blocks(first_, [&](int first, int rows) {
      const float* from = x + at(first, D.x_row);
      if (pre) R::norm(w.norm, d, from, M.h, M.block_moments, rows, D.d, D.x_row);
      for (int r = 0; r < rows; ++r) {
        if (first + r < task.scored.begin || first + r >= task.scored.end) continue;
        const float* h = (pre ? M.h : from) + at(r, D.x_row);
        float* to = task.out + at(first + r, d);
        for (int f = 0; f < whole; f += 16) Vec::load(h + f).store_any(to + f);
        for (int f = whole; f < d; ++f) to[f] = h[f];
      }
    });
  }

  // ---- embeddings

  void embed(PassMemory& pass) const {
    const int d = D.model.d_model, whole = d / 16 * 16;
    for (int t = begin_[0]; t < end_; ++t) {
      float* x = pass.layer[0].x + at(t, D.x_row);
      const float* row = w.embedding + at(task.tokens[t], d);
      for (int f = 0; f < whole; f += 16) Vec::load_any(row + f).store(x + f);
      for (int f = whole; f < D.d; ++f) x[f] = f < d ? row[f] : 0.0f;
      if (w.position == nullptr || t >= D.model.context_length) continue;  // padding may lie beyond the last position
      const float* place = w.position + at(t, d);
      for (int f = 0; f < d; ++f) x[f] += place[f];
    }
  }

  void embed_backward() const {
    for (int t = begin_[0]; t < task.scored.end; ++t) {
      const float* dx = M.dx + at(t, D.x_row);
      add_to(dx, task.gradient + places.embedding + at(task.tokens[t], D.d));
      task.touched[task.tokens[t]] = 1;
      if (w.position != nullptr) add_to(dx, task.gradient + places.position + at(t, D.d));
    }
  }
  void add_to(const float* x, float* sum) const {
    for (int f = 0; f < D.d; f += 16) (Vec::load(sum + f) + Vec::load(x + f)).store(sum + f);
  }

  // The hidden objective: the second pass reads the first one's output in place of some embeddings.
  void mix(const float* out, float* x) const {
    for (int t = 0; t < task.scored.end; ++t)
      if (task.replaced[t])
        for (int f = 0; f < D.d; f += 16) Vec::load(out + at(t, D.x_row) + f).store(x + at(t, D.x_row) + f);
  }
  // dx of the mixture -> d_first of the first pass' output, dx of the embeddings.
  void split() const {
    R::zero(M.d_first, static_cast<std::size_t>(end_) * D.x_row);
    for (int t = 0; t < task.scored.end; ++t)
      if (task.replaced[t])
        for (int f = 0; f < D.d; f += 16) {
          Vec::load(M.dx + at(t, D.x_row) + f).store(M.d_first + at(t, D.x_row) + f);
          Vec::set(0.0f).store(M.dx + at(t, D.x_row) + f);
        }
  }

  // ---- passes

  void forward(PassMemory& pass, bool drops) const {
    const bool dropped = drops && dropout.on();
    if (dropped)
      dropout.drop(site(kEmbeddingSite), begin_[0], end_ - begin_[0], pass.layer[0].x + at(begin_[0], D.x_row));
    for (int l = 0; l < D.model.n_layer; ++l) {
      LayerMemory& layer = pass.layer[l];
      float* out = l + 1 < D.model.n_layer ? pass.layer[l + 1].x : pass.out;
      for_blocks(begin_[l], [&](int first, int rows) { project(w.layers[l], layer, first, rows); });
      Attention<Vec>(D, layer, M).forward({begin_[l + 1], end_});
      for_blocks(given(l), [&](int first, int rows) {
        float* in1 = layer.in1 + at(first, D.x_row);
        float* in2 = layer.in2 + at(first, D.x_row);
        const float* x = layer.x + at(first, D.x_row);
        linear(w.layers[l].proj, layer.o + at(first, D.o_row), D.o_row, M.t, D.x_row, rows);
        if (dropped) dropout.drop(site(kLayerSite + 2 * l), first, rows, M.t);
        R::add(x, M.t, pre ? in2 : in1, rows, D.d, D.x_row);
        if (pre)
          R::norm(w.layers[l].norm2, D.model.d_model, in2, M.h, layer.moments2 + first, rows, D.d, D.x_row);
        else
          R::norm(w.layers[l].norm1, D.model.d_model, in1, M.h, layer.moments1 + first, rows, D.d, D.x_row);
        float* u = layer.u + at(first, D.m_row);
        linear(w.layers[l].up, M.h, D.x_row, u, D.m_row, rows);
        R::activate(D.model.gelu, u, M.g, rows, D.m, D.m_row);
        linear(w.layers[l].down, M.g, D.m_row, M.t, D.x_row, rows);
        if (dropped) dropout.drop(site(kLayerSite + 2 * l + 1), first, rows, M.t);
        float* y = out + at(first, D.x_row);
        R::add(pre ? in2 : M.h, M.t, pre ? y : in2, rows, D.d, D.x_row);
        if (!pre) R::norm(w.layers[l].norm2, D.model.d_model, in2, y, layer.moments2 + first, rows, D.d, D.x_row);
      });
    }
  }

  // M.dx, the gradient of pass.out, becomes that of the embeddings that the pass has read.
  void backward(const PassMemory& pass) const {
    for (int l = D.model.n_layer - 1; l >= 0; --l) {
      const LayerMemory& layer = pass.layer[l];
      R::zero(M.d_o + at(begin_[l + 1], D.o_row), static_cast<std::size_t>(given(l) - begin_[l + 1]) * D.o_row);
      for_blocks(given(l), [&](int first, int rows) { branches_backward(l, layer, first, rows); });
      Attention<Vec>(D, layer, M).backward({begin_[l + 1], end_});
      for_blocks(begin_[l], [&](int first, int rows) { project_backward(l, layer, first, rows); });
    }
    if (dropout.on())
      dropout.drop_again(site(kEmbeddingSite), begin_[0], end_ - begin_[0], M.dx + at(begin_[0], D.x_row));
  }

  // x -> queries, keys and values, rotated
  void project(const Layer& layer, LayerMemory& memory, int first, int rows) const {
    const float* h = memory.x + at(first, D.x_row);
    if (pre) {
      R::norm(layer.norm1, D.model.d_model, h, M.h, memory.moments1 + first, rows, D.d, D.x_row);
      h = M.h;
    }
    linear(layer.qkv, h, D.x_row, memory.qkv + at(first, D.qkv_row), D.qkv_row, rows);
    turn(memory.qkv, first, rows, 1.0f);
  }

  // Rotates queries and keys, and scales the queries: forward, or the gradient on its way back.
  void turn(float* qkv, int first, int rows, float sign) const {
    const int heads = D.model.n_head, all = heads + D.model.n_kv_head;
    const float scale = 1.0f / __builtin_sqrtf(static_cast<float>(D.model.d_head()));
    for (int t = first; t < first + rows; ++t) {
      float* x = qkv + at(t, D.qkv_row);
      if (task.cosine == nullptr) {
        R::multiply(x, D.q_width, scale);
        continue;
      }
      const float *cosine = task.cosine + at(t, D.head), *sine = task.sine + at(t, D.head);
      for (int head = 0; head < all; ++head)
        R::rotate(x + head * D.head, D.model.d_head(), cosine, sine, sign, head < heads ? scale : 1.0f);
    }
  }

  // M.dx of the layer's output -> that of its input, without attention; M.d_o of attention's output.
  void branches_backward(int l, const LayerMemory& memory, int first, int rows) const {
    const Layer& layer = w.layers[l];
    const LayerPlace& place = places.layers[l];
    const int d = D.model.d_model;
    float* dx = M.dx + at(first, D.x_row);
    const float *in1 = memory.in1 + at(first, D.x_row), *in2 = memory.in2 + at(first, D.x_row);
    const Moments *moments1 = memory.moments1 + first, *moments2 = memory.moments2 + first;
    if (!pre)
      R::norm_backward(layer.norm2, d, in2, moments2, dx, nullptr, dx, task.gradient + place.norm2.weight,
                       task.gradient + place.norm2.bias, rows, D.d, D.x_row);
    const float* dy = dropped_gradient(dx, kLayerSite + 2 * l + 1, first, rows);
    linear_input(layer.down, dy, D.x_row, M.du, D.m_row, rows);
    R::activate_backward(D.model.gelu, memory.u + at(first, D.m_row), M.g, M.du, rows, D.m, D.m_row);
    linear_weights(layer.down, place.down, dy, D.x_row, M.g, D.m_row, rows);
    if (pre)
      R::apply(layer.norm2, in2, M.h, moments2, rows, D.d, D.x_row);
    else
      R::apply(layer.norm1, in1, M.h, moments1, rows, D.d, D.x_row);
    linear_weights(layer.up, place.up, M.du, D.m_row, M.h, D.x_row, rows);
    linear_input(layer.up, M.du, D.m_row, M.h, D.x_row, rows);
    if (pre) {
      R::norm_backward(layer.norm2, d, in2, moments2, M.h, dx, dx, task.gradient + place.norm2.weight,
                       task.gradient + place.norm2.bias, rows, D.d, D.x_row);
    } else {
      R::add(dx, M.h, M.h, rows, D.d, D.x_row);
      R::norm_backward(layer.norm1, d, in1, moments1, M.h, nullptr, dx, task.gradient + place.norm1.weight,
                       task.gradient + place.norm1.bias, rows, D.d, D.x_row);
    }
    dy = dropped_gradient(dx, kLayerSite + 2 * l, first, rows);
    linear_input(layer.proj, dy, D.x_row, M.d_o + at(first, D.o_row), D.o_row, rows);
    linear_weights(layer.proj, place.proj, dy, D.x_row, memory.o + at(first, D.o_row), D.o_row, rows);
  }

  // M.d_qkv -> added to M.dx
  void project_backward(int l, const LayerMemory& memory, int first, int rows) const {
    const Layer& layer = w.layers[l];
    const LayerPlace& place = places.layers[l];
    const float* x = memory.x + at(first, D.x_row);
    const float* h = x;
    float *dx = M.dx + at(first, D.x_row), *d_qkv = M.d_qkv + at(first, D.qkv_row);
    turn(M.d_qkv, first, rows, -1.0f);
    if (pre) {
      R::apply(layer.norm1, x, M.h, memory.moments1 + first, rows, D.d, D.x_row);
      h = M.h;
    }
    linear_weights(layer.qkv, place.qkv, d_qkv, D.qkv_row, h, D.x_row, rows);
    linear_input(layer.qkv, d_qkv, D.qkv_row, M.h, D.x_row, rows);
    if (pre)
      R::norm_backward(layer.norm1, D.model.d_model, x, memory.moments1 + first, M.h, dx, dx,
                       task.gradient + place.norm1.weight, task.gradient + place.norm1.bias, rows, D.d, D.x_row);
    else
      R::add(dx, M.h, dx, rows, D.d, D.x_row);
  }

  // ---- products

  static void linear(const Linear& map, const float* x, int x_row, float* y, int y_row, int rows) {
    P::set(rows, map.n_out / 16, map.n_in, {x, x_row, 1}, {map.forward, map.n_in * 16, 16}, {y, y_row}, map.bias);
  }
  static void linear_input(const Linear& map, const float* dy, int y_row, float* dx, int x_row, int rows) {
    P::set(rows, map.n_in / 16, map.n_out, {dy, y_row, 1}, {map.backward, map.n_out * 16, 16}, {dx, x_row});
  }
  void linear_weights(const Linear& map, const LinearPlace& place, const float* dy, int y_row, const float* x,
                      int x_row, int rows) const {
    P::add(map.n_out, map.n_in / 16, rows, {dy, 1, y_row}, {x, 16, x_row}, {task.gradient + place.weight, map.n_in});
    R::add_columns(dy, rows, map.n_out, y_row, task.gradient + place.bias);
  }

  // ---- helpers

  // work(first, rows), in blocks of nearly equal height.
  template <class Work>
  void for_blocks(int begin, Work work) const {
    const int all = end_ - begin, n = (all + D.block_rows - 1) / D.block_rows;
    for (int block = 0; block < n; ++block) {
      const int first = begin + block * all / n;
      work(first, begin + (block + 1) * all / n - first);
    }
  }

  int site(int place) const { return place + kSitesOfPass * pass_; }

  // The gradient of a branch before its dropout: dx itself, or what is left of it.
  const float* dropped_gradient(const float* dx, int place, int first, int rows) const {
    if (!dropout.on()) return dx;
    for (int r = 0; r < rows; ++r)
      for (int f = 0; f < D.d; f += 16) Vec::load(dx + at(r, D.x_row) + f).store(M.t + at(r, D.x_row) + f);
    dropout.drop_again(site(place), first, rows, M.t);
    return M.t;
  }
};

}  // namespace nanomd::train
