// Rotary phases, exact at any position: frequencies are integer multiples of 2 pi / 2^32, so the phase of position p is
// the exact integer p * m_i mod 2^32, read as signed so that the angle lies in [-pi, pi).
#pragma once

#include <cmath>
#include <cstdint>

#include "nanomd/host_device.h"

namespace nanomd {

// One rotated pair: the angle in double, its cosine and sine rounded to float. Only the low 32 bits of the position
// matter.
NANOMD_HOST_DEVICE void rope_angle(std::uint32_t multiplier, std::uint32_t position, float& cos, float& sin) {
  constexpr double kUnit = 6.283185307179586476925286766559 / 4294967296.0;
  const std::int32_t phase = static_cast<std::int32_t>(position * multiplier);  // wraps: that is the modulus
  const double angle = static_cast<double>(phase) * kUnit;
  cos = static_cast<float>(std::cos(angle));
  sin = static_cast<float>(std::sin(angle));
}

// multipliers[half] -> cos[half], sin[half].
inline void rope_angles(const std::uint32_t* multipliers, int half, std::uint64_t position, float* cos, float* sin) {
  const std::uint32_t wrapped = static_cast<std::uint32_t>(position);
  for (int i = 0; i < half; ++i) rope_angle(multipliers[i], wrapped, cos[i], sin[i]);
}

}  // namespace nanomd
