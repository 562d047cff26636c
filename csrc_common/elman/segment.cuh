#pragma once
// shfl_within<W>: the value of lane `source` of each aligned group of W lanes; cheaper than warp.cuh's shfl where `source` is known to the
// compiler, since no lane has to compute whom it asks. All 32 lanes take part.
#include <elman/warp.cuh>

namespace elman {
#ifdef ELMAN_DEVICE
template <int W, class T> ELMAN_FN T shfl_within(T v, int source) { return __shfl_sync(~0u, v, source, W); }
#else
template <int W, class T> inline T shfl_within(T v, int source, ELMAN_SITE) {
  return shfl(v, (int)(lane() / W * W) + source, file, line);
}
#endif
}  // namespace elman
