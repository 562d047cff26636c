#pragma once
// pin(a, b, ...): these pointers are computed here, and not where they are used. On the device the compiler otherwise puts the arithmetic of an
// address right before its load, which may be behind a wait that the arithmetic could fill. The host's order of it makes no difference.
#include <elman/backend.cuh>

namespace elman {
template <class... Of> ELMAN_FN void pin(const Of*&... pointers) {
#ifdef ELMAN_DEVICE
  const auto one = [](auto& pointer) { asm volatile("" : "+l"(pointer)); };
  (one(pointers), ...);
#else
  ((void)pointers, ...);
#endif
}
}  // namespace elman
