// Half precision as plain bits, so that the same tile code compiles with and without CUDA headers. On the host it is
// half.h; the device's own conversions give the same bits.
#pragma once

#include <cstdint>

#include "nanomd/half.h"
#include "nanomd/host_device.h"

#if defined(__CUDACC__)
#  include <cuda_fp16.h>
#endif

namespace nanomd {

// To nearest, ties to even; beyond 65504 infinity, which the sampler reports.
NANOMD_HOST_DEVICE std::uint16_t half_bits(float value) {
#if defined(__CUDA_ARCH__)
  return __half_as_ushort(__float2half_rn(value));
#else
  return narrow(value).bits;
#endif
}

NANOMD_HOST_DEVICE float half_value(std::uint16_t bits) {
#if defined(__CUDA_ARCH__)
  return __half2float(__ushort_as_half(bits));
#else
  return widen(Half{bits});
#endif
}

}  // namespace nanomd
