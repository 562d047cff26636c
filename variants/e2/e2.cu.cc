// Equation 2 of README.md, h[t] = tanh(wx[t] + W h[t-1]), for rows that are slots of sequences; or its first version 2d, h[t] = decay h[t-1] + wx[t],
// for channels that are those of all slots. y[t] = h[t]; wx and the sum over slots are torch's.
#include <elman/families/dense_recurrence.cuh>
#include <elman/families/pointwise_recurrence.cuh>

#include "elman_args.h"

namespace e2 {
using namespace elman;
using C = args::Constant;

template <int DIAGONAL> struct Form {
  struct Step : dense::Tanh, dense::Plain {};
  template <class Args> static Status forward(const Args& a) { return dense::forward<Step, C>("e2_forward", a); }
  template <class Args> static Status backward(const Args& a) { return dense::backward<Step, C>("e2_backward", a); }
};

template <> struct Form<1> {
  struct Step : pointwise::Plain {
    static constexpr int inputs = 1, vectors = 1;
    static constexpr bool biased = false;
    template <class S, class A> static ELMAN_FN pointwise::Term<A, 1, 1> update(A h, const A (&in)[1], const A (&vec)[1]) {
      return {vec[0] * h + in[0], vec[0], {1}, {h}};
    }
  };
  template <class Args> static Status forward(const Args& a) {
    return pointwise::forward<Step, C>("e2_forward", a, pointwise::apart(a.D, a.wx), {a.decay});
  }
  template <class Args> static Status backward(const Args& a) {
    return pointwise::backward<Step, C>("e2_backward", a, pointwise::apart(a.D, a.wx), {a.decay}, pointwise::apart(a.D, a.d_wx), {a.decay_part});
  }
};
}  // namespace e2

ELMAN_FORWARD(a) { return e2::Form<args::Constant::DIAGONAL>::forward(a); }
ELMAN_BACKWARD(a) { return e2::Form<args::Constant::DIAGONAL>::backward(a); }
