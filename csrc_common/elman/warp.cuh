#pragma once
// Exchange of values within a warp. All 32 lanes take part, none under a lane-dependent branch.
// * shfl: lane `source`. shfl_xor: lane ^ mask. shfl_up, shfl_down: the lane `delta` below or above, the own value at the end.
// * ballot: bit i is lane i's predicate. warp_sum<W>, warp_max<W>: over each aligned group of W lanes, the same bits in every lane of it.
// * They exchange values only. To order memory use sync_warp.
#include <elman/launch.cuh>

namespace elman {
#ifdef ELMAN_DEVICE
template <class T> ELMAN_FN T shfl(T v, int source) { return __shfl_sync(~0u, v, source); }
template <class T> ELMAN_FN T shfl_xor(T v, int mask) { return __shfl_xor_sync(~0u, v, mask); }
template <class T> ELMAN_FN T shfl_up(T v, unsigned delta) { return __shfl_up_sync(~0u, v, delta); }
template <class T> ELMAN_FN T shfl_down(T v, unsigned delta) { return __shfl_down_sync(~0u, v, delta); }
ELMAN_FN unsigned ballot(bool predicate) { return __ballot_sync(~0u, predicate); }
#else
template <class T> inline T shfl_from(T v, unsigned source, const char* op, const char* file, int line) {
  static_assert(sizeof(T) <= 8, "a shuffle moves 4 or 8 bytes");
  const host::Slot* slots = host::exchange(&v, sizeof v, op, file, line);
  __builtin_memcpy(&v, slots[source & 31u].bytes, sizeof v);
  return v;
}
template <class T> inline T shfl(T v, int source, ELMAN_SITE) { return shfl_from(v, (unsigned)source, "shfl", file, line); }
template <class T> inline T shfl_xor(T v, int mask, ELMAN_SITE) {
  return shfl_from(v, lane() ^ (unsigned)mask, "shfl_xor", file, line);
}
template <class T> inline T shfl_up(T v, unsigned delta, ELMAN_SITE) {
  return shfl_from(v, lane() >= delta ? lane() - delta : lane(), "shfl_up", file, line);
}
template <class T> inline T shfl_down(T v, unsigned delta, ELMAN_SITE) {
  return shfl_from(v, lane() + delta < 32 ? lane() + delta : lane(), "shfl_down", file, line);
}
inline unsigned ballot(bool predicate, ELMAN_SITE) {
  const host::Slot* slots = host::exchange(&predicate, sizeof predicate, "ballot", file, line);
  unsigned bits = 0;
  for (unsigned i = 0; i < 32; ++i) bits |= (unsigned)(slots[i].bytes[0] != 0) << i;
  return bits;
}
#endif

template <int W = 32, class T> ELMAN_FN T warp_sum(T v ELMAN_COMMA_SITE) {
  static_assert(W >= 1 && W <= 32 && (W & (W - 1)) == 0, "a group of lanes is a power of two");
#pragma unroll
  for (int mask = W / 2; mask > 0; mask /= 2) v += shfl_xor(v, mask ELMAN_COMMA_SAME_SITE);
  return v;
}

template <int W = 32, class T> ELMAN_FN T warp_max(T v ELMAN_COMMA_SITE) {
  static_assert(W >= 1 && W <= 32 && (W & (W - 1)) == 0, "a group of lanes is a power of two");
#pragma unroll
  for (int mask = W / 2; mask > 0; mask /= 2) {
    const T other = shfl_xor(v, mask ELMAN_COMMA_SAME_SITE);
    v = v < other ? other : v;
  }
  return v;
}
}  // namespace elman
