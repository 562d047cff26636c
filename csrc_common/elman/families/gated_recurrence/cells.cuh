#pragma once
// Parts of Cells (gated_recurrence.cuh) that several variants name: `struct Cell : dense::Blend, dense::SelfGate {};`
#include <elman/elman.cuh>

namespace elman::dense {

// Cells whose state is h, and whose gradients are slopes times that of h: of the pre-activations in order, then of the former state.
struct State {
  static constexpr bool local = false;
  static constexpr int h_at = 0, state_at = 0;
  template <class A, int K> static ELMAN_FN A output(const A (&kept)[K]) { return kept[0]; }
  template <class A, int N, int I> static ELMAN_FN void back(const A (&slope)[N], A d_h, A& carry, A (&d_pre)[I]) {
    static_assert(N == I + 1);
    const A d = d_h + carry;
#pragma unroll
    for (int i = 0; i < I; ++i) d_pre[i] = slope[i] * d;
    carry = slope[I] * d;
  }
  template <class A, int N> static ELMAN_FN void start(A (&slope)[N]) {
#pragma unroll
    for (int i = 0; i < N; ++i) slope[i] = i == 0 ? 1 : 0;
  }
};

// sigmoid(x) and sigmoid(-x), which is 1 less it without cancellation.
template <class A> ELMAN_FN Pair<A> both_sides(A x) {
  const A e = exp_of(-abs_of(x)), r = reciprocal_of(1 + e), s = e * r;
  return {x < 0 ? s : r, x < 0 ? r : s};
}

// h = alpha h' + (1 - alpha) u with u = tanh(pre[0]) and alpha = sigmoid(wx[1]).
struct Blend : State {
  static constexpr int inputs = 2, sums = 1, ready = 3, kept = 2, slopes = 3;
  template <class A> static ELMAN_FN void prepare(const A (&wx)[2], A (&ready)[3]) {
    const Pair<A> alpha = both_sides(wx[1]);
    ready[0] = wx[0], ready[1] = alpha.x, ready[2] = alpha.y;
  }
  template <class A> static ELMAN_FN A step(const A (&ready)[3], const A (&sum)[1], A& state, A (&kept)[2]) {
    kept[1] = tanh_of(ready[0] + sum[0]);
    return kept[0] = state = ready[1] * state + ready[2] * kept[1];
  }
  template <class A> static ELMAN_FN void slopes_of(const A (&wx)[2], const A (&kept)[2], A former, A (&slope)[3]) {
    const Pair<A> alpha = both_sides(wx[1]);
    slope[0] = alpha.y * tanh_slope(kept[1]), slope[1] = (former - kept[1]) * alpha.x * alpha.y, slope[2] = alpha.x;
  }
};
}  // namespace elman::dense
