// One step through the model, from top to bottom: the same for the lanes kernel (decode_lanes.h) and the columns kernel
// (decode_columns.h), which say how each line is computed.
#pragma once

#include "nanomd/model.h"

namespace nanomd {

// Activations of a step: [column][stride] in the columns kernel, [feature][16] in the lanes kernel.
struct Rows {
  float* data;
  int stride;
};

// Pass: LanePass or ColumnPass; linear() hands its results to the last argument.
template <class Pass>
void forward(Pass& pass, const Model& model) {
  const ModelShape& shape = model.shape;
  const bool pre = shape.pre_norm;
  // The residual stream, and what the products read: its LayerNorm; with post-norm the stream itself.
  const Rows x = pass.x, h = pre ? pass.h : x;

  pass.embed();  // token and position
  for (int l = 0; l < shape.n_layer; ++l) {
    const LayerWeights& layer = model.layers[l];
    if (pre) pass.norm(layer.norm1, x, h);
    pass.linear(layer.qkv, h, pass.put(pass.qkv));         // queries, keys, values
    if (!pass.attend(l)) return;                           // rotate, remember, attend; nobody reads further
    pass.linear(layer.proj, pass.attention, pass.add(x));  // x += attention
    pass.norm(pre ? layer.norm2 : layer.norm1, x, h);
    if (shape.gelu)
      pass.linear(layer.up, h, pass.put_gelu(pass.mlp));  // hidden layer
    else
      pass.linear(layer.up, h, pass.put_relu(pass.mlp));
    pass.linear(layer.down, pass.mlp, pass.add(x));  // x += MLP
    if (!pre) pass.norm(layer.norm2, x, x);
  }
  if (pre) pass.norm(model.norm, x, h);
  pass.linear(model.head, h, pass.put_logits());
  pass.remember(h);  // for the states of the group drawn
  if (model.markov != nullptr) pass.add_markov();
}

}  // namespace nanomd
