// h[t] = phi(alpha h[t-1] + wx), phi being tanh or nothing, y[t] = h[t] silu(x + b_g): equations 2 and 3 of README.md.
#include <elman/families/pointwise_recurrence.cuh>

#include "elman_args.h"

using namespace elman::pointwise;

namespace diagonal {
struct Step {
  static constexpr int inputs = 2, vectors = 2;
  static constexpr bool gated = true;
  enum { WX, X };
  enum { ALPHA, B_G };

  template <class S, class A> static ELMAN_FN Term<A, 2, 2> update(A h, const A (&in)[2], const A (&vec)[2]) {
    const A pre = vec[ALPHA] * h + in[WX], value = args::Constant::TANH ? tanh_for<S>(pre) : pre;
    const A d = args::Constant::TANH ? elman::tanh_slope(value) : 1;
    return {value, d * vec[ALPHA], {d, 0}, {d * h, 0}};
  }

  // y = h q s,  s = sigmoid(q),  d y / d q = h s (1 + q (1 - s))
  template <class S, class A> static ELMAN_FN Term<A, 2, 2> readout(A h, const A (&in)[2], const A (&vec)[2]) {
    const A q = in[X] + vec[B_G];
    const Gate<A> s = gate<S>(q);
    const A d_q = h * s.open * (1 + q * s.shut);
    return {h * q * s.open, q * s.open, {0, d_q}, {0, d_q}};
  }
};
}  // namespace diagonal

ELMAN_FORWARD(a) { return forward<diagonal::Step, args::Constant>("diagonal_forward", a, apart(a.D, a.wx, a.x), {a.alpha, a.b_g}); }
ELMAN_BACKWARD(a) {
  return backward<diagonal::Step, args::Constant>("diagonal_backward", a, apart(a.D, a.wx, a.x), {a.alpha, a.b_g},
                                                  apart(a.D, a.d_wx, a.d_x), {a.alpha_part, a.b_g_part});
}
