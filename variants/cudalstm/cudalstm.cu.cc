// Equations 1 to 3 of README.md: s = f s' + i c, h = o tanh(s), with f, i, o = sigmoid and c = tanh of wx + W h'; wx is a torch product.
#include <elman/families/gated_recurrence.cuh>

#include "elman_args.h"

namespace cudalstm {
using namespace elman;

struct Cell : dense::Plain {
  static constexpr int inputs = 4, sums = 4, ready = 4, kept = 5, slopes = 6, h_at = 2, state_at = 0;
  static constexpr bool local = true;

  template <class A> static ELMAN_FN void prepare(const A (&wx)[4], A (&ready)[4]) {
    ready[0] = wx[0], ready[1] = wx[1], ready[2] = wx[2], ready[3] = wx[3];
  }
  template <class A> static ELMAN_FN A step(const A (&ready)[4], const A (&sum)[4], A& state, A (&kept)[5]) {
    const A f = sigmoid_of(ready[0] + sum[0]), i = sigmoid_of(ready[1] + sum[1]), o = sigmoid_of(ready[2] + sum[2]);
    const A c = tanh_of(ready[3] + sum[3]);
    state = f * state + i * c;
    kept[0] = state, kept[1] = f, kept[2] = i, kept[3] = o, kept[4] = c;
    return output(kept);
  }
  template <class A> static ELMAN_FN A output(const A (&kept)[5]) { return kept[3] * tanh_of(kept[0]); }
  template <class A> static ELMAN_FN void slopes_of(const A (&)[4], const A (&kept)[5], A former, A (&slope)[6]) {
    const A f = kept[1], i = kept[2], o = kept[3], c = kept[4], read = tanh_of(kept[0]);
    slope[0] = former * sigmoid_slope(f), slope[1] = c * sigmoid_slope(i), slope[2] = read * sigmoid_slope(o), slope[3] = i * tanh_slope(c);
    slope[4] = o * tanh_slope(read), slope[5] = f;
  }
  template <class A> static ELMAN_FN void back(const A (&slope)[6], A d_h, A& carry, A (&d_pre)[4]) {
    const A e = carry + d_h * slope[4];
    d_pre[0] = e * slope[0], d_pre[1] = e * slope[1], d_pre[2] = d_h * slope[2], d_pre[3] = e * slope[3];
    carry = e * slope[5];
  }
  template <class A> static ELMAN_FN void start(A (&slope)[6]) {
    slope[0] = 1, slope[1] = 0, slope[2] = 1, slope[3] = 0, slope[4] = 0, slope[5] = 0;
  }
};
}  // namespace cudalstm

ELMAN_FORWARD(a) { return elman::dense::forward_cell<cudalstm::Cell, args::Constant>("cudalstm_forward", a); }
ELMAN_BACKWARD(a) { return elman::dense::backward_cell<cudalstm::Cell, args::Constant>("cudalstm_backward", a); }
