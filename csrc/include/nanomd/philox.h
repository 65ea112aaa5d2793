// Philox4x32-10 (Salmon, Moraes, Dror, Shaw 2011): counter-based random numbers, the same on every backend.
// A random number is a pure function of (seed, step, trajectory), so a trajectory depends on neither batch, thread,
// shard nor restart.
#pragma once

#include <array>
#include <cstdint>

#include "nanomd/host_device.h"

namespace nanomd {

struct PhiloxBlock {
  std::uint32_t word[4];
};

// counter = (step, trajectory), 64 bits each, low words first; key = seed.
NANOMD_HOST_DEVICE PhiloxBlock philox(std::uint64_t seed, std::uint64_t step, std::uint64_t trajectory) {
  constexpr std::uint32_t kMultiplier0 = 0xD2511F53u, kMultiplier1 = 0xCD9E8D57u;
  constexpr std::uint32_t kWeyl0 = 0x9E3779B9u, kWeyl1 = 0xBB67AE85u;
  std::uint32_t c0 = static_cast<std::uint32_t>(step), c1 = static_cast<std::uint32_t>(step >> 32);
  std::uint32_t c2 = static_cast<std::uint32_t>(trajectory), c3 = static_cast<std::uint32_t>(trajectory >> 32);
  std::uint32_t k0 = static_cast<std::uint32_t>(seed), k1 = static_cast<std::uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t p0 = static_cast<std::uint64_t>(kMultiplier0) * c0;
    const std::uint64_t p1 = static_cast<std::uint64_t>(kMultiplier1) * c2;
    c0 = static_cast<std::uint32_t>(p1 >> 32) ^ c1 ^ k0;
    c1 = static_cast<std::uint32_t>(p1);
    c2 = static_cast<std::uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c3 = static_cast<std::uint32_t>(p0);
    k0 += kWeyl0;
    k1 += kWeyl1;
  }
  return {{c0, c1, c2, c3}};
}

// Two words -> a double in [0, 1) on the grid of 2^-53. 24-bit uniforms would forbid events rarer than 6e-8.
NANOMD_HOST_DEVICE double uniform53(std::uint32_t high, std::uint32_t low) {
  const std::uint64_t bits = (static_cast<std::uint64_t>(high) << 32) | low;
  return static_cast<double>(bits >> 11) * 0x1.0p-53;
}

// The uniform that draws the state of `step` of `trajectory`: the contract of every rollout engine.
NANOMD_HOST_DEVICE double rollout_uniform(std::uint64_t seed, std::uint64_t step, std::uint64_t trajectory) {
  const PhiloxBlock block = philox(seed, step, trajectory);
  return uniform53(block.word[0], block.word[1]);
}

}  // namespace nanomd
