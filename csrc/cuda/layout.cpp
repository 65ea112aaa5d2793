#include "layout.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "ahead.h"
#include "nanomd/check.h"

namespace nanomd::cuda {

namespace {

constexpr std::size_t kAlign = 256;
constexpr std::size_t kDraftFloats = std::size_t{1} << 20;  // of one table of drafts: 4 MiB

std::size_t aligned(std::size_t n, std::size_t to = kAlign) { return (n + to - 1) / to * to; }
int ceil_div(int a, int b) { return (a + b - 1) / b; }

struct Cursor {
  std::size_t at = 0;
  std::size_t take(std::size_t bytes) {
    const std::size_t start = at;
    at = aligned(at + bytes);
    return start;
  }
};

LinearLayout linear(Cursor& cursor, int n_out, int n_in, bool precise) {
  LinearLayout layout;
  layout.n_blocks = ceil_div(n_out, kBlockRows);
  layout.k_steps = ceil_div(n_in, kStepDepth);
  const std::size_t bytes = static_cast<std::size_t>(layout.n_blocks) * layout.k_steps * kFragmentBytes;
  layout.hi = static_cast<std::uint32_t>(cursor.take(bytes));
  if (precise) layout.lo = static_cast<std::uint32_t>(cursor.take(bytes));
  layout.bias = static_cast<std::uint32_t>(cursor.take(static_cast<std::size_t>(layout.n_blocks) * kBlockRows * 4));
  return layout;
}

WeightLayout make_weights(const NetworkShape& s, bool precise) {
  const std::size_t d = static_cast<std::size_t>(s.d_model), V = static_cast<std::size_t>(s.n_states);
  WeightLayout w;
  Cursor layer;
  w.qkv = linear(layer, s.d_qkv(), s.d_model, precise);
  w.proj = linear(layer, s.d_model, s.d_model, precise);
  w.up = linear(layer, s.d_mlp, s.d_model, precise);
  w.down = linear(layer, s.d_model, s.d_mlp, precise);
  w.norm1 = static_cast<std::uint32_t>(layer.take(2 * d * 4));
  w.norm2 = static_cast<std::uint32_t>(layer.take(2 * d * 4));
  w.layer_bytes = layer.at;
  Cursor model;
  model.at = w.layer_bytes * static_cast<std::size_t>(s.n_layer);
  w.head = linear(model, s.n_states, s.d_model, precise);
  w.norm = model.take(2 * d * 4);
  w.embedding = model.take(V * d * 4);
  if (s.learned_position) w.position = model.take(static_cast<std::size_t>(s.context_length) * d * 4);
  if (s.markov_head) w.markov = model.take(V * V * 4);
  if (!s.learned_position) w.multipliers = model.take(static_cast<std::size_t>(s.d_head() / 2) * 4);
  w.total_bytes = model.at;
  return w;
}

// Counts the fragments that one rank keeps: its blocks of every linear map.
void place_resident(WeightLayout& w, int n_layer, int ranks) {
  int at = 0;
  for (LinearLayout* linear : {&w.qkv, &w.proj, &w.up, &w.down}) {
    linear->resident = static_cast<std::uint32_t>(at);
    at += ceil_div(linear->n_blocks, ranks) * linear->k_steps;
  }
  w.resident_layer = at;
  w.head.resident = static_cast<std::uint32_t>(at * n_layer);
  w.resident_fragments = at * n_layer + ceil_div(w.head.n_blocks, ranks) * w.head.k_steps;
}

void place_cache(Layout& layout) {
  const NetworkShape& s = layout.shape;
  layout.head_cache = static_cast<std::size_t>(layout.slots()) * static_cast<std::size_t>(layout.d_head);
  layout.cache_elements =
      static_cast<std::size_t>(s.n_layer) * static_cast<std::size_t>(s.n_kv_head) * 2 * layout.head_cache;
}

SharedLayout make_shared(const Layout& layout, bool logits_in_shared, std::size_t guard) {
  const NetworkShape& s = layout.shape;
  const std::size_t T = static_cast<std::size_t>(layout.tile), parts = layout.precise ? 2 : 1;
  const auto region = [&](std::size_t& at, std::size_t bytes) {
    const std::size_t start = at;
    at = aligned(at + bytes, 16) + guard;
    return static_cast<std::uint32_t>(start);
  };
  SharedLayout m;
  m.guard = static_cast<std::uint32_t>(guard);
  // float rows: stride = 4 mod 32 words; half rows: 16 mod 64 halves.
  m.x_stride = round_up(s.d_model, 32) + 4;
  m.q_stride = m.x_stride;
  m.act_stride = round_up(s.d_model, 64) + 16;
  m.hid_stride = round_up(s.d_mlp, 64) + 16;
  m.logits_in_shared = logits_in_shared;
  m.logit_stride = round_up(s.n_states, 32) + 4;
  std::size_t at = 0;
  m.x = region(at, T * m.x_stride * 4);
  m.act = region(at, parts * T * m.act_stride * 2);
  const std::size_t logit_bytes = logits_in_shared ? T * m.logit_stride * 4 : 0;
  // Queries, hidden layer and logits live one after the other. In a cluster a fast rank may already send queries while
  // a slow one still samples, so there the logits have memory of their own.
  const std::size_t common = std::max(T * m.q_stride * 4, parts * T * m.hid_stride * 2);
  m.q = m.hid = region(at, layout.ranks == 1 ? std::max(common, logit_bytes) : common);
  m.logits = layout.ranks == 1 ? m.q : region(at, logit_bytes);
  m.drafts = region(at, layout.teams == 1 ? sizeof(DraftState) : 0);  // teams do not look ahead
  m.team_bytes = static_cast<std::uint32_t>(at);
  at *= static_cast<std::size_t>(layout.teams);
  m.resident = region(at, static_cast<std::size_t>(layout.weights.resident_fragments) * kFragmentBytes);
  m.total_bytes = at;
  return m;
}

}  // namespace

Layout make_layout(const NetworkShape& shape, bool precise, int tile, int ranks, std::size_t shared_limit,
                   bool resident, std::size_t guard, int teams) {
  check(tile == 8 || tile == 16, "tile must be 8 or 16 trajectories, got ", tile);
  check(ranks >= 1 && ranks <= kLargestRanks, "ranks must be in [1, ", kLargestRanks, "], got ", ranks);
  check(!precise || tile == 8, "precision fp32 takes tiles of 8 trajectories, got ", tile);
  if (shape.d_head() > 256)
    throw UnsupportedError(join("the cuda engine takes heads of up to 256 features, this model has ", shape.d_head(),
                                "; use backend=\"cpu\""));
  Layout layout;
  layout.shape = shape;
  layout.precise = precise;
  layout.tile = tile;
  layout.d_head = shape.d_head();
  place_cache(layout);
  layout.ranks = ranks;
  layout.query_scale = static_cast<float>(1.4426950408889634 / std::sqrt(static_cast<double>(shape.d_head())));
  layout.weights = make_weights(shape, precise);
  if (layout.weights.layer_bytes > 0xFFFFFFFFu || layout.weights.total_bytes > 0xFFFFFFFFu)
    throw UnsupportedError("the cuda engine takes weights of up to 4 GiB; use backend=\"cpu\"");
  if (resident && !precise) {
    Layout trial = layout;
    trial.teams = teams;
    place_resident(trial.weights, shape.n_layer, ranks);
    trial.shared = make_shared(trial, true, guard);
    if (trial.shared.total_bytes <= shared_limit) return trial;
  }
  // A wide vocabulary must not cost a second block its place on the multiprocessor: up to 72 KiB, or what the rest
  // takes.
  layout.shared = make_shared(layout, false, guard);
  const SharedLayout with_logits = make_shared(layout, true, guard);
  if (with_logits.total_bytes <= std::max<std::size_t>(layout.shared.total_bytes, 72 << 10) &&
      with_logits.total_bytes <= shared_limit)
    layout.shared = with_logits;
  if (layout.shared.total_bytes > shared_limit)
    throw UnsupportedError(join("the cuda engine needs ", layout.shared.total_bytes,
                                " bytes of shared memory a block for this ", "model (d_model ", shape.d_model,
                                ", d_mlp ", shape.d_mlp, "), the device has ", shared_limit, "; use backend=\"cpu\""));
  return layout;
}

Layout with_lookahead(Layout layout, int columns) {
  const std::size_t V = static_cast<std::size_t>(layout.shape.n_states);
  if (!layout.shared.logits_in_shared) return layout;
  // A draft must not overwrite a slot that another one of the same pass reads as its own.
  layout.ahead = std::min({columns, kTileColumns, layout.shape.context_length});
  layout.draft_rows = static_cast<int>(std::min(V * V, std::max<std::size_t>(kDraftFloats / V, 1)));
  layout.draft_bytes = static_cast<std::size_t>(layout.draft_rows) * 4 * (1 + V);
  place_cache(layout);
  return layout;
}

}  // namespace nanomd::cuda
