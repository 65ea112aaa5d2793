// Rotary phases, exact at any position: frequencies are integer multiples of 2 pi / 2^32, so the phase of position p is
// the exact integer p * m_i mod 2^32, read as signed so that the angle lies in [-pi, pi).
#pragma once

#include <cmath>
#include <cstdint>

namespace nanomd {

// multipliers[half] -> cos[half], sin[half]; angles in double, results rounded to float.
inline void rope_angles(const std::uint32_t* multipliers, int half, std::uint64_t position, float* cos, float* sin) {
  constexpr double kUnit = 6.283185307179586476925286766559 / 4294967296.0;
  const std::uint32_t wrapped = static_cast<std::uint32_t>(position);
  for (int i = 0; i < half; ++i) {
    const std::int32_t phase = static_cast<std::int32_t>(wrapped * multipliers[i]);  // wraps: that is the modulus
    const double angle = static_cast<double>(phase) * kUnit;
    cos[i] = static_cast<float>(std::cos(angle));
    sin[i] = static_cast<float>(std::sin(angle));
  }
}

}  // namespace nanomd
