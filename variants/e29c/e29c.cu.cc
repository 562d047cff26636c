// Equations 2 to 7 of README.md; q = clip(g_z z + g_r r + g_h h + b_g). W_xz x is a torch product.
#include <elman/families/tape_recurrence.cuh>

#include "elman_args.h"

namespace e29c {
struct Step {
  static constexpr int vectors = 4;
  static constexpr int clip = 20;
  template <class A> static ELMAN_FN elman::tape::Score<A> score(A z, A r, A h, const A (&g)[4]) {
    // Without a branch: a warp would take both ways, and two channels one after the other.
    const A q = g[0] * z + g[1] * r + g[2] * h + g[3], cut = q < 0 ? A(-clip) : A(clip);
    const bool free = !(elman::abs_of(q) >= clip);
    const auto kept = [&](A x) { return free ? x : A(0); };
    return {free ? q : cut, kept(g[0]), kept(g[1]), kept(g[2]), {kept(z), kept(r), kept(h), kept(1)}};
  }
};
}  // namespace e29c

ELMAN_FORWARD(a) { return elman::tape::forward<e29c::Step, args::Constant, args::scalar>("e29c_forward", a, a.gate); }
ELMAN_BACKWARD(a) { return elman::tape::backward<e29c::Step, args::Constant, args::scalar>("e29c_backward", a, a.gate, a.gate_part); }
