#pragma once
// Recurrences with a tape M of N slots [D] beside a dense state h; t counts steps, s = 1 / sqrt(D):
//   a = softmax_n(s <h[t-1], M_n[t]>),   r = sum a_n M_n[t],   h[t] = tanh(p[t] + W_h h[t-1] + r),   y[t] = h[t] silu(q(z[t], r, h[t]))
//   w = W_w h[t],   beta = softmax_n(s <w, M_n[t]>),   M_n[t+1] = (1 - beta_n) M_n[t] + beta_n w
// A variant supplies a Step, the score q of the readout's gate:
//   struct Step {
//     static constexpr int vectors;                                                // [D] each, in `gate`
//     template <class A> static ELMAN_FN Score<A> score(A z, A r, A h, const A (&gate)[vectors or 1]);
//   };
// tape_recurrence/engine.cuh runs a pass. Its product gives W_h h[i-1] and W_w h[i-1] at once: w of step i - 1 and a part of h[i]. So iteration
// i = 0..T writes what step i - 1 left and then begins step i, and <h[i-1], M_n[i]> follows from sums with M[i-1] and from beta:
//   <h, M_n'> = chi_n + beta_n kappa_n,   chi_n = <h, M_n>,   kappa_n = <h, w> - chi_n.
// The backward pass goes back through the same iterations. The gradient g of the new tape is complete but for one term, dphi_n h[i-1], when
// d beta of the step before is summed; kappa, which forward keeps, completes that sum too. `kept` has beta, kappa and a of each iteration.
// The tape is saved every K steps; the backward pass makes the others again, K at a time, each thread its own channels, in `history`.
// Rounding points in a bf16 build besides loads and stores: h as operand (`h_operand`), and the gradients of W_h h and W_w h as operands and as
// rows of d_sums (`d_pre`, `d_w`). Row i of d_sums and of `former` is what the product had: W's gradient is one product of both.
#include <elman/families/tape_recurrence/engine.cuh>

namespace elman::tape {
// A score and its slopes by z, r, h and each vector.
template <class A> struct Score {
  A q, by_z, by_r, by_h;
  A by_gate[4];
};

template <class A> ELMAN_FN Pair<A> operator+(Pair<A> a, Pair<A> b) { return {a.x + b.x, a.y + b.y}; }
template <class A> ELMAN_FN Pair<A> operator-(Pair<A> a, Pair<A> b) { return {a.x - b.x, a.y - b.y}; }
template <class A> ELMAN_FN Pair<A> operator*(Pair<A> a, Pair<A> b) { return {a.x * b.x, a.y * b.y}; }
template <class A> ELMAN_FN Pair<A> operator*(A a, Pair<A> b) { return {a * b.x, a * b.y}; }
template <class A> ELMAN_FN A dot(Pair<A> a, Pair<A> b) { return a.x * b.x + a.y * b.y; }
template <class A> ELMAN_FN Pair<A> written(Pair<A> M, A beta, Pair<A> w) { return (1 - beta) * M + beta * w; }
template <class A> ELMAN_FN Pair<A> load_if(bool present, const A* p) { return present ? load2(p) : Pair<A>{0, 0}; }

// Offsets: element d of row b at time t of [B, T, width], and of slot n of [B, count, N, D].
ELMAN_FN int64_t at_time(int64_t b, int64_t T, int64_t t, int width, int d) { return (b * T + t) * width + d; }
ELMAN_FN int64_t at_slot(int64_t b, int count, int j, int N, int n, int D, int d) { return ((b * count + j) * N + n) * (int64_t)D + d; }

// The readout's gate for two channels.
template <class Step, class A> struct Gate {
  static constexpr int held = Step::vectors ? Step::vectors : 1;
  A x[held] = {}, y[held] = {};
  ELMAN_FN void load(const A* gate, int D, int channel) {
#pragma unroll
    for (int i = 0; i < Step::vectors; ++i) {
      const Pair<A> v = load2(gate + i * D + channel);
      x[i] = v.x, y[i] = v.y;
    }
  }
};

template <class Step, class C, class S, class Args> struct ForwardPass {
  using A = Acc<S>;
  struct Carry {
    Pair<A> h, u, w;  // h[i-1], W_h h[i-1], W_w h[i-1]
  };
  using E = Engine<S, C, Carry, 1, false>;
  static constexpr int N = C::N;
  const Args p;
  const int T, D;
  const A scale;
  E e;
  Gate<Step, A> gate;

  ELMAN_FN ForwardPass(const Operand<1>& operand, const Args& p, const A* vectors, Division split)
      : p(p), T((int)p.T), D((int)p.D), scale(rsqrt_of(A(p.D))), e(operand, p.W, p.exchange, p.partials, split, (int)p.B, (int)p.D, (int)p.T + 1) {
    if (e.owner()) gate.load(vectors, D, e.channel());
  }

  ELMAN_FN void begin(int turn) {
    if (!e.owner()) return;
    const bool mine = e.mine(turn);
    const int64_t b = e.row(turn);
    e.carry(turn).h = e.phase.value[0] = load_if(mine, p.h0 + b * D + e.channel());
#pragma unroll
    for (int n = 0; n < N; ++n) e.slot_of(0, turn, n) = load_if(mine, p.tape0 + at_slot(b, 1, 0, N, n, D, e.channel()));
    e.publish_operands(0, turn);
  }

  ELMAN_FN void scores(int i, int turn) {
    Pair<A> sum[2];
    e.multiply(i, turn, sum);
    if (!e.owner()) return;
    Carry& c = e.carry(turn);
    c.u = sum[0], c.w = i > 0 ? sum[1] : Pair<A>{0, 0};  // nothing is written before the first step
    const int own = (int)lane() % lanes;
#pragma unroll
    for (int n = 0; n < N; n += lanes) {
      A of_w[lanes] = {}, of_h[lanes] = {};
#pragma unroll
      for (int j = 0; j < lanes; ++j)
        if (n + j < N) {
          const Pair<A> M = e.slot_of(0, turn, n + j);
          of_w[j] = dot(c.w, M), of_h[j] = dot(c.h, M);
        }
      const A by_w = scattered_sum(of_w), by_h = scattered_sum(of_h);
      if (n + own < N) e.give(n + own, by_w), e.give(N + n + own, by_h);
    }
    const A square = warp_sum<lanes>(dot(c.h, c.w));
    if (own == 0) e.give(2 * N, square);
  }

  ELMAN_FN void step(int i, int turn) {
    const bool mine = e.mine(turn), last = i == T;
    const int64_t b = e.row(turn), at = at_time(b, T, i, D, e.channel());
    const S* const xz = p.xz + at_time(b, T, i, 2 * D, e.channel());
    Packed<S> input = {}, z = {};
    if (mine && !last) input = load_packed(xz), z = load_packed(xz + D);
    e.gather(i, turn);
    if (!e.owner()) return;
    Carry& c = e.carry(turn);
    Slots<A, N> beta, kappa, a;
    const A square = e.value(2 * N, turn);
    beta.fill([&](int n, int) { return scale * e.value(n, turn); });
    beta.softmax();
    if (i == 0) beta.fill([](int, int) { return A(0); });
    kappa.fill([&](int n, int) { return square - e.value(N + n, turn); });
    a.fill([&](int n, int j) { return scale * (e.value(N + n, turn) + beta.own[j] * kappa.own[j]); });
    a.softmax();
    Pair<A> r = {0, 0};
#pragma unroll
    for (int n = 0; n < N; ++n) {
      Pair<A>& M = e.slot_of(0, turn, n);
      M = written(M, beta.at(n), c.w);
      r = r + a.at(n) * M;
    }
    const Pair<A> w = c.w, x = unpacked(input);
    c.h = {tanh_of(x.x + c.u.x + r.x), tanh_of(x.y + c.u.y + r.y)};
    if (!mine) c.h = {0, 0};
    e.phase.value[0] = c.h;
    if (!last) e.publish_operands(i + 1, turn);
    e.erase_operands(i, turn);
    if (!mine) return;
    if (e.first_tile()) {
      A* const to = p.kept + (b * (T + 1) + i) * (3 * N);
#pragma unroll
      for (int j = 0; j < beta.count; ++j)
        if (beta.present(j)) {
          const int n = beta.slot(j);
          store(to + n, beta.own[j]), store(to + N + n, kappa.own[j]), store(to + 2 * N + n, a.own[j]);
        }
    }
    if (i + 1 < T) prefetch(xz + 2 * D), prefetch(xz + 3 * D);
    if (i > 0) store2_streamed(p.w + at - D, w.x, w.y);
    if (i % C::K == 0 && !last)
#pragma unroll
      for (int n = 0; n < N; ++n) {
        const Pair<A> M = e.slot_of(0, turn, n);
        store2(p.tapes + at_slot(b, ceil_div(T, C::K), i / C::K, N, n, D, e.channel()), M.x, M.y);
      }
    if (!last) {
      const Pair<A> h = c.h, v = unpacked(z);
      store2_streamed(p.h + at, h.x, h.y);
      store2_streamed(p.y + at, h.x * silu_of(Step::score(v.x, r.x, h.x, gate.x).q), h.y * silu_of(Step::score(v.y, r.y, h.y, gate.y).q));
      if (i == T - 1) store2(p.h_last + b * D + e.channel(), h.x, h.y);
    } else {
#pragma unroll
      for (int n = 0; n < N; ++n) {
        const Pair<A> M = e.slot_of(0, turn, n);
        store2(p.tape_last + at_slot(b, 1, 0, N, n, D, e.channel()), M.x, M.y);
      }
    }
  }

  ELMAN_FN void run() {
    for (int turn = 0; turn < C::TURNS; ++turn) begin(turn);
    for (int i = 0; i <= T; ++i) {
      for (int turn = 0; turn < C::TURNS && e.present(turn); ++turn) {
        scores(i, turn);
        e.share(i, turn);
      }
      for (int turn = 0; turn < C::TURNS && e.present(turn); ++turn) step(i, turn);
      if (i % fence_steps<C> == 0) fence_words();
    }
  }
};
}  // namespace elman::tape

#include <elman/families/tape_recurrence/backward.cuh>

namespace elman::tape {
template <class Step, class C, class S, class Args> ELMAN_KERNEL(threads<C>) forward_pass(Args p, const Acc<S>* gate, Division split) {
  const Operand<1> operand{};
  ForwardPass<Step, C, S, Args>(operand, p, gate, split).run();
}
template <class Step, class C, class S, class Args>
ELMAN_KERNEL(threads<C>) backward_pass(Args p, const Acc<S>* gate, Acc<S>* gate_part, Division split) {
  const Operand<2> operand{};
  BackwardPass<Step, C, S, Args>(operand, p, gate, gate_part, split).run();
}

template <class C, class S, class E, class Args, class... Given>
Status start(void (*kernel)(Given...), const char* name, const Args& a, Division split, Given... arguments) {
  const int64_t width = a.D * E::P::operands;
  ELMAN_TRY(check<C>(name, a.B, a.T, width));
  ELMAN_TRY((check<C, typename E::P>(name, Matrix<S>{a.W, (int)a.D, (int)width}, a.B)));
  const size_t slots = (size_t)min_of<int64_t>(C::RING, a.T + 1), words = (size_t)ceil_div<int64_t>(a.B, rows) * E::values * split.blocks * rows;
  ELMAN_TRY(fill_async(a.partials, 0xFF, slots * words * sizeof(Acc<S>), a.stream));
  return launch_pass<C, S>(kernel, name, a.exchange, a.B, width, a.T, split, typename E::At().carve.bytes, a.stream, arguments...);
}

// `a` is the variant's args::Forward or args::Backward, S its scalar; gate [vectors, D] and gate_part [B, vectors, D], its gradient for each
// batch row, are null where Step has no vectors.
template <class Step, class C, class S, class Args> Status forward(const char* name, const Args& a, const Acc<S>* gate = nullptr) {
  const Division split = divide<C>(a.B, a.D, C::TILES);
  return start<C, S, typename ForwardPass<Step, C, S, Args>::E>(forward_pass<Step, C, S, Args>, name, a, split, a, gate, split);
}
template <class Step, class C, class S, class Args>
Status backward(const char* name, const Args& a, const Acc<S>* gate = nullptr, Acc<S>* gate_part = nullptr) {
  const Division split = divide<C>(a.B, a.D, C::TILES);
  return start<C, S, typename BackwardPass<Step, C, S, Args>::E>(backward_pass<Step, C, S, Args>, name, a, split, a, gate, gate_part, split);
}
}  // namespace elman::tape
