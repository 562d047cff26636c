#pragma once
// A block whose first FIRST of ALL threads, whole warps, meet among themselves, while the others prepare and finish work for them.
// * Roles<FIRST, ALL>::meet(mark): the first ones, at any place of their code. Roles<FIRST, ALL>::meet_all(mark): all of them. Both
//   order memory among those who meet. `mark` is a word of shared memory that nothing else uses.
// * The host has barriers of whole blocks only. There the others, once they are at meet_all, come to each meet of the first ones until
//   these are there too; the mark says so. Its race check therefore takes more for ordered than is; the device's does not.
#include <elman/sync.cuh>

namespace elman {
template <int FIRST, int ALL> struct Roles {
#ifdef ELMAN_DEVICE
  ELMAN_FN static void meet(unsigned*) { asm volatile("barrier.cta.sync 2, %0;" ::"n"(FIRST) : "memory"); }
  ELMAN_FN static void meet_all(unsigned*) { sync_roles<ALL>(); }
#else
  static void meet(unsigned* mark) { both(mark, false); }
  static void meet_all(unsigned* mark) {
    while (!both(mark, true)) {
    }
  }

 private:
  // Whether all are here to meet. Between the two barriers the mark may be read, from then on thread 0 may write it.
  static bool both(unsigned* mark, bool all) {
    if (thread_x() == 0) *mark = all;
    sync_block();
    const bool met = *mark;
    sync_block();
    return met;
  }
#endif
};
}  // namespace elman
