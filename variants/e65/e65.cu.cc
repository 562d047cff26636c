// h[t] = keep h[t-1] + (1 - keep) tanh(w_h h[t-1] + x),  keep = sigmoid(a): equations 1 and 2 of README.md; proj is (a, x).
#include <elman/families/pointwise_recurrence.cuh>

#include "elman_args.h"

using namespace elman::pointwise;

namespace e65 {
struct Step : SelfGate {
  static constexpr int inputs = 2, vectors = 1;
  static constexpr bool biased = true;

  template <class S, class A> static ELMAN_FN Term<A, 2, 1> update(A h, const A (&in)[2], const A (&vec)[1]) {
    const Gate<A> keep = gate<S>(in[0]);
    const A u = tanh_for<S>(vec[0] * h + in[1]), d_x = keep.shut * elman::tanh_slope(u);
    return {keep.open * h + keep.shut * u, keep.open + d_x * vec[0], {keep.slope() * (h - u), d_x}, {d_x * h}};
  }
};
}  // namespace e65

ELMAN_FORWARD(a) { return forward<e65::Step, args::Constant>("e65_forward", a, side_by_side<2>(a.proj, a.D), {a.w_h}); }
ELMAN_BACKWARD(a) {
  return backward<e65::Step, args::Constant>("e65_backward", a, side_by_side<2>(a.proj, a.D), {a.w_h},
                                             side_by_side<2>(a.d_proj, a.D), {a.w_h_part});
}
