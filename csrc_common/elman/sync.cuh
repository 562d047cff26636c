#pragma once
// Waiting for other threads.
// * sync_block: every thread of the block that has not returned, all at one place of the code. sync_warp: all 32 lanes. Both order
//   memory among those threads.
// * sync_roles<THREADS>: as sync_block, for a block of THREADS whose warps have different roles and come from different places:
//   a barrier with a name and a count, and not of the "aligned" kind, for which all must come from one place (compute-sanitizer says so).
// * add_release, wait_until_acquire: a counter in global memory between blocks of a cooperative launch. The add publishes what
//   its thread wrote or saw ordered before; the wait sees it once the counter has reached `target` (modulo 2^32).
// * GroupBarrier: `members` blocks that share one counter, which is zero before the launch.
// * Never wait on memory in a loop of your own: a host thread that spins stops all others.
#include <elman/launch.cuh>

namespace elman {
#ifdef ELMAN_DEVICE
ELMAN_FN void sync_block() { __syncthreads(); }
ELMAN_FN void sync_warp() { __syncwarp(); }
template <int THREADS> ELMAN_FN void sync_roles() { asm volatile("barrier.cta.sync 1, %0;" ::"n"(THREADS) : "memory"); }
ELMAN_FN void add_release(unsigned* p, unsigned v) {
  asm volatile("red.release.gpu.global.add.u32 [%0], %1;" ::"l"(p), "r"(v) : "memory");
}
ELMAN_FN void wait_until_acquire(const unsigned* p, unsigned target) {
  unsigned v;
  do asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
  while ((int)(v - target) < 0);
}
#else
inline void sync_block(ELMAN_SITE) { host::sync_block(file, line); }
inline void sync_warp(ELMAN_SITE) { host::sync_warp(file, line); }
template <int THREADS> inline void sync_roles(ELMAN_SITE) { host::sync_block(file, line); }
inline void add_release(unsigned* p, unsigned v) { host::add_release(p, v); }
inline void wait_until_acquire(const unsigned* p, unsigned target, ELMAN_SITE) {
  host::wait_until_acquire(p, target, file, line);
}
#endif

struct GroupBarrier {
  unsigned* counter;
  unsigned members;
  unsigned target = 0;

  // Wait until every member has called this as often; orders all memory among the threads of the members.
  ELMAN_FN void wait(ELMAN_SITE) {
    target += members;
    sync_block(ELMAN_SAME_SITE);
    if (thread_x() == 0) {
      add_release(counter, 1u);
      wait_until_acquire(counter, target ELMAN_COMMA_SAME_SITE);
    }
    sync_block(ELMAN_SAME_SITE);
  }
};
}  // namespace elman
