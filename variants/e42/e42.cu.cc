// h[t] = wx[t] + W h[t-1], y[t] = h[t] silu(h[t]): equations 2 and 3 of README.md; wx = W x + b is a torch product.
#include <elman/elman.cuh>
#include <elman/families/dense_recurrence.cuh>

#include "elman_args.h"

namespace e42 {
using namespace elman;

struct Step {
  static constexpr bool gated = false;
  template <class A> static ELMAN_FN A state(A pre) { return pre; }
  template <class A> static ELMAN_FN A state_slope(A) { return 1; }
  template <class A> static ELMAN_FN A readout(A h, A) { return h * silu_of(h); }
  // d (h silu(h)) / dh = silu(h) + h silu'(h).
  template <class A> static ELMAN_FN Pair<A> readout_slope(A h, A) { return {silu_of(h) + h * silu_slope(h), 0}; }
};
}  // namespace e42

ELMAN_FORWARD(a) {
  const elman::dense::Forward<args::scalar> p{a.wx, a.W, a.h0, nullptr, a.y, a.h_last, a.h, a.exchange, a.B, a.T, a.D};
  return elman::dense::forward<e42::Step, args::Constant>("e42_forward", p, a.stream);
}

ELMAN_BACKWARD(a) {
  const elman::dense::Backward<args::scalar> p{a.W,    nullptr, a.h0,     a.h,        a.d_y, a.d_h_last, a.d_wx, nullptr,
                                               a.d_h0, a.former, a.exchange, a.B,   a.T,        a.D};
  return elman::dense::backward<e42::Step, args::Constant>("e42_backward", p, a.stream);
}
