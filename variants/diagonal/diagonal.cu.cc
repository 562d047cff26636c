// h[t] = phi(alpha h[t-1] + wx + b), phi being tanh or nothing, y[t] = h[t] silu(q),  q = x + b_g: equations 2 and 3 of
// README.md; bias is (b, b_g).
#include <elman/families/pointwise_recurrence.cuh>

#include "elman_args.h"

using namespace elman::pointwise;

namespace diagonal {
struct Step {
  static constexpr int inputs = 2, vectors = 1;
  static constexpr bool biased = true, gated = true;
  enum { WX, Q };

  template <class S, class A> static ELMAN_FN Term<A, 2, 1> update(A h, const A (&in)[2], const A (&vec)[1]) {
    const A pre = vec[0] * h + in[WX], value = args::Constant::TANH ? tanh_for<S>(pre) : pre;
    const A d = args::Constant::TANH ? elman::tanh_slope(value) : 1;
    return {value, d * vec[0], {d, 0}, {d * h}};
  }

  // y = h q s,  s = sigmoid(q),  d y / d q = h s (1 + q (1 - s))
  template <class S, class A> static ELMAN_FN Term<A, 2, 1> readout(A h, const A (&in)[2], const A (&)[1]) {
    const A q = in[Q];
    const Gate<A> s = gate<S>(q);
    return {h * q * s.open, q * s.open, {0, h * s.open * (1 + q * s.shut)}, {0}};
  }
};
}  // namespace diagonal

ELMAN_FORWARD(a) { return forward<diagonal::Step, args::Constant>("diagonal_forward", a, apart(a.D, a.wx, a.x), {a.alpha}); }
ELMAN_BACKWARD(a) {
  return backward<diagonal::Step, args::Constant>("diagonal_backward", a, apart(a.D, a.wx, a.x), {a.alpha},
                                                  apart(a.D, a.d_wx, a.d_x), {a.alpha_part});
}
