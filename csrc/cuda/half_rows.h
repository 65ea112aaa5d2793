// The half-precision inputs of products, in shared memory.
#pragma once

#include <cstdint>

#include "nanomd/cuda_half.h"
#include "words.h"

namespace nanomd::cuda {

// Half-precision input of a product. kPrecise: the rounding error is kept as a second half.
template <bool kPrecise>
struct HalfRows {
  std::uint16_t* hi;  // [T][stride]
  std::uint16_t* lo;
  int stride;

  template <class Exec>
  NANOMD_TILE void publish(Exec& exec, int trajectory, int column, float value) const {
    const int at = trajectory * stride + column;
    const std::uint16_t bits = half_bits(value);
    exec.publish(hi + at, bits);
    if constexpr (kPrecise) exec.publish(lo + at, half_bits(value - half_value(bits)));
  }
  NANOMD_TILE void store(int trajectory, int column, float value) const {
    const int at = trajectory * stride + column;
    hi[at] = half_bits(value);
    if constexpr (kPrecise) lo[at] = half_bits(value - half_value(hi[at]));
  }
};

}  // namespace nanomd::cuda
