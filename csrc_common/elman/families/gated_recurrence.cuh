#pragma once
// Recurrences of cells with gates, whose state products are W h[t-1] or U (V h[t-1]):
//   pre[i] = wx[i][t] + (row i of the product, for the first `sums` of them),   (h, state)[t] = cell(pre, state[t-1]),   y[t] = readout(h[t], gate[t])
// A variant supplies a Cell, for one channel (common parts in gated_recurrence/cells.cuh); `state` is h itself, or where `local` a state besides h that no product sees:
//   struct Cell {                                                      // with a readout of dense_recurrence/steps.cuh
//     static constexpr int inputs, sums, ready, kept, slopes;          // kept: values of a step that the backward pass reads, the state first
//     static constexpr bool local;
//     template <class A> static void prepare(const A (&wx)[inputs], A (&ready)[ready]);      // what can be computed before the sums are known
//     template <class A> static A step(const A (&ready)[ready], const A (&sum)[sums], A& state, A (&kept)[kept]);   // returns h
//     template <class A> static A output(const A (&kept)[kept]);       // h, from what was kept
//     template <class A> static void slopes_of(const A (&wx)[inputs], const A (&kept)[kept], A former, A (&slope)[slopes]);
//         // what `back` needs, known before the gradient is; wx[i] for i >= sums only, former is the state before
//     template <class A> static void back(const A (&slope)[slopes], A d_h, A& carry, A (&d_pre)[inputs]);
//         // carry: the gradient of the state that arrives past the product, in: of the new state, out: of the former
//     static constexpr int h_at, state_at;   // with `start` as slopes, `back` puts d_h + carry (local: d_h) and carry there
//     template <class A> static void start(A (&slope)[slopes]);
//   };
// * wx is [B, T, inputs * D], W [sums * D, D]; U is W [D, R] and V [R, D]. kept is [B, T, kept * D] in Acc<S>.
// * Low rank takes two products a step (engine.cuh). m = V h[t-1] is kept as it enters the second one, and d_m = U^T d_pre in the backward pass.
// * Rounding points in a bf16 build besides loads and stores: h as operand (`h_operand`), the d_pre of sums as operands, which are d_wx as
//   stored (`d_pre`); with low rank m and d_m, as stored (`m_operand`). Weight gradients are products over all T B rows of d_wx, d_m, m and
//   `former`, h[t-1] as it entered the product.
#include <elman/families/dense_recurrence/engine.cuh>
#include <elman/families/dense_recurrence/steps.cuh>
#include <elman/families/gated_recurrence/cells.cuh>

namespace elman::dense {
// Shapes as above; absent tensors are null. Of Backward's, d_x is the gradient of x.
template <class S> struct CellForward {
  const S *wx, *W, *V, *gate;
  const Acc<S>*h0, *s0;
  S *y, *m;
  Acc<S>*h_last, *s_last, *kept;
  S* exchange;
  int64_t B, T, D, R;
};
template <class S> struct CellBackward {
  const S *wx, *W, *V, *gate;
  const Acc<S>*h0, *s0, *kept;
  const S* d_y;
  const Acc<S>*d_h_last, *d_s_last;
  S *d_wx, *d_gate, *d_m, *former;
  Acc<S>*d_h0, *d_s0;
  S* exchange;
  int64_t B, T, D, R;
};

// Where an element of [B, T, n D] is at time t; the next of its n values is D further.
ELMAN_FN int64_t among(const Place& at, int n, int64_t t, int D) { return (at.cell - at.channel + t * D) * n + at.channel; }

template <class A> struct Carried {
  Pair<A> value;
};

template <class Cell, class S> struct CellForwardPass {
  using A = Acc<S>;
  using Carry = Carried<A>;
  static constexpr int outputs = 1;
  static constexpr bool partial = false;
  struct Input {
    Packed<S> wx[Cell::inputs], gate;
  };
  struct Work {
    Pair<A> ready[Cell::ready], kept[Cell::kept];
    Packed<S> gate;
  };
  CellForward<S> p;
  int T, D;

  ELMAN_FN void first(const Place& at, Carry& carry, Pair<A> (&out)[1]) const {
    out[0] = load2(p.h0 + at.corner);
    carry.value = Cell::local ? load2(p.s0 + at.corner) : out[0];
  }
  ELMAN_FN void fetch(const Place& at, Input& in) const {
    const S* const from = p.wx + among(at, Cell::inputs, at.step, D);
#pragma unroll
    for (int i = 0; i < Cell::inputs; ++i) in.wx[i] = load_packed(from + i * D);
    if constexpr (Cell::gated) in.gate = load_packed(p.gate + at.cell + (int64_t)at.step * D);
  }
  ELMAN_FN Work prepare(const Place&, const Input& in, const Carry&) const {
    Work w;
    A wx[2][Cell::inputs], ready[2][Cell::ready];
#pragma unroll
    for (int i = 0; i < Cell::inputs; ++i) {
      const Pair<A> x = unpacked(in.wx[i]);
      wx[0][i] = x.x, wx[1][i] = x.y;
    }
    Cell::prepare(wx[0], ready[0]);
    Cell::prepare(wx[1], ready[1]);
#pragma unroll
    for (int i = 0; i < Cell::ready; ++i) w.ready[i] = {ready[0][i], ready[1][i]};
    w.gate = in.gate;
    return w;
  }
  ELMAN_FN void value(Work& w, const Pair<A> (&sum)[Cell::sums], Carry& carry, Pair<A> (&out)[1]) const {
    A ready[2][Cell::ready], total[2][Cell::sums], kept[2][Cell::kept];
#pragma unroll
    for (int i = 0; i < Cell::ready; ++i) ready[0][i] = w.ready[i].x, ready[1][i] = w.ready[i].y;
#pragma unroll
    for (int i = 0; i < Cell::sums; ++i) total[0][i] = sum[i].x, total[1][i] = sum[i].y;
    out[0] = {Cell::step(ready[0], total[0], carry.value.x, kept[0]), Cell::step(ready[1], total[1], carry.value.y, kept[1])};
#pragma unroll
    for (int k = 0; k < Cell::kept; ++k) w.kept[k] = {kept[0][k], kept[1][k]};
  }
  ELMAN_FN void finish(const Place& at, const Work& w, const Pair<A> (&out)[1]) const {
    const Pair<A> h = out[0], gate = unpacked(w.gate);
    A* const to = p.kept + among(at, Cell::kept, at.step, D);
#pragma unroll
    for (int k = 0; k < Cell::kept; ++k) store2_streamed(to + k * D, w.kept[k].x, w.kept[k].y);
    store2_streamed(p.y + at.cell + (int64_t)at.step * D, Cell::readout(h.x, gate.x), Cell::readout(h.y, gate.y));
    if (at.step < T - 1) return;
    store2(p.h_last + at.corner, h.x, h.y);
    if constexpr (Cell::local) store2(p.s_last + at.corner, w.kept[0].x, w.kept[0].y);
  }
};

// Step s is time T - 1 - s, step T leaves the gradients of the first state; as in dense_recurrence.cuh.
template <class Cell, class S> struct CellBackwardPass {
  using A = Acc<S>;
  using Carry = Carried<A>;
  static constexpr int outputs = Cell::sums, read = max_of(1, Cell::inputs - Cell::sums);
  static constexpr bool partial = false;
  struct Input {
    Packed<S> d_y, gate, wx[read];
    Packed<A> kept[Cell::kept], former;
  };
  struct Work {
    Pair<A> d_h, slope[Cell::slopes], d_pre[read];  // of inputs without a sum
    Packed<S> d_gate, h;
  };
  CellBackward<S> p;
  int T, D;

  ELMAN_FN int64_t time(const Place& at) const { return T - 1 - at.step; }
  ELMAN_FN int64_t offset(const Place& at) const { return at.cell + time(at) * D; }
  ELMAN_FN void first(const Place& at, Carry& carry, Pair<A> (&out)[Cell::sums]) const {
#pragma unroll
    for (int i = 0; i < Cell::sums; ++i) out[i] = {0, 0};
    carry.value = Cell::local ? load2(p.d_s_last + at.corner) : Pair<A>{0, 0};
  }
  ELMAN_FN void fetch(const Place& at, Input& in) const {
    const A* const kept = p.kept + among(at, Cell::kept, time(at), D);
    in.former = load_packed(at.step < T - 1 ? kept - (int64_t)Cell::kept * D : (Cell::local && at.step < T ? p.s0 : p.h0) + at.corner);
    if (at.step == T) return;
#pragma unroll
    for (int k = 0; k < Cell::kept; ++k) in.kept[k] = load_packed(kept + k * D);
#pragma unroll
    for (int i = Cell::sums; i < Cell::inputs; ++i) in.wx[i - Cell::sums] = load_packed(p.wx + among(at, Cell::inputs, time(at), D) + i * D);
    in.d_y = load_packed(p.d_y + offset(at));
    if constexpr (Cell::gated) in.gate = load_packed(p.gate + offset(at));
  }
  ELMAN_FN Work prepare(const Place& at, const Input& in, const Carry&) const {
    Work w{};
    A slope[2][Cell::slopes];
    const Pair<A> former = unpacked(in.former);
    if (at.step == T) {
      Cell::start(slope[0]);
      Cell::start(slope[1]);
      w.h = packed<S>(former);
    } else {
      A wx[2][Cell::inputs] = {}, kept[2][Cell::kept];
#pragma unroll
      for (int i = Cell::sums; i < Cell::inputs; ++i) {
        const Pair<A> x = unpacked(in.wx[i - Cell::sums]);
        wx[0][i] = x.x, wx[1][i] = x.y;
      }
#pragma unroll
      for (int k = 0; k < Cell::kept; ++k) {
        const Pair<A> x = unpacked(in.kept[k]);
        kept[0][k] = x.x, kept[1][k] = x.y;
      }
      Cell::slopes_of(wx[0], kept[0], former.x, slope[0]);
      Cell::slopes_of(wx[1], kept[1], former.y, slope[1]);
      const Pair<A> h = {Cell::output(kept[0]), Cell::output(kept[1])}, d_y = unpacked(in.d_y), gate = unpacked(in.gate);
      const Pair<A> x = Cell::readout_slope(h.x, gate.x), y = Cell::readout_slope(h.y, gate.y);
      const Pair<A> last = at.step == 0 ? load2(p.d_h_last + at.corner) : Pair<A>{0, 0};
      w.d_h = {last.x + d_y.x * x.x, last.y + d_y.y * y.x};
      w.d_gate = packed<S>({d_y.x * x.y, d_y.y * y.y});
      w.h = packed<S>(h);
    }
#pragma unroll
    for (int i = 0; i < Cell::slopes; ++i) w.slope[i] = {slope[0][i], slope[1][i]};
    return w;
  }
  ELMAN_FN void value(Work& w, const Pair<A> (&sum)[1], Carry& carry, Pair<A> (&out)[Cell::sums]) const {
    A slope[2][Cell::slopes], d_pre[2][Cell::inputs];
#pragma unroll
    for (int i = 0; i < Cell::slopes; ++i) slope[0][i] = w.slope[i].x, slope[1][i] = w.slope[i].y;
    Cell::back(slope[0], w.d_h.x + sum[0].x, carry.value.x, d_pre[0]);
    Cell::back(slope[1], w.d_h.y + sum[0].y, carry.value.y, d_pre[1]);
#pragma unroll
    for (int i = 0; i < Cell::inputs; ++i) (i < Cell::sums ? out[i] : w.d_pre[i - Cell::sums]) = {d_pre[0][i], d_pre[1][i]};
  }
  ELMAN_FN void finish(const Place& at, const Work& w, const Pair<A> (&out)[Cell::sums]) const {
    const auto d_pre = [&](int i) { return i < Cell::sums ? out[i] : w.d_pre[i - Cell::sums]; };
    // h of this time is the former state of the next.
    if (at.step > 0) store_streamed(p.former + offset(at) + D, w.h);
    if (at.step == T) {
      store2(p.d_h0 + at.corner, d_pre(Cell::h_at).x, d_pre(Cell::h_at).y);
      if constexpr (Cell::local) store2(p.d_s0 + at.corner, d_pre(Cell::state_at).x, d_pre(Cell::state_at).y);
      return;
    }
    S* const to = p.d_wx + among(at, Cell::inputs, time(at), D);
#pragma unroll
    for (int i = 0; i < Cell::inputs; ++i) store2_streamed(to + i * D, d_pre(i).x, d_pre(i).y);
    if constexpr (Cell::gated) store_streamed(p.d_gate + offset(at), w.d_gate);
  }
};

// The first of two products of low rank: its sums are the results. Step s of the backward pass has those of time T - s.
template <class S, bool backward> struct FactorPass {
  using A = Acc<S>;
  using Carry = Carried<A>;
  static constexpr int outputs = 1;
  static constexpr bool partial = true;
  struct Input {};
  struct Work {};
  S* to;  // [B, T, R]
  int T, R;

  ELMAN_FN void fetch(const Place&, Input&) const {}
  ELMAN_FN Work prepare(const Place&, const Input&, const Carry&) const { return {}; }
  ELMAN_FN void value(Work&, const Pair<A> (&sum)[1], Carry&, Pair<A> (&out)[1]) const { out[0] = sum[0]; }
  ELMAN_FN void finish(const Place& at, const Work&, const Pair<A> (&out)[1]) const {
    const int64_t t = backward ? T - at.step : at.step;
    if (t < T) store2_streamed(to + at.cell + t * R, out[0].x, out[0].y);
  }
};

template <class Cell, class C, bool backward>
using CellProduct = Product<C::CHUNKS, C::TILES, C::SHARED, backward ? 1 : Cell::sums, backward ? Cell::sums : 1, C::WHOLE>;
template <class C> using FactorProduct = Product<C::V_CHUNKS, C::V_TILES, C::V_SHARED, 1, 1, C::V_WHOLE>;

template <class Cell, class C, class S> ELMAN_KERNEL(threads<C>) cell_forward(CellForward<S> p, Division split) {
  const int T = (int)p.T, D = (int)p.D;
  run<S, C, CellProduct<Cell, C, false>, false>(Matrix<S>{p.W, D, D}, p.exchange, split, (int)p.B, T, T, CellForwardPass<Cell, S>{p, T, D});
}
template <class Cell, class C, class S> ELMAN_KERNEL(threads<C>) cell_backward(CellBackward<S> p, Division split) {
  const int T = (int)p.T, D = (int)p.D;
  run<S, C, CellProduct<Cell, C, true>, true>(Matrix<S>{p.W, D, Cell::sums * D}, p.exchange, split, (int)p.B, T, T + 1,
                                              CellBackwardPass<Cell, S>{p, T, D});
}
template <class Cell, class C, class S> ELMAN_KERNEL(threads<C>) low_rank_forward(CellForward<S> p, Division split) {
  const int T = (int)p.T, D = (int)p.D, R = (int)p.R;
  run<S, C, FactorProduct<C>, CellProduct<Cell, C, false>, false>(Matrix<S>{p.V, R, D}, Matrix<S>{p.W, D, R}, p.exchange, split, (int)p.B, T, T,
                                                                  FactorPass<S, false>{p.m, T, R}, CellForwardPass<Cell, S>{p, T, D});
}
template <class Cell, class C, class S> ELMAN_KERNEL(threads<C>) low_rank_backward(CellBackward<S> p, Division split) {
  const int T = (int)p.T, D = (int)p.D, R = (int)p.R;
  run<S, C, FactorProduct<C>, CellProduct<Cell, C, true>, true>(Matrix<S>{p.W, R, D}, Matrix<S>{p.V, D, R}, p.exchange, split, (int)p.B, T, T + 1,
                                                                FactorPass<S, true>{p.d_m, T, R}, CellBackwardPass<Cell, S>{p, T, D});
}

// Launch one pass: of `P` alone, or where the Args have a V after that of a factor.
template <class C, class P, bool low_rank, class S, class Tensors>
Status start_cell(void (*kernel)(Tensors, Division), const char* name, const Tensors& p, int64_t steps, Stream stream) {
  using Carry = Carried<Acc<S>>;
  const Division split = divide<C>(p.B, p.D, P::tiles);
  if constexpr (low_rank) {
    using F = FactorProduct<C>;
    if ((int64_t)split.blocks * F::tiles * tile < p.R) return refuse("%s: R=%lld in a build for other sizes", name, (long long)p.R);
    ELMAN_TRY(check<C>(name, p.B, p.T, p.D + p.R));
    ELMAN_TRY((check<C, F>(name, Matrix<S>{p.V, (int)p.R, (int)p.D}, p.B)));
    ELMAN_TRY((check<C, P>(name, Matrix<S>{p.W, (int)p.D, (int)p.R}, p.B)));
    const unsigned bytes = Layout<S, C, Carry, F, P>().carve.bytes;
    return launch_pass<C, S>(kernel, name, p.exchange, p.B, p.D + p.R, steps, split, bytes, stream, p, split);
  } else {
    const int64_t width = P::operands * p.D;
    ELMAN_TRY(check<C>(name, p.B, p.T, width));
    ELMAN_TRY((check<C, P>(name, Matrix<S>{p.W, (int)p.D, (int)width}, p.B)));
    return launch_pass<C, S>(kernel, name, p.exchange, p.B, width, steps, split, Layout<S, C, Carry, P>().carve.bytes, stream, p, split);
  }
}

// A member of the variant's args::Forward or args::Backward, null where the binding declares none.
#define ELMAN_OPTIONAL(name, member)                            \
  template <class Args> auto name(const Args& a) {              \
    if constexpr (requires { a.member; }) return a.member;      \
    else return nullptr;                                        \
  }
ELMAN_OPTIONAL(gate_of, z)
ELMAN_OPTIONAL(d_gate_of, d_z)
ELMAN_OPTIONAL(factor_of, V)
ELMAN_OPTIONAL(state_of, s0)
ELMAN_OPTIONAL(d_state_of, d_s0)
ELMAN_OPTIONAL(last_state_of, s_last)
ELMAN_OPTIONAL(d_last_state_of, d_s_last)
ELMAN_OPTIONAL(product_of, m)
ELMAN_OPTIONAL(d_product_of, d_m)
#undef ELMAN_OPTIONAL
template <class Args> constexpr bool low_rank = requires(Args a) { a.V; };
template <class Args> auto matrix_of(const Args& a) {
  if constexpr (low_rank<Args>) return a.U;
  else return a.W;
}
template <class Args> int64_t rank_of(const Args& a) {
  if constexpr (low_rank<Args>) return a.R;
  else return 0;
}
template <class S> S element_of(const S*);

// `a` is the variant's args::Forward: wx, W or U and V, h0, s0 where the cell is local, z where it is gated, y, h_last, s_last, kept, m with
// low rank, and exchange by these names. C is args::Constant.
template <class Cell, class C, class Args> Status forward_cell(const char* name, const Args& a) {
  using S = decltype(element_of(a.wx));
  const CellForward<S> p{a.wx,  matrix_of(a), factor_of(a), gate_of(a), a.h0, state_of(a), a.y, product_of(a), a.h_last, last_state_of(a), a.kept,
                         a.exchange, a.B, a.T, a.D, rank_of(a)};
  if constexpr (low_rank<Args>) return start_cell<C, CellProduct<Cell, C, false>, true, S>(low_rank_forward<Cell, C, S>, name, p, p.T, a.stream);
  else return start_cell<C, CellProduct<Cell, C, false>, false, S>(cell_forward<Cell, C, S>, name, p, p.T, a.stream);
}

// `a` is the variant's args::Backward: the above, their gradients as d_..., former, and d_m with low rank.
template <class Cell, class C, class Args> Status backward_cell(const char* name, const Args& a) {
  using S = decltype(element_of(a.wx));
  const CellBackward<S> p{a.wx, matrix_of(a), factor_of(a), gate_of(a), a.h0, state_of(a), a.kept, a.d_y, a.d_h_last, d_last_state_of(a),
                          a.d_wx, d_gate_of(a), d_product_of(a), a.former, a.d_h0, d_state_of(a), a.exchange, a.B, a.T, a.D, rank_of(a)};
  if constexpr (low_rank<Args>) return start_cell<C, CellProduct<Cell, C, true>, true, S>(low_rank_backward<Cell, C, S>, name, p, p.T + 1, a.stream);
  else return start_cell<C, CellProduct<Cell, C, true>, false, S>(cell_backward<Cell, C, S>, name, p, p.T + 1, a.stream);
}
}  // namespace elman::dense
