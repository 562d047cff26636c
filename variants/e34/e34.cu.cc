// h[t] = tanh(proj + delta h[t-1]), read out as h silu(h): equations 2 and 3 of README.md.
#include <elman/families/pointwise_recurrence.cuh>

#include "elman_args.h"

using namespace elman::pointwise;

namespace e34 {
struct Step : SelfGate {
  static constexpr int inputs = 1, vectors = 1;
  static constexpr bool biased = true;

  template <class S, class A> static ELMAN_FN Term<A, 1, 1> update(A h, const A (&in)[1], const A (&vec)[1]) {
    const A u = tanh_for<S>(in[0] + vec[0] * h), d = elman::tanh_slope(u);
    return {u, d * vec[0], {d}, {d * h}};
  }
};
}  // namespace e34

ELMAN_FORWARD(a) { return forward<e34::Step, args::Constant>("e34_forward", a, side_by_side<1>(a.proj, a.D), {a.delta}); }
ELMAN_BACKWARD(a) {
  return backward<e34::Step, args::Constant>("e34_backward", a, side_by_side<1>(a.proj, a.D), {a.delta},
                                             side_by_side<1>(a.d_proj, a.D), {a.delta_part});
}
