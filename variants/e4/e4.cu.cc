// Equations 2 and 3 of README.md: h = tanh(wx + U (V h')), y = h silu(z); wx is a torch product.
#include <elman/families/gated_recurrence.cuh>

#include "elman_args.h"

namespace e4 {
using namespace elman;

struct Cell : dense::State, dense::SiluGate {
  static constexpr int inputs = 1, sums = 1, ready = 1, kept = 1, slopes = 2;
  template <class A> static ELMAN_FN void prepare(const A (&wx)[1], A (&ready)[1]) { ready[0] = wx[0]; }
  template <class A> static ELMAN_FN A step(const A (&ready)[1], const A (&sum)[1], A& state, A (&kept)[1]) {
    return kept[0] = state = tanh_of(ready[0] + sum[0]);
  }
  template <class A> static ELMAN_FN void slopes_of(const A (&)[1], const A (&kept)[1], A, A (&slope)[2]) {
    slope[0] = tanh_slope(kept[0]), slope[1] = 0;
  }
};
}  // namespace e4

ELMAN_FORWARD(a) { return elman::dense::forward_cell<e4::Cell, args::Constant>("e4_forward", a); }
ELMAN_BACKWARD(a) { return elman::dense::backward_cell<e4::Cell, args::Constant>("e4_backward", a); }
