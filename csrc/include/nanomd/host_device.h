// Functions that exist once and run on both sides: inline on the host, inlined device code under nvcc.
#pragma once

#if defined(__CUDACC__)
#  define NANOMD_HOST_DEVICE __host__ __device__ __forceinline__
#else
#  define NANOMD_HOST_DEVICE inline
#endif
