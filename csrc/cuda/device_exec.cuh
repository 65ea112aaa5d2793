// What a thread of tile.h is on a GPU. The host's twin is emulator.h.
#pragma once

#include <cooperative_groups.h>

#include <cstdint>

#include "words.h"

namespace nanomd::cuda {

template <bool kInCluster>
struct DeviceExec {
  static constexpr bool kCluster = kInCluster;
  unsigned char* memory;

  __device__ __forceinline__ int rank() const {
    if constexpr (kCluster) return static_cast<int>(cooperative_groups::this_cluster().block_rank());
    return 0;
  }
  __device__ __forceinline__ int ranks() const {
    if constexpr (kCluster) return static_cast<int>(cooperative_groups::this_cluster().num_blocks());
    return 1;
  }
  __device__ __forceinline__ int thread() const { return static_cast<int>(threadIdx.x); }
  __device__ __forceinline__ int warp() const { return static_cast<int>(threadIdx.x) / 32; }
  __device__ __forceinline__ int lane() const { return static_cast<int>(threadIdx.x) % 32; }
  __device__ __forceinline__ unsigned char* shared() const { return memory; }

  __device__ __forceinline__ void sync() const { __syncthreads(); }
  __device__ __forceinline__ void sync_warp() const { __syncwarp(); }
  __device__ __forceinline__ void sync_all() const {
    if constexpr (kCluster) {
      cooperative_groups::this_cluster().sync();
    } else {
      __syncthreads();
    }
  }

  template <class T>
  __device__ __forceinline__ T shuffle_xor(T value, int mask) const {
    return __shfl_xor_sync(0xFFFFFFFFu, value, mask);
  }

  // acc += A B: sixteen outputs by eight trajectories, sixteen inputs; half operands, float sums.
  __device__ __forceinline__ void multiply_add(float (&acc)[4], const Words4& a, const Words2& b) const {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(acc[0]), "+f"(acc[1]), "+f"(acc[2]), "+f"(acc[3])
        : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b.x), "r"(b.y));
  }

  // Weights never change during a launch: through the read-only path, kept in L1.
  __device__ __forceinline__ Words4 load_constant(const unsigned char* from) const {
    const uint4 v = __ldg(reinterpret_cast<const uint4*>(from));
    return {v.x, v.y, v.z, v.w};
  }
  template <class T>
  __device__ __forceinline__ T constant(const T* from) const {
    return __ldg(from);
  }
  // Keys and values stream past L1, which they would only empty of weights.
  __device__ __forceinline__ Words4 load_cache(const unsigned char* from) const {
    const uint4 v = __ldcg(reinterpret_cast<const uint4*>(from));
    return {v.x, v.y, v.z, v.w};
  }
  __device__ __forceinline__ Floats4 load_cache_floats(const unsigned char* from) const {
    const float4 v = __ldcg(reinterpret_cast<const float4*>(from));
    return {v.x, v.y, v.z, v.w};
  }

  template <class T>
  __device__ __forceinline__ void publish(T* to, T value) const {
    if constexpr (kCluster) {
      const auto cluster = cooperative_groups::this_cluster();
      const unsigned n = cluster.num_blocks();
      for (unsigned r = 0; r < n; ++r) *cluster.map_shared_rank(to, r) = value;
    } else {
      *to = value;
    }
  }
  __device__ __forceinline__ void raise(std::uint32_t* status, std::uint32_t bit) const { atomicOr(status, bit); }

  // The compiler may not fuse products and sums (--fmad=false): two kernels would round differently. Here it is written
  // out.
  static __device__ __forceinline__ float fma(float a, float b, float c) { return __fmaf_rn(a, b, c); }
  static __device__ __forceinline__ float max(float a, float b) { return fmaxf(a, b); }
  static __device__ __forceinline__ float sqrt(float x) { return sqrtf(x); }
  static __device__ __forceinline__ float exp(float x) { return expf(x); }
  static __device__ __forceinline__ double exp(double x) { return ::exp(x); }
  static __device__ __forceinline__ double log(double x) { return ::log(x); }
  static __device__ __forceinline__ float exp2(float x) { return exp2f(x); }
};

}  // namespace nanomd::cuda
