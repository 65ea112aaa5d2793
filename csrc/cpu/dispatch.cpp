// The choice of instruction set at run time, and the sizes that all kernels share.
#include <algorithm>
#include <array>
#include <cstdlib>

#include "kernels.h"
#include "nanomd/check.h"

namespace nanomd {

namespace {
std::array<const Kernels*, 3> all_kernels() { return {&avx512_kernels(), &avx2_kernels(), &sse2_kernels()}; }
}  // namespace

const Kernels& choose_kernels(const std::string& name) {
  std::string wanted = name;
  if (wanted.empty()) {
    const char* forced = std::getenv("NANOMD_ISA");
    if (forced != nullptr) wanted = forced;
  }
  for (const Kernels* kernels : all_kernels()) {
    if (!wanted.empty() && wanted != kernels->name) continue;
    if (kernels->supported()) return *kernels;
    if (!wanted.empty())
      throw UnsupportedError(join("this processor has no ", wanted, "; leave NANOMD_ISA empty to choose what it has"));
  }
  throw InputError(join("the instruction set must be one of avx512, avx2, sse2, got ", wanted));
}

std::vector<std::string> available_isas() {
  std::vector<std::string> names;
  for (const Kernels* kernels : all_kernels())
    if (kernels->supported()) names.emplace_back(kernels->name);
  return names;
}

KeyValueLayout lane_layout(const ModelShape& shape) {
  const std::size_t per_head = static_cast<std::size_t>(round_up(shape.context_length)) * shape.d_head() * kLanes;
  const std::size_t total = per_head * shape.n_kv_head * shape.n_layer;
  return {per_head, per_head, total, total};
}

KeyValueLayout column_layout(const ModelShape& shape) {
  const std::size_t slots = static_cast<std::size_t>(round_up(shape.context_length));
  const std::size_t keys = slots * shape.d_head(), values = slots * round_up(shape.d_head());
  const std::size_t heads = static_cast<std::size_t>(shape.n_kv_head) * shape.n_layer;
  return {keys, values, keys * heads, values * heads};
}

Scratch::Scratch(const ModelShape& shape) {
  static_assert(kMaxColumns >= kLanes);
  const auto rows = [](int width) { return AlignedBuffer(static_cast<std::size_t>(round_up(width)) * kMaxColumns); };
  const std::size_t slots = static_cast<std::size_t>(round_up(shape.context_length));
  const std::size_t heads = static_cast<std::size_t>(shape.n_head);
  x = rows(shape.d_model);
  h = rows(shape.d_model);
  qkv = rows(shape.d_qkv());
  attention = rows(shape.d_model);
  mlp = rows(shape.d_mlp);
  logits = rows(shape.n_choices());
  if (shape.grouped()) {
    const std::size_t width = static_cast<std::size_t>(round_up(shape.largest_group()));
    gathered = AlignedBuffer(static_cast<std::size_t>(round_up(shape.d_model)) * kSharing);
    members = AlignedBuffer(width * kSharing);
  }
  if (!shape.learned_position) {
    angles = AlignedBuffer(static_cast<std::size_t>(2 * round_up(shape.d_head() / 2)) * kAngleRows);
    angle_phase.assign(kAngleRows, ~std::uint64_t{0});
  }
  narrow = AlignedBuffer(static_cast<std::size_t>(round_up(2 * shape.d_kv())));
  // Lanes: [slot][16] of one head. Columns: [head][slot], a factor per head, and [head][feature padded].
  scores = AlignedBuffer(std::max(
      slots * kLanes, heads * (slots + round_up(shape.d_head())) + static_cast<std::size_t>(round_up(shape.n_head))));
}

}  // namespace nanomd
