#pragma once
// What the Steps of several variants are made of: `struct Step : pointwise::SelfGate { ... };`
#include <elman/elman.cuh>

namespace elman::pointwise {

// Room for N values, or for one that nobody uses.
ELMAN_BOTH int room(int N) { return N > 0 ? N : 1; }

// The value of a function of (h, in, vec) of one channel, and its partial derivatives. A pass that uses some of them pays for
// those.
template <class A, int I, int V> struct Term {
  A value, h, in[I], vec[V];
};

template <class S> ELMAN_FN Acc<S> exp_for(Acc<S> x) {
  if constexpr (is_bf16<S>) return exp2_near(1.44269504f * x);
  else return exp_of(x);
}

// In a bf16 build 1 - 2 / (1 + e^2x), within 2e-7 of the true value whatever its size (the rounding point `tanh`).
template <class S> ELMAN_FN Acc<S> tanh_for(Acc<S> x) {
  if constexpr (is_bf16<S>) return fused(-2.0f, reciprocal_near(1 + exp2_near(2.88539008f * x)), 1.0f);
  else return tanh_of(x);
}

// open = sigmoid(a) and shut = sigmoid(-a) = 1 - open from one exponential, so that each keeps its digits where the other is
// near 1.
template <class A> struct Gate {
  A open, shut;
  // d open / d a
  ELMAN_FN A slope() const { return open * shut; }
};
template <class S> ELMAN_FN Gate<Acc<S>> gate(Acc<S> a) {
  using A = Acc<S>;
  if constexpr (is_bf16<S>) {
    const float e = exp2_near(min_of(-1.44269504f * a, 126.0f)), open = reciprocal_near(1 + e);
    return {open, e * open};
  } else {
    const A e = exp_of(-abs_of(a)), large = reciprocal_of(1 + e), small = e * large;
    return a < 0 ? Gate<A>{small, large} : Gate<A>{large, small};
  }
}

// g(u) = u + 1/2 for u >= 0, sigmoid(u) below, and its slope.
template <class A> struct Positive {
  A value, slope;
};
template <class S> ELMAN_FN Positive<Acc<S>> positive(Acc<S> u) {
  const Gate<Acc<S>> s = gate<S>(u);
  return {u < 0 ? s.open : u + Acc<S>(0.5), u < 0 ? s.slope() : Acc<S>(1)};
}

// Readouts.

struct Plain {
  static constexpr bool gated = false;
  // y = h
  template <class S, class A, int I, int V> static ELMAN_FN Term<A, I, V> readout(A h, const A (&)[I], const A (&)[V]) { return {h, 1}; }
};

struct SelfGate {
  static constexpr bool gated = false;
  // y = h silu(h) = h^2 s,  s = sigmoid(h),  d y / d h = h s (2 + h (1 - s))
  template <class S, class A, int I, int V> static ELMAN_FN Term<A, I, V> readout(A h, const A (&)[I], const A (&)[V]) {
    const Gate<A> s = gate<S>(h);
    return {h * h * s.open, h * s.open * (2 + h * s.shut)};
  }
};
}  // namespace elman::pointwise
