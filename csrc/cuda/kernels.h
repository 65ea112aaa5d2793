// The instantiations of the tile code: few, because each costs compile time for every architecture.
#pragma once

#include <type_traits>

#include "arguments.h"
#include "nanomd/rope.h"
#include "words.h"

namespace nanomd::cuda {

// Query heads that share one read of keys and values.
inline int group_constant(const NetworkShape& shape) { return shape.n_head == shape.n_kv_head ? 1 : 4; }

// Calls run(tiles, group, precise) with the constants of a layout, as std::integral_constant: kTiles, kGroup and
// kPrecise of tile.h.
template <class Run>
void with_tile_constants(const Layout& layout, Run run) {
  const auto with_group = [&](auto tiles, auto precise) {
    if (group_constant(layout.shape) == 1)
      run(tiles, std::integral_constant<int, 1>{}, precise);
    else
      run(tiles, std::integral_constant<int, 4>{}, precise);
  };
  if (layout.precise)  // always tiles of 8
    with_group(std::integral_constant<int, 1>{}, std::bool_constant<true>{});
  else if (layout.tile == 16)
    with_group(std::integral_constant<int, 2>{}, std::bool_constant<false>{});
  else
    with_group(std::integral_constant<int, 1>{}, std::bool_constant<false>{});
}

// Cosines and sines of one step: all trajectories stand at the same position.
NANOMD_HOST_DEVICE void fill_angle(const Arguments& arguments, int step, int i) {
  const auto* multipliers =
      reinterpret_cast<const std::uint32_t*>(arguments.weights + arguments.layout.weights.multipliers);
  float* out = arguments.angles + static_cast<std::size_t>(step) * arguments.layout.d_head + 2 * i;
  rope_angle(multipliers[i], arguments.steps[step].angle, out[0], out[1]);
}

inline void fill_angles(const Arguments& arguments, int step) {
  if (arguments.layout.shape.learned_position) return;
  for (int i = 0; i < arguments.layout.d_head / 2; ++i) fill_angle(arguments, step, i);
}

}  // namespace nanomd::cuda
