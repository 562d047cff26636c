// h[t] = f' h[t-1] + (1 - f') g(u),  f' = sigmoid(f) / (sigmoid(f) + sigmoid(i)): equations 1 and 2 of README.md; proj is (u,
// f, i).
#include <elman/families/pointwise_recurrence.cuh>

#include "elman_args.h"

using namespace elman::pointwise;

namespace minlstm {
struct Step : Plain {
  static constexpr int inputs = 3, vectors = 0;
  static constexpr bool biased = false;

  // f' = (1 + e^-i) / ((1 + e^-i) + (1 + e^-f)), all divided by e^m, m = max(0, -i, -f): nothing overflows, and the sum is at
  // least 1.
  template <class S, class A> static ELMAN_FN Term<A, 3, 1> update(A h, const A (&in)[3], const A (&)[1]) {
    const A f = in[1], i = in[2], m = elman::max_of(elman::max_of(-f, -i), A(0));
    const A one = exp_for<S>(-m), of_i = one + exp_for<S>(-i - m), of_f = one + exp_for<S>(-f - m);
    const A share = elman::reciprocal_of(of_i + of_f), keep = of_i * share, take = of_f * share;
    const Positive<A> g = positive<S>(in[0]);
    const A e = (h - g.value) * keep * take;
    return {keep * h + take * g.value, keep, {take * g.slope, e * gate<S>(f).shut, -e * gate<S>(i).shut}};
  }
};
}  // namespace minlstm

ELMAN_FORWARD(a) { return forward<minlstm::Step, args::Constant>("minlstm_forward", a, side_by_side<3>(a.proj, a.D)); }
ELMAN_BACKWARD(a) {
  return backward<minlstm::Step, args::Constant>("minlstm_backward", a, side_by_side<3>(a.proj, a.D),
                                                 side_by_side<3>(a.d_proj, a.D));
}
