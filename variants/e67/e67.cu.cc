// h[t] = keep h[t-1] + (1 - keep) tanh(x),  keep = sigmoid(a + w_a h[t-1]): equations 1 and 2 of README.md; proj is (a, x).
#include <elman/families/pointwise_recurrence.cuh>

#include "elman_args.h"

using namespace elman::pointwise;

namespace e67 {
struct Step : SelfGate {
  static constexpr int inputs = 2, vectors = 1;
  static constexpr bool biased = true;

  template <class S, class A> static ELMAN_FN Term<A, 2, 1> update(A h, const A (&in)[2], const A (&vec)[1]) {
    const Gate<A> keep = gate<S>(in[0] + vec[0] * h);
    const A u = tanh_for<S>(in[1]), d_a = keep.slope() * (h - u);
    return {keep.open * h + keep.shut * u, keep.open + d_a * vec[0], {d_a, keep.shut * elman::tanh_slope(u)}, {d_a * h}};
  }
};
}  // namespace e67

ELMAN_FORWARD(a) { return forward<e67::Step, args::Constant>("e67_forward", a, side_by_side<2>(a.proj, a.D), {a.w_a}); }
ELMAN_BACKWARD(a) {
  return backward<e67::Step, args::Constant>("e67_backward", a, side_by_side<2>(a.proj, a.D), {a.w_a},
                                             side_by_side<2>(a.d_proj, a.D), {a.w_a_part});
}
