// h[t] = tanh(wx[t] + W h[t-1]), y[t] = h[t] silu(z[t]): equations 2 and 3 of README.md; wx = W_x x + b is a torch product.
#include <elman/elman.cuh>
#include <elman/families/dense_recurrence.cuh>

#include "elman_args.h"

namespace e1 {
using namespace elman;

struct Step {
  static constexpr bool gated = true;
  template <class A> static ELMAN_FN A state(A pre) { return tanh_of(pre); }
  template <class A> static ELMAN_FN A state_slope(A h) { return tanh_slope(h); }
  template <class A> static ELMAN_FN A readout(A h, A z) { return h * silu_of(z); }
  // d (h silu(z)) = silu(z) dh + h silu'(z) dz.
  template <class A> static ELMAN_FN Pair<A> readout_slope(A h, A z) { return {silu_of(z), h * silu_slope(z)}; }
};
}  // namespace e1

ELMAN_FORWARD(a) {
  const elman::dense::Forward<args::scalar> p{a.wx, a.W, a.h0, a.z, a.y, a.h_last, a.h, a.exchange, a.B, a.T, a.D};
  return elman::dense::forward<e1::Step, args::Constant>("e1_forward", p, a.stream);
}

ELMAN_BACKWARD(a) {
  const elman::dense::Backward<args::scalar> p{a.W,    a.z, a.h0,     a.h,        a.d_y, a.d_h_last, a.d_wx, a.d_z,
                                               a.d_h0, a.former, a.exchange, a.B,   a.T,        a.D};
  return elman::dense::backward<e1::Step, args::Constant>("e1_backward", p, a.stream);
}
