#pragma once
// Recurrences whose one matrix serves input and state:
//   h[t] = phi(W (x[t] + h[t-1]) + b),   y[t] = readout(h[t]),   x = silu(u), or u where C::SILU is 0.
// The sum is formed before the product, so that neither W x nor, in the backward pass, W^T d_pre is a product of its own over all steps:
// what carries the gradient from step to step is the input's gradient too.
// * A Step is that of dense_recurrence.cuh, without a gate; C is `args::Constant`, with CHUNKS, TILES, SHARED, WHOLE and SILU.
// * A block publishes x[t+1] + h[t], and so reads its inputs one step ahead.
// * Rounding points in a bf16 build besides loads and stores: x + h as operand (`operand`), and d_pre as operand of W^T d_pre (`d_pre`), as
//   stored. h is kept and carried in Acc<S>. The gradient of W is one product over all T B rows of d_pre and `operand`; that of b is summed
//   over time here, before d_pre is rounded, one partial sum for each batch row.
#include <elman/families/dense_recurrence/engine.cuh>
#include <elman/families/dense_recurrence/steps.cuh>

namespace elman::tied {
using dense::Packed;
using dense::Place;

template <class C> using Square = dense::Product<C::CHUNKS, C::TILES, C::SHARED, 1, 1, C::WHOLE>;
struct Nothing {};

// S is the storage type. Shapes as in binding.py.
template <class S> struct Forward {
  const S *u, *W;
  const Acc<S>*b, *h0;
  S* y;
  Acc<S>*h_last, *h;
  S* exchange;
  int64_t B, T, D;
};
template <class S> struct Backward {
  const S *u, *W;
  const Acc<S>*h0, *h;
  const S* d_y;
  const Acc<S>* d_h_last;
  S* d_u;
  Acc<S>* d_h0;
  S *d_pre, *operand;
  Acc<S>* b_part;
  S* exchange;
  int64_t B, T, D;
};

// x of u, and d x / d u.
template <class C, class S> ELMAN_FN Pair<Acc<S>> entered(Packed<S> word) {
  const Pair<Acc<S>> u = dense::unpacked(word);
  return C::SILU ? Pair<Acc<S>>{silu_for<S>(u.x), silu_for<S>(u.y)} : u;
}
template <class C, class S> ELMAN_FN Pair<Acc<S>> entered_slope(Packed<S> word) {
  const Pair<Acc<S>> u = dense::unpacked(word);
  return C::SILU ? Pair<Acc<S>>{silu_slope_for<S>(u.x), silu_slope_for<S>(u.y)} : Pair<Acc<S>>{1, 1};
}

template <class Step, class C, class S> struct ForwardPass {
  using A = Acc<S>;
  struct Input {
    Packed<S> u;  // of the step after
    Packed<A> b;
  };
  struct Work {
    Pair<A> x, b, h;
  };
  using Carry = Nothing;
  static constexpr int outputs = 1;
  static constexpr bool partial = false;
  Forward<S> p;
  int T, D;

  ELMAN_FN int64_t offset(const Place& at) const { return at.cell + (int64_t)at.step * D; }
  ELMAN_FN void first(const Place& at, Carry&, Pair<A> (&out)[1]) const {
    const Pair<A> h = load2(p.h0 + at.corner), x = entered<C, S>(dense::load_packed(p.u + at.cell));
    out[0] = {x.x + h.x, x.y + h.y};
  }
  ELMAN_FN void fetch(const Place& at, Input& in) const {
    in.u = dense::load_packed(p.u + at.cell + (int64_t)min_of(at.step + 1, T - 1) * D);  // the last step's is for nobody
    in.b = load_word<Packed<A>>(p.b + at.channel);
  }
  ELMAN_FN Work prepare(const Place&, const Input& in, const Carry&) const { return {entered<C, S>(in.u), dense::unpacked(in.b), {}}; }
  ELMAN_FN void value(Work& w, const Pair<A> (&sum)[1], Carry&, Pair<A> (&out)[1]) const {
    w.h = {Step::state(sum[0].x + w.b.x), Step::state(sum[0].y + w.b.y)};
    out[0] = {w.x.x + w.h.x, w.x.y + w.h.y};
  }
  ELMAN_FN void finish(const Place& at, const Work& w, const Pair<A> (&)[1]) const {
    store2_streamed(p.h + offset(at), w.h.x, w.h.y);
    store2_streamed(p.y + offset(at), Step::readout(w.h.x, A(0)), Step::readout(w.h.y, A(0)));
    if (at.step == T - 1) store2(p.h_last + at.corner, w.h.x, w.h.y);
  }
};

// Step s is time t = T - 1 - s. Its sum, W^T d_pre[t+1], is the gradient of x[t+1] + h[t]. Step T, time -1, leaves the gradient of h0.
template <class Step, class C, class S> struct BackwardPass {
  using A = Acc<S>;
  struct Input {
    Packed<S> d_y, u;  // u of the time after
    Packed<A> h;
  };
  struct Work {
    Pair<A> d_h, slope, sum, h;
    Packed<S> u;
  };
  struct Carry {
    Pair<A> d_b;
  };
  static constexpr int outputs = 1;
  static constexpr bool partial = false;
  Backward<S> p;
  int T, D;

  ELMAN_FN int64_t offset(const Place& at) const { return at.cell + (int64_t)(T - 1 - at.step) * D; }
  ELMAN_FN void first(const Place&, Carry& carry, Pair<A> (&out)[1]) const { carry.d_b = out[0] = {0, 0}; }  // nothing follows the last step
  ELMAN_FN void fetch(const Place& at, Input& in) const {
    in.h = dense::load_packed(at.step < T ? p.h + offset(at) : p.h0 + at.corner);
    in.u = dense::load_packed(p.u + at.cell + (int64_t)min_of(T - at.step, T - 1) * D);
    if (at.step < T) in.d_y = dense::load_packed(p.d_y + offset(at));
  }
  ELMAN_FN Work prepare(const Place& at, const Input& in, const Carry& carry) const {
    const Pair<A> h = dense::unpacked(in.h), d_y = dense::unpacked(in.d_y);
    if (at.step == T) {
      store2(p.b_part + at.corner, carry.d_b.x, carry.d_b.y);
      return {{0, 0}, {1, 1}, {}, h, in.u};
    }
    const Pair<A> last = at.step == 0 ? load2(p.d_h_last + at.corner) : Pair<A>{0, 0};
    return {{last.x + d_y.x * Step::readout_slope(h.x, A(0)).x, last.y + d_y.y * Step::readout_slope(h.y, A(0)).x},
            {Step::state_slope(h.x), Step::state_slope(h.y)},
            {},
            h,
            in.u};
  }
  ELMAN_FN void value(Work& w, const Pair<A> (&sum)[1], Carry& carry, Pair<A> (&out)[1]) const {
    w.sum = sum[0];
    out[0] = {(w.d_h.x + sum[0].x) * w.slope.x, (w.d_h.y + sum[0].y) * w.slope.y};
    carry.d_b.x += out[0].x, carry.d_b.y += out[0].y;
  }
  ELMAN_FN void finish(const Place& at, const Work& w, const Pair<A> (&out)[1]) const {
    const Pair<A> d = out[0];
    if (at.step > 0) {
      const Pair<A> x = entered<C, S>(w.u), slope = entered_slope<C, S>(w.u);
      store2_streamed(p.operand + offset(at) + D, x.x + w.h.x, x.y + w.h.y);
      store2_streamed(p.d_u + offset(at) + D, w.sum.x * slope.x, w.sum.y * slope.y);
    }
    if (at.step == T) return store2(p.d_h0 + at.corner, d.x, d.y);
    store2_streamed(p.d_pre + offset(at), d.x, d.y);
  }
};

template <class Step, class C, class S> ELMAN_KERNEL(dense::threads<C>) forward_pass(Forward<S> p, dense::Division split) {
  const int T = (int)p.T, D = (int)p.D;
  dense::run<S, C, Square<C>, false>(dense::Matrix<S>{p.W, D, D}, p.exchange, split, (int)p.B, T, T, ForwardPass<Step, C, S>{p, T, D});
}
template <class Step, class C, class S> ELMAN_KERNEL(dense::threads<C>) backward_pass(Backward<S> p, dense::Division split) {
  const int T = (int)p.T, D = (int)p.D;
  dense::run<S, C, Square<C>, true>(dense::Matrix<S>{p.W, D, D}, p.exchange, split, (int)p.B, T, T + 1, BackwardPass<Step, C, S>{p, T, D});
}

template <class C, class Pass, class S, class Tensors>
Status start(void (*kernel)(Tensors, dense::Division), const char* name, const Tensors& p, int64_t steps, Stream stream) {
  ELMAN_TRY(dense::check<C>(name, p.B, p.T, p.D));
  ELMAN_TRY((dense::check<C, Square<C>>(name, dense::Matrix<S>{p.W, (int)p.D, (int)p.D}, p.B)));
  const dense::Division split = dense::divide<C>(p.B, p.D, C::TILES);
  const unsigned bytes = dense::Layout<S, C, typename Pass::Carry, Square<C>>().carve.bytes;
  return dense::launch_pass<C, S>(kernel, name, p.exchange, p.B, p.D, steps, split, bytes, stream, p, split);
}

// `a` is the variant's args::Forward or args::Backward, with the tensors of families/tied.py by their names; C is args::Constant.
template <class Step, class C, class Args, class S> Status forward(const char* name, const Args& a, S* y) {
  static_assert(!Step::gated, "a readout of the state alone");
  const Forward<S> p{a.u, a.W, a.b, a.h0, y, a.h_last, a.h, a.exchange, a.B, a.T, a.D};
  return start<C, ForwardPass<Step, C, S>, S>(forward_pass<Step, C, S>, name, p, p.T, a.stream);
}
template <class Step, class C, class Args> Status forward(const char* name, const Args& a) { return forward<Step, C>(name, a, a.y); }

template <class Step, class C, class Args, class S> Status backward(const char* name, const Args& a, S* d_u) {
  const Backward<S> p{a.u, a.W, a.h0, a.h, a.d_y, a.d_h_last, d_u, a.d_h0, a.d_pre, a.operand, a.b_part, a.exchange, a.B, a.T, a.D};
  return start<C, BackwardPass<Step, C, S>, S>(backward_pass<Step, C, S>, name, p, p.T + 1, a.stream);
}
template <class Step, class C, class Args> Status backward(const char* name, const Args& a) { return backward<Step, C>(name, a, a.d_u); }
}  // namespace elman::tied
