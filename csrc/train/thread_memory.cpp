#include "train/thread_memory.h"

namespace nanomd::train {

ThreadBuffers::ThreadBuffers(const Dims& dims, int passes) : pending_(static_cast<std::size_t>(dims.length), -1) {
  const auto rows = [&](int n, int row) { return floats(static_cast<std::size_t>(n) * row); };
  const int T = dims.length, block = dims.block_rows;
  for (int pass = 0; pass < passes; ++pass) make_pass(dims, memory.pass[pass]);
  memory.dx = rows(T, dims.x_row);
  memory.d_first = rows(T, dims.x_row);
  memory.d_qkv = rows(T, dims.qkv_row);
  memory.d_o = rows(T, dims.o_row);
  memory.h = rows(block, dims.x_row);
  memory.t = rows(block, dims.x_row);
  memory.g = rows(block, dims.m_row);
  memory.du = rows(block, dims.m_row);
  memory.scores = rows(dims.span, kLanes);
  memory.turned = rows(dims.head, kLanes);
  memory.logits = rows(dims.head_rows, dims.logit_row);
  memory.head_in = rows(dims.head_rows, dims.x_row);
  memory.head_dh = rows(dims.head_rows, dims.x_row);
  if (!dims.lags.empty()) memory.ahead_dh = rows(dims.head_rows, dims.x_row);
  memory.moments = moments(static_cast<std::size_t>(dims.head_rows));
  memory.block_moments = moments(static_cast<std::size_t>(block));
  memory.pending = pending_.data();
  if (dims.dropout.residual > 0.0f || dims.dropout.final > 0.0f) keep_.resize(dims.dropout_bytes());
  memory.keep = keep_.data();
}

void ThreadBuffers::make_pass(const Dims& dims, PassMemory& pass) {
  const std::size_t T = static_cast<std::size_t>(dims.length);
  for (int l = 0; l < dims.model.n_layer; ++l) {
    LayerMemory& layer = pass.layer[l];
    layer.x = floats(T * dims.x_row);
    layer.in1 = dims.model.pre_norm ? layer.x : floats(T * dims.x_row);
    layer.in2 = floats(T * dims.x_row);
    layer.moments1 = moments(T);
    layer.moments2 = moments(T);
    layer.qkv = floats(T * dims.qkv_row);
    layer.probabilities = floats(dims.probabilities);
    layer.o = floats(T * dims.o_row);
    layer.u = floats(T * dims.m_row);
  }
  pass.out = floats(T * dims.x_row);
}

float* ThreadBuffers::floats(std::size_t n) { return buffers_.emplace_back(n).data(); }

Moments* ThreadBuffers::moments(std::size_t n) {
  static_assert(sizeof(Moments) == 2 * sizeof(float));
  return reinterpret_cast<Moments*>(floats(2 * n));
}

}  // namespace nanomd::train
