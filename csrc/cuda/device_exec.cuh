// What a thread of tile.h is on a GPU. The host's twin is csrc/tests/emulation/emulator.h.
#pragma once

#include <cstdint>

#include "layout.h"
#include "words.h"

namespace nanomd::cuda {

// Calls: inlined, their many constants would take registers in the whole kernel.
__device__ __noinline__ inline double exp_call(double x) { return ::exp(x); }
__device__ __noinline__ inline double log_call(double x) { return ::log(x); }

// kInCluster: its block is one of a cluster, whose ranks share a tile.
template <bool kInCluster>
struct DeviceExec {
  static constexpr bool kCluster = kInCluster;
  static constexpr Weights kWeights = kInCluster ? Weights::kEither : Weights::kStreamed;
  unsigned char* memory;

  // Clusters in PTX: their C++ wrappers do not compile for architectures without them.
  __device__ __forceinline__ int rank() const {
    int rank = 0;
    if constexpr (kCluster) asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
  }
  __device__ __forceinline__ int ranks() const {
    int ranks = 1;
    if constexpr (kCluster) asm("mov.u32 %0, %%cluster_nctarank;" : "=r"(ranks));
    return ranks;
  }
  // Volatile: what follows from a thread's place must be computed anew in each phase. Kept in registers from one phase
  // to the next, as the compiler would have it, it makes the kernels spill.
  __device__ __forceinline__ int thread() const {
    int thread;
    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
    return thread;
  }
  // The same value, of unknown origin: addresses that follow from it are computed where they are used. The compiler
  // would keep them in registers throughout, and spill.
  static __device__ __forceinline__ int fresh(int value) {
    asm volatile("" : "+r"(value));
    return value;
  }
  __device__ __forceinline__ int warp() const { return thread() / 32; }
  __device__ __forceinline__ int lane() const { return thread() % 32; }
  __device__ __forceinline__ unsigned char* shared() const { return memory; }
  __device__ __forceinline__ unsigned char* block_shared() const { return memory; }
  __device__ __forceinline__ int team() const { return 0; }
  __device__ __forceinline__ int teams() const { return 1; }

  __device__ __forceinline__ void sync_start() const { sync_all(); }
  __device__ __forceinline__ void sync() const { __syncthreads(); }
  __device__ __forceinline__ void sync_warp() const { __syncwarp(); }
  __device__ __forceinline__ void sync_all() const {
    if constexpr (kCluster) {
      __syncwarp();  // the aligned barrier wants whole warps
      // Release and acquire: stores to shared and device memory before the barrier are seen by all blocks after it.
      asm volatile("barrier.cluster.arrive.release.aligned;\n\tbarrier.cluster.wait.acquire.aligned;" ::: "memory");
    } else {
      __syncthreads();
    }
  }

  template <class T>
  __device__ __forceinline__ T shuffle_xor(T value, int mask) const {
    return __shfl_xor_sync(0xFFFFFFFFu, value, mask);
  }

  template <class T>
  __device__ __forceinline__ T shuffle(T value, int lane) const {
    return __shfl_sync(0xFFFFFFFFu, value, lane);
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
      const int n = ranks();
      for (int r = 0; r < n; ++r) {
        std::uint64_t there;
        asm("mapa.u64 %0, %1, %2;" : "=l"(there) : "l"(reinterpret_cast<std::uint64_t>(to)), "r"(r));
        *reinterpret_cast<T*>(there) = value;
      }
    } else {
      *to = value;
    }
  }
  __device__ __forceinline__ void raise(std::uint32_t* status, std::uint32_t bit) const { atomicOr(status, bit); }
  __device__ __forceinline__ void count(std::uint32_t* counter, std::uint32_t n) const { atomicAdd(counter, n); }

  // The compiler may not fuse products and sums (--fmad=false): two kernels would round differently. Here it is written
  // out.
  static __device__ __forceinline__ float fma(float a, float b, float c) { return __fmaf_rn(a, b, c); }
  static __device__ __forceinline__ float max(float a, float b) { return fmaxf(a, b); }
  static __device__ __forceinline__ float sqrt(float x) { return sqrtf(x); }
  static __device__ __forceinline__ float exp(float x) { return expf(x); }
  static __device__ __forceinline__ double exp(double x) { return exp_call(x); }
  static __device__ __forceinline__ double log(double x) { return log_call(x); }
  static __device__ __forceinline__ float exp2(float x) { return exp2f(x); }
};

// A team: 256 threads of a block that share nothing with its other teams but the resident weights, and wait for nobody
// else. The second dimension of the block counts them.
struct TeamExec : DeviceExec<false> {
  static constexpr Weights kWeights = Weights::kResident;
  unsigned char* block;

  __device__ __forceinline__ TeamExec(unsigned char* block_memory, std::uint32_t team_bytes)
      : DeviceExec<false>{block_memory + threadIdx.y * team_bytes}, block(block_memory) {}
  __device__ __forceinline__ unsigned char* block_shared() const { return block; }
  __device__ __forceinline__ int team() const { return static_cast<int>(threadIdx.y); }
  __device__ __forceinline__ int teams() const { return static_cast<int>(blockDim.y); }
  __device__ __forceinline__ void sync_start() const { __syncthreads(); }
  __device__ __forceinline__ void sync() const {
    __syncwarp();  // the aligned barrier wants whole warps
    asm volatile("bar.sync %0, %1;" ::"r"(team() + 1), "n"(kThreads) : "memory");
  }
  __device__ __forceinline__ void sync_all() const { sync(); }
};

}  // namespace nanomd::cuda
