// Wide loads, and the marker for tile functions: device code under nvcc, ordinary templates for the emulation on the
// host.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#  define NANOMD_TILE __device__ __forceinline__
#  define NANOMD_CALL __device__ __noinline__  // a call: inlined, it would take registers in the whole kernel
#  define NANOMD_UNROLL _Pragma("unroll")
#  define NANOMD_NO_UNROLL _Pragma("unroll 1")
#else
#  define NANOMD_TILE inline
#  define NANOMD_CALL inline
#  define NANOMD_UNROLL
#  define NANOMD_NO_UNROLL
#endif

namespace nanomd::cuda {

// Where a kernel finds the weights: in device memory, in shared memory, or in the one that its arguments say.
enum class Weights { kStreamed, kResident, kEither };

struct alignas(8) Words2 {
  std::uint32_t x, y;
};
struct alignas(16) Words4 {
  std::uint32_t x, y, z, w;
};
struct alignas(16) Floats4 {
  float x, y, z, w;
};

// Reads that the memory system serves in one piece. The host copies, since it may not reinterpret types. Wide: one of
// these, or any type of 4, 8 or 16 bytes.
template <class Wide>
NANOMD_TILE Wide load_wide(const void* from) {
#if defined(__CUDA_ARCH__)
  return *static_cast<const Wide*>(from);
#else
  Wide value;
  std::memcpy(&value, from, sizeof value);
  return value;
#endif
}

template <class Wide>
NANOMD_TILE void store_wide(void* to, const Wide& value) {
#if defined(__CUDA_ARCH__)
  *static_cast<Wide*>(to) = value;
#else
  std::memcpy(to, &value, sizeof value);
#endif
}

}  // namespace nanomd::cuda
