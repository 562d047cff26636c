#pragma once
// Recurrences with one dense product of the state in each step:
//   h[t] = phi(wx[t] + W h[t-1]),   y[t] = readout(h[t], gate[t]).
// A variant supplies a Step, the one definition of its elementwise part, for both passes:
//   struct Step {
//     static constexpr bool gated;                                     // whether the readout has a gate
//     template <class A> static ELMAN_FN A state(A pre);               // phi
//     template <class A> static ELMAN_FN A state_slope(A h);           // d phi / d pre, from h = phi(pre)
//     template <class A> static ELMAN_FN A readout(A h, A gate);       // gate is 0 where there is none
//     template <class A> static ELMAN_FN Pair<A> readout_slope(A h, A gate);   // d y / d h and d y / d gate
//   };
// Common parts are in dense_recurrence/steps.cuh.
// dense_recurrence/engine.cuh runs a pass and says how; C is `args::Constant`, with CHUNKS, TILES, SHARED and WHOLE besides.
// Rounding points in a bf16 build besides loads and stores: h as operand of W h (`h_operand`), and d_pre as operand of W^T d_pre
// (`d_pre`), which is d_wx as stored. h is kept and carried in Acc<S>. The gradient of W is one product over all T B rows of d_pre and of
// `former`, h[t-1] as it entered the product.
#include <elman/families/dense_recurrence/engine.cuh>
#include <elman/families/dense_recurrence/steps.cuh>

namespace elman::dense {
// S is the storage type. Shapes as in binding.py; gate and d_gate are null where Step::gated is false.
template <class S> struct Forward {
  const S *wx, *W;
  const Acc<S>* h0;
  const S* gate;
  S* y;
  Acc<S> *h_last, *h;
  S* exchange;
  int64_t B, T, D;
};

template <class S> struct Backward {
  const S *W, *gate;
  const Acc<S>*h0, *h;
  const S* d_y;
  const Acc<S>* d_h_last;
  S *d_wx, *d_gate;
  Acc<S>* d_h0;
  S *former, *exchange;
  int64_t B, T, D;
};

struct Nothing {};

template <class C> using Square = Product<C::CHUNKS, C::TILES, C::SHARED, 1, 1, C::WHOLE>;

template <class Step, class S> struct ForwardPass {
  using A = Acc<S>;
  struct Input {
    Packed<S> wx, gate;
  };
  using Work = Input;
  using Carry = Nothing;
  static constexpr int outputs = 1;
  static constexpr bool partial = false;
  Forward<S> p;
  int T, D;

  ELMAN_FN int64_t offset(const Place& at) const { return at.cell + (int64_t)at.step * D; }
  ELMAN_FN void first(const Place& at, Carry&, Pair<A> (&out)[1]) const { out[0] = load2(p.h0 + at.corner); }
  ELMAN_FN void fetch(const Place& at, Input& in) const {
    in.wx = load_packed(p.wx + offset(at));
    if constexpr (Step::gated) in.gate = load_packed(p.gate + offset(at));
  }
  ELMAN_FN Work prepare(const Place&, const Input& in, const Carry&) const { return in; }
  ELMAN_FN void value(Work& w, const Pair<A> (&sum)[1], Carry&, Pair<A> (&out)[1]) const {
    const Pair<A> wx = unpacked(w.wx);
    out[0] = {Step::state(wx.x + sum[0].x), Step::state(wx.y + sum[0].y)};
  }
  ELMAN_FN void finish(const Place& at, const Work& w, const Pair<A> (&out)[1]) const {
    const Pair<A> h = out[0];
    store2_streamed(p.h + offset(at), h.x, h.y);
    const Pair<A> gate = unpacked(w.gate);
    store2_streamed(p.y + offset(at), Step::readout(h.x, gate.x), Step::readout(h.y, gate.y));
    if (at.step == T - 1) store2(p.h_last + at.corner, h.x, h.y);
  }
};

// Step s is time T - 1 - s. The state's gradient is what the readout gives, and W^T d_pre of the time after or, at the end, the gradient
// of the last state. Step T, time -1, leaves the gradient of h0.
template <class Step, class S> struct BackwardPass {
  using A = Acc<S>;
  struct Input {
    Packed<S> d_y, gate;
    Packed<A> h;
  };
  struct Work {
    Pair<A> d_h, slope;
    Packed<S> d_gate, h;
  };
  using Carry = Nothing;
  static constexpr int outputs = 1;
  static constexpr bool partial = false;
  Backward<S> p;
  int T, D;

  ELMAN_FN int64_t offset(const Place& at) const { return at.cell + (int64_t)(T - 1 - at.step) * D; }
  ELMAN_FN void first(const Place&, Carry&, Pair<A> (&out)[1]) const { out[0] = {0, 0}; }  // nothing follows the last step
  ELMAN_FN void fetch(const Place& at, Input& in) const {
    in.h = load_packed(at.step < T ? p.h + offset(at) : p.h0 + at.corner);
    if (at.step == T) return;
    in.d_y = load_packed(p.d_y + offset(at));
    if constexpr (Step::gated) in.gate = load_packed(p.gate + offset(at));
  }
  ELMAN_FN Work prepare(const Place& at, const Input& in, const Carry&) const {
    const Pair<A> d_y = unpacked(in.d_y), gate = unpacked(in.gate), h = unpacked(in.h);
    if (at.step == T) return {{0, 0}, {1, 1}, {}, packed<S>(h)};
    const Pair<A> x = Step::readout_slope(h.x, gate.x), y = Step::readout_slope(h.y, gate.y);
    const Pair<A> last = at.step == 0 ? load2(p.d_h_last + at.corner) : Pair<A>{0, 0};
    return {{last.x + d_y.x * x.x, last.y + d_y.y * y.x},
            {Step::state_slope(h.x), Step::state_slope(h.y)},
            packed<S>({d_y.x * x.y, d_y.y * y.y}),
            packed<S>(h)};
  }
  ELMAN_FN void value(Work& w, const Pair<A> (&sum)[1], Carry&, Pair<A> (&out)[1]) const {
    out[0] = {(w.d_h.x + sum[0].x) * w.slope.x, (w.d_h.y + sum[0].y) * w.slope.y};
  }
  ELMAN_FN void finish(const Place& at, const Work& w, const Pair<A> (&out)[1]) const {
    const Pair<A> d = out[0];
    // h of this time is the former state of the next.
    if (at.step > 0) store_streamed(p.former + offset(at) + D, w.h);
    if (at.step == T) return store2(p.d_h0 + at.corner, d.x, d.y);
    store2_streamed(p.d_wx + offset(at), d.x, d.y);
    if constexpr (Step::gated) store_streamed(p.d_gate + offset(at), w.d_gate);
  }
};

template <class Step, class C, class S> ELMAN_KERNEL(threads<C>) forward_pass(Forward<S> p, Division split) {
  const int T = (int)p.T, D = (int)p.D;
  run<S, C, Square<C>, false>(Matrix<S>{p.W, D, D}, p.exchange, split, (int)p.B, T, T, ForwardPass<Step, S>{p, T, D});
}

template <class Step, class C, class S> ELMAN_KERNEL(threads<C>) backward_pass(Backward<S> p, Division split) {
  const int T = (int)p.T, D = (int)p.D;
  run<S, C, Square<C>, true>(Matrix<S>{p.W, D, D}, p.exchange, split, (int)p.B, T, T + 1, BackwardPass<Step, S>{p, T, D});
}

template <class C, class S, class Tensors>
Status start(void (*kernel)(Tensors, Division), const char* name, const Tensors& p, int64_t steps, Stream stream) {
  ELMAN_TRY(check<C>(name, p.B, p.T, p.D));
  ELMAN_TRY((check<C, Square<C>>(name, Matrix<S>{p.W, (int)p.D, (int)p.D}, p.B)));
  const Division split = divide<C>(p.B, p.D, C::TILES);
  const unsigned bytes = Layout<S, C, Nothing, Square<C>>().carve.bytes;
  return launch_pass<C, S>(kernel, name, p.exchange, p.B, p.D, steps, split, bytes, stream, p, split);
}

// `a` is the variant's args::Forward: wx, W, h0, y, h_last, h and exchange by these names. C is args::Constant.
template <class Step, class C, class Args, class S> Status forward(const char* name, const Args& a, const S* gate) {
  const Forward<S> p{a.wx, a.W, a.h0, gate, a.y, a.h_last, a.h, a.exchange, a.B, a.T, a.D};
  return start<C, S>(forward_pass<Step, C, S>, name, p, p.T, a.stream);
}
template <class Step, class C, class Args> Status forward(const char* name, const Args& a) {
  return forward<Step, C>(name, a, (decltype(a.wx))nullptr);
}

// `a` is the variant's args::Backward: the above, their gradients as d_wx, d_h0, d_y, d_h_last, and former.
template <class Step, class C, class Args, class S> Status backward(const char* name, const Args& a, const S* gate, S* d_gate) {
  const Backward<S> p{a.W, gate, a.h0, a.h, a.d_y, a.d_h_last, a.d_wx, d_gate, a.d_h0, a.former, a.exchange, a.B, a.T, a.D};
  return start<C, S>(backward_pass<Step, C, S>, name, p, p.T + 1, a.stream);
}
template <class Step, class C, class Args> Status backward(const char* name, const Args& a) {
  return backward<Step, C>(name, a, (decltype(a.W))nullptr, (decltype(a.d_wx))nullptr);
}
}  // namespace elman::dense
