// h[t] = (1 - z) h[t-1] + z g(u),  z = sigmoid(k): equations 1 and 2 of README.md; proj is (u, k).
#include <elman/families/pointwise_recurrence.cuh>

#include "elman_args.h"

using namespace elman::pointwise;

namespace mingru {
struct Step : Plain {
  static constexpr int inputs = 2, vectors = 0;
  static constexpr bool biased = false;

  template <class S, class A> static ELMAN_FN Term<A, 2, 1> update(A h, const A (&in)[2], const A (&)[1]) {
    const Positive<A> g = positive<S>(in[0]);
    const Gate<A> z = gate<S>(in[1]);
    return {z.shut * h + z.open * g.value, z.shut, {z.open * g.slope, z.slope() * (g.value - h)}};
  }
};
}  // namespace mingru

ELMAN_FORWARD(a) { return forward<mingru::Step, args::Constant>("mingru_forward", a, side_by_side<2>(a.proj, a.D)); }
ELMAN_BACKWARD(a) {
  return backward<mingru::Step, args::Constant>("mingru_backward", a, side_by_side<2>(a.proj, a.D),
                                                side_by_side<2>(a.d_proj, a.D));
}
