#pragma once
// Which backend compiles this file, and the markers every declaration uses.
// * ELMAN_FN: a function of kernel code. ELMAN_BOTH: also callable at the launch, constexpr. ELMAN_EXPORT: visible outside the library.
// * The build says which backend it means (-DELMAN_DEVICE). nvcc without `-x cu` takes a .cu.cc file for host C++ and would
//   build the CPU library without a word, so a mismatch stops here.
#if defined(ELMAN_DEVICE) && !defined(__CUDACC__)
#error "ELMAN_DEVICE is set, but the compiler does not compile CUDA: pass -x cu to nvcc"
#elif !defined(ELMAN_DEVICE) && defined(__CUDACC__)
#error "nvcc compiles CUDA, but ELMAN_DEVICE is not set: pass -DELMAN_DEVICE"
#endif

#include <stddef.h>
#include <stdint.h>

#define ELMAN_EXPORT extern "C" __attribute__((visibility("default")))

#ifdef ELMAN_DEVICE
#define ELMAN_FN __device__ __forceinline__
#define ELMAN_BOTH __host__ __device__ constexpr
namespace elman {
using Stream = cudaStream_t;
}
#else
#include <elman/host/host.h>
#define ELMAN_FN inline
#define ELMAN_BOTH constexpr
namespace elman {
using Stream = void*;
}
#endif
