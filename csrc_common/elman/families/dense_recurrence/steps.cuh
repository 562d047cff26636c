#pragma once
// Elementwise parts that the Steps of several variants name: `struct Step : dense::Tanh, dense::SelfGate {};`
#include <elman/elman.cuh>

namespace elman::dense {

// h from its pre-activation, and d h / d pre from h.
struct Tanh {
  template <class A> static ELMAN_FN A state(A pre) { return tanh_of(pre); }
  template <class A> static ELMAN_FN A state_slope(A h) { return tanh_slope(h); }
};
struct Linear {
  template <class A> static ELMAN_FN A state(A pre) { return pre; }
  template <class A> static ELMAN_FN A state_slope(A) { return 1; }
};

// y from h and a gate, and the slopes of y by both.
struct SelfGate {
  static constexpr bool gated = false;
  template <class A> static ELMAN_FN A readout(A h, A) { return h * silu_of(h); }
  template <class A> static ELMAN_FN Pair<A> readout_slope(A h, A) { return {silu_of(h) + h * silu_slope(h), 0}; }
};
struct SiluGate {
  static constexpr bool gated = true;
  template <class A> static ELMAN_FN A readout(A h, A gate) { return h * silu_of(gate); }
  template <class A> static ELMAN_FN Pair<A> readout_slope(A h, A gate) { return {silu_of(gate), h * silu_slope(gate)}; }
};
}  // namespace elman::dense
