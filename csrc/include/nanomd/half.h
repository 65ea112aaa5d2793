// IEEE 754 binary16 for weights and caches: rounded to nearest even on the way in, widened exactly on the way out. The
// processor's own conversions (F16C) give the same bits as these.
// Always inlined: files compiled for different instruction sets must not share a copy.
#pragma once

#include <bit>
#include <cstdint>

namespace nanomd {

struct Half {
  std::uint16_t bits;
};

inline constexpr float kLargestHalf = 65504.0f;

[[gnu::always_inline]] inline float widen(Half half) {
  const std::uint32_t sign = (half.bits & 0x8000u) << 16, magnitude = half.bits & 0x7fffu;
  if (magnitude >= 0x7c00u) return std::bit_cast<float>(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);
  // Moved to the place of the float's exponent and mantissa, the number is too small by 2^112, subnormals too.
  const float value = std::bit_cast<float>(magnitude << 13) * 0x1.0p112f;
  return std::bit_cast<float>(std::bit_cast<std::uint32_t>(value) | sign);
}

[[gnu::always_inline]] inline Half narrow(float value) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(value), magnitude = bits & 0x7fffffffu;
  const std::uint16_t sign = static_cast<std::uint16_t>((bits >> 16) & 0x8000u);
  std::uint32_t half;
  if (magnitude > 0x7f800000u) {
    half = 0x7e00u;  // not a number
  } else if (magnitude >= 0x477ff000u) {
    half = 0x7c00u;  // 65520 and more: infinity
  } else if (magnitude < 0x38800000u) {
    // Subnormal: adding 1/2 makes the float's own addition round at 2^-24, and leaves the result in the low bits.
    half = std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude) + 0.5f) - 0x3f000000u;
  } else {
    half = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  }
  return {static_cast<std::uint16_t>(sign | half)};
}

}  // namespace nanomd
