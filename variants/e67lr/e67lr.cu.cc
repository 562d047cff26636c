// Equations 1 and 2 of README.md: h = alpha h' + (1 - alpha) v with alpha = sigmoid(wx[0] + U (V h')), v = tanh(wx[1]); wx is a torch product.
#include <elman/families/gated_recurrence.cuh>

#include "elman_args.h"

namespace e67lr {
using namespace elman;

struct Cell : dense::State, dense::SelfGate {
  static constexpr int inputs = 2, sums = 1, ready = 2, kept = 2, slopes = 3;
  template <class A> static ELMAN_FN void prepare(const A (&wx)[2], A (&ready)[2]) { ready[0] = wx[0], ready[1] = tanh_of(wx[1]); }
  template <class A> static ELMAN_FN A step(const A (&ready)[2], const A (&sum)[1], A& state, A (&kept)[2]) {
    kept[1] = ready[0] + sum[0];
    const Pair<A> alpha = dense::both_sides(kept[1]);
    return kept[0] = state = alpha.x * state + alpha.y * ready[1];
  }
  template <class A> static ELMAN_FN void slopes_of(const A (&wx)[2], const A (&kept)[2], A former, A (&slope)[3]) {
    const Pair<A> alpha = dense::both_sides(kept[1]);
    const A v = tanh_of(wx[1]);
    slope[0] = (former - v) * alpha.x * alpha.y, slope[1] = alpha.y * tanh_slope(v), slope[2] = alpha.x;
  }
};
}  // namespace e67lr

ELMAN_FORWARD(a) { return elman::dense::forward_cell<e67lr::Cell, args::Constant>("e67lr_forward", a); }
ELMAN_BACKWARD(a) { return elman::dense::backward_cell<e67lr::Cell, args::Constant>("e67lr_backward", a); }
