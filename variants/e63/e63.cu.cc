// Equations 1 and 2 of README.md: u = tanh(wx[0] + W h'), and h from the state h', u and the gates alpha = sigmoid(wx[1]), beta = sigmoid(wx[2]).
// In form c each of the three has rows of W. wx is a torch product.
#include <elman/families/gated_recurrence.cuh>

#include "elman_args.h"

namespace e63 {
using namespace elman;

// h = alpha h' + beta u.
struct TwoGates : dense::State, dense::SelfGate {
  static constexpr int inputs = 3, sums = 1, ready = 3, kept = 2, slopes = 4;
  template <class A> static ELMAN_FN void prepare(const A (&wx)[3], A (&ready)[3]) {
    ready[0] = wx[0], ready[1] = sigmoid_of(wx[1]), ready[2] = sigmoid_of(wx[2]);
  }
  template <class A> static ELMAN_FN A step(const A (&ready)[3], const A (&sum)[1], A& state, A (&kept)[2]) {
    kept[1] = tanh_of(ready[0] + sum[0]);
    return kept[0] = state = ready[1] * state + ready[2] * kept[1];
  }
  template <class A> static ELMAN_FN void slopes_of(const A (&wx)[3], const A (&kept)[2], A former, A (&slope)[4]) {
    const A alpha = sigmoid_of(wx[1]), beta = sigmoid_of(wx[2]);
    slope[0] = beta * tanh_slope(kept[1]), slope[1] = former * sigmoid_slope(alpha), slope[2] = kept[1] * sigmoid_slope(beta), slope[3] = alpha;
  }
};

// The same, and all three see the state.
struct StateGates : dense::State, dense::SelfGate {
  static constexpr int inputs = 3, sums = 3, ready = 3, kept = 4, slopes = 4;
  template <class A> static ELMAN_FN void prepare(const A (&wx)[3], A (&ready)[3]) { ready[0] = wx[0], ready[1] = wx[1], ready[2] = wx[2]; }
  template <class A> static ELMAN_FN A step(const A (&ready)[3], const A (&sum)[3], A& state, A (&kept)[4]) {
    kept[1] = tanh_of(ready[0] + sum[0]), kept[2] = sigmoid_of(ready[1] + sum[1]), kept[3] = sigmoid_of(ready[2] + sum[2]);
    return kept[0] = state = kept[2] * state + kept[3] * kept[1];
  }
  template <class A> static ELMAN_FN void slopes_of(const A (&)[3], const A (&kept)[4], A former, A (&slope)[4]) {
    slope[0] = kept[3] * tanh_slope(kept[1]), slope[1] = former * sigmoid_slope(kept[2]), slope[2] = kept[1] * sigmoid_slope(kept[3]);
    slope[3] = kept[2];
  }
};

// h = h' + alpha u.
struct Added : dense::State, dense::SelfGate {
  static constexpr int inputs = 2, sums = 1, ready = 2, kept = 2, slopes = 3;
  template <class A> static ELMAN_FN void prepare(const A (&wx)[2], A (&ready)[2]) { ready[0] = wx[0], ready[1] = sigmoid_of(wx[1]); }
  template <class A> static ELMAN_FN A step(const A (&ready)[2], const A (&sum)[1], A& state, A (&kept)[2]) {
    kept[1] = tanh_of(ready[0] + sum[0]);
    return kept[0] = state = state + ready[1] * kept[1];
  }
  template <class A> static ELMAN_FN void slopes_of(const A (&wx)[2], const A (&kept)[2], A, A (&slope)[3]) {
    const A alpha = sigmoid_of(wx[1]);
    slope[0] = alpha * tanh_slope(kept[1]), slope[1] = kept[1] * sigmoid_slope(alpha), slope[2] = 1;
  }
};

template <int form> struct Form : dense::Blend, dense::SelfGate {};
template <> struct Form<1> : TwoGates {};
template <> struct Form<2> : StateGates {};
template <> struct Form<3> : Added {};
using Cell = Form<args::Constant::FORM>;
}  // namespace e63

ELMAN_FORWARD(a) { return elman::dense::forward_cell<e63::Cell, args::Constant>("e63_forward", a); }
ELMAN_BACKWARD(a) { return elman::dense::backward_cell<e63::Cell, args::Constant>("e63_backward", a); }
