// h[t] = (1 - k) h[t-1] + k tanh(q),  k = sigmoid(in[0]),  q = in[1]: equations 1 to 3 of README.md. A third input decays
// h[t-1] first.
#include <elman/families/pointwise_recurrence.cuh>

#include "elman_args.h"

using namespace elman::pointwise;

namespace e62 {
struct Step : SelfGate {
  static constexpr int inputs = args::Constant::I, vectors = 0;
  static constexpr bool biased = true;

  template <class S, class A> static ELMAN_FN Term<A, inputs, 1> update(A h, const A (&in)[inputs], const A (&)[1]) {
    const Gate<A> k = gate<S>(in[0]);
    const A u = tanh_for<S>(in[1]), d_q = k.open * elman::tanh_slope(u);
    if constexpr (inputs == 3) {
      const Gate<A> keep = gate<S>(in[2]);
      const A kept = keep.open * h;
      return {k.shut * kept + k.open * u, k.shut * keep.open, {k.slope() * (u - kept), d_q, k.shut * keep.slope() * h}};
    } else {
      return {k.shut * h + k.open * u, k.shut, {k.slope() * (u - h), d_q}};
    }
  }
};
}  // namespace e62

ELMAN_FORWARD(a) { return forward<e62::Step, args::Constant>("e62_forward", a, side_by_side<args::Constant::I>(a.proj, a.D)); }
ELMAN_BACKWARD(a) {
  return backward<e62::Step, args::Constant>("e62_backward", a, side_by_side<args::Constant::I>(a.proj, a.D),
                                             side_by_side<args::Constant::I>(a.d_proj, a.D));
}
