#pragma once
// Which backend compiles this file, and the markers every declaration uses.
// * ELMAN_FN: a function of kernel code. ELMAN_BOTH: also callable at the launch, constexpr. ELMAN_EXPORT: visible outside the library.
// * ELMAN_DIVISION: a function of the compiler's time alone, whose answer only divides the work: every answer that compiles gives a right
//   kernel, which `verify --prove` holds it to.
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
#define ELMAN_DIVISION __host__ __device__ consteval
#define ELMAN_SITE
#define ELMAN_COMMA_SITE
#define ELMAN_SAME_SITE
#define ELMAN_COMMA_SAME_SITE
namespace elman {
using Stream = cudaStream_t;
}
#else
#include <elman/host/host.h>
#define ELMAN_FN inline
#define ELMAN_BOTH constexpr
#define ELMAN_DIVISION consteval
// Last parameters of a wrapper: where kernel code called it (the place of the call, since the optimiser duplicates addresses).
// SAME_SITE hands the own caller's place on, so that a helper's error names its user. COMMA_: after other parameters.
#define ELMAN_SITE const char *file = __builtin_FILE(), int line = __builtin_LINE()
#define ELMAN_COMMA_SITE , ELMAN_SITE
#define ELMAN_SAME_SITE file, line
#define ELMAN_COMMA_SAME_SITE , file, line
namespace elman {
using Stream = void*;
}
#endif
