// h[t] = keep h[t-1] + (1 - keep) tanh(h[t-1] + x),  keep = sigmoid(a): equations 1 and 2 of README.md; proj is (a, x).
#include <elman/families/pointwise_recurrence.cuh>

#include "elman_args.h"

using namespace elman::pointwise;

namespace e64 {
struct Step : SelfGate {
  static constexpr int inputs = 2, vectors = 0;
  static constexpr bool biased = true;

  template <class S, class A> static ELMAN_FN Term<A, 2, 1> update(A h, const A (&in)[2], const A (&)[1]) {
    const Gate<A> keep = gate<S>(in[0]);
    const A u = tanh_for<S>(h + in[1]), d_x = keep.shut * elman::tanh_slope(u);
    return {keep.open * h + keep.shut * u, keep.open + d_x, {keep.slope() * (h - u), d_x}};
  }
};
}  // namespace e64

ELMAN_FORWARD(a) { return forward<e64::Step, args::Constant>("e64_forward", a, side_by_side<2>(a.proj, a.D)); }
ELMAN_BACKWARD(a) {
  return backward<e64::Step, args::Constant>("e64_backward", a, side_by_side<2>(a.proj, a.D),
                                             side_by_side<2>(a.d_proj, a.D));
}
