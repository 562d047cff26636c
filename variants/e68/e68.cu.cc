// h[t] = keep h[t-1] + (1 - keep) tanh(x) sigmoid(w_g h[t-1] + b_g),  keep = sigmoid(a): equations 1 and 2 of README.md; proj
// is (a, x). The inhibiting form has -w_g |h[t-1]| in place of w_g h[t-1].
#include <elman/families/pointwise_recurrence.cuh>

#include "elman_args.h"

using namespace elman::pointwise;

namespace e68 {
struct Step : SelfGate {
  static constexpr int inputs = 2, vectors = 2;
  static constexpr bool biased = true;

  template <class S, class A> static ELMAN_FN Term<A, 2, 2> update(A h, const A (&in)[2], const A (&vec)[2]) {
    // What the gate sees of the state, and its derivative: 0 at a state of 0.
    const A seen = args::Constant::INHIBIT ? -elman::abs_of(h) : h, d_seen = args::Constant::INHIBIT ? A(h < 0) - A(h > 0) : A(1);
    const Gate<A> keep = gate<S>(in[0]), write = gate<S>(vec[0] * seen + vec[1]);
    const A u = tanh_for<S>(in[1]), v = u * write.open, d_g = keep.shut * u * write.slope();
    return {keep.open * h + keep.shut * v,
            keep.open + d_g * vec[0] * d_seen,
            {keep.slope() * (h - v), keep.shut * write.open * elman::tanh_slope(u)},
            {d_g * seen, d_g}};
  }
};
}  // namespace e68

ELMAN_FORWARD(a) { return forward<e68::Step, args::Constant>("e68_forward", a, side_by_side<2>(a.proj, a.D), {a.w_g, a.b_g}); }
ELMAN_BACKWARD(a) {
  return backward<e68::Step, args::Constant>("e68_backward", a, side_by_side<2>(a.proj, a.D), {a.w_g, a.b_g},
                                             side_by_side<2>(a.d_proj, a.D), {a.w_g_part, a.b_g_part});
}
