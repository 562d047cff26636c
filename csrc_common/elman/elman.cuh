#pragma once
// The one include of a kernel file, besides a family and the generated "elman_args.h".
// Kernel code names nothing of CUDA: no threadIdx, __shared__, <<<>>>, intrinsics or inline PTX. It then compiles for both backends.
#include <elman/copy.cuh>
#include <elman/exchange.cuh>
#include <elman/launch.cuh>
#include <elman/math.cuh>
#include <elman/mma.cuh>
#include <elman/shared.cuh>
#include <elman/sync.cuh>
#include <elman/types.cuh>
#include <elman/warp.cuh>
