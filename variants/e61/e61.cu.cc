// h[t] = keep h[t-1] + (1 - keep) v,  keep = sigmoid(a): equations 1 to 3 of README.md, and the forms that its options name.
// proj is (a, v), or one p for both.
#include <elman/families/pointwise_recurrence.cuh>

#include "elman_args.h"

using namespace elman::pointwise;

namespace e61 {
enum { MIX, SUM, SHARED };

struct Step : SelfGate {
  static constexpr int inputs = args::Constant::I, vectors = 0;
  static constexpr bool biased = true;

  template <class S, class A> static ELMAN_FN Term<A, inputs, 1> update(A h, const A (&in)[inputs], const A (&)[1]) {
    const Gate<A> keep = gate<S>(in[0]);
    if constexpr (args::Constant::FORM == SHARED) {
      const A u = tanh_for<S>(in[0]);
      return {keep.open * h + keep.shut * u, keep.open, {keep.slope() * (h - u) + keep.shut * elman::tanh_slope(u)}};
    } else if constexpr (args::Constant::FORM == SUM) {
      return {keep.open * h + in[1], keep.open, {keep.slope() * h, 1}};
    } else {
      return {keep.open * h + keep.shut * in[1], keep.open, {keep.slope() * (h - in[1]), keep.shut}};
    }
  }
};
}  // namespace e61

ELMAN_FORWARD(a) { return forward<e61::Step, args::Constant>("e61_forward", a, side_by_side<args::Constant::I>(a.proj, a.D)); }
ELMAN_BACKWARD(a) {
  return backward<e61::Step, args::Constant>("e61_backward", a, side_by_side<args::Constant::I>(a.proj, a.D),
                                             side_by_side<args::Constant::I>(a.d_proj, a.D));
}
