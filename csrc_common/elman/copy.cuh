#pragma once
// Asynchronous copies from global to shared memory (cp.async), 16 bytes each, both addresses multiples of 16.
// * copy16_async starts one, copy_commit closes a group, copy_wait<N> waits until at most the last N groups are in flight.
// * A wait covers the own thread's copies only: sync_block before other threads read them.
// * The host carries a copy out at its wait, so a missing wait reads NaN.
// * prefetch: bring the 32 bytes around an address of global memory into the L2 cache; a hint, without a result to wait for.
#include <elman/launch.cuh>

namespace elman {
#ifdef ELMAN_DEVICE
ELMAN_FN void copy16_async(void* shared_to, const void* global_from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"((unsigned)__cvta_generic_to_shared(shared_to)), "l"(global_from)
               : "memory");
}
ELMAN_FN void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
ELMAN_FN void prefetch(const void* global) { asm volatile("prefetch.global.L2 [%0];" ::"l"(global)); }
template <int N> ELMAN_FN void copy_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory"); }
#else
inline void copy16_async(void* shared_to, const void* global_from, ELMAN_SITE) {
  host::copy16_async(shared_to, global_from, file, line);
}
inline void copy_commit() { host::copy_commit(); }
inline void prefetch(const void*) {}
template <int N> inline void copy_wait() { host::copy_wait(N); }
#endif
}  // namespace elman
