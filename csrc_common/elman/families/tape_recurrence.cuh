#pragma once
// Recurrences with a tape M of N slots [D] beside a dense state h; t counts steps, s = 1 / sqrt(D):
//   a = softmax_n(s <h[t-1], M_n[t]>),   r = sum a_n M_n[t],   h[t] = tanh(p[t] + W_h h[t-1] + r),   y[t] = h[t] silu(q(z[t], r, h[t]))
//   w = W_w h[t],   beta = softmax_n(s <w, M_n[t]>),   M_n[t+1] = (1 - beta_n) M_n[t] + beta_n w
// A variant supplies a Step, the score q of the readout's gate:
//   struct Step {
//     static constexpr int vectors;                                                // [D] each, in `gate`
//     template <class A> static ELMAN_FN Score<A> score(A z, A r, A h, const A (&gate)[vectors or 1]);
//   };
// tape_recurrence/engine.cuh runs a pass. W_h h[i-1] and W_w h[i-1], the latter w of step i - 1, are products of the same operand. So iteration
// i = 0..T writes what step i - 1 left and then begins step i, and <h[i-1], M_n[i]> follows from sums with M[i-1] and from beta:
//   <h, M_n'> = <h, w> - (1 - beta_n) kappa_n,   kappa_n = <h, w - M_n>,
// of which the first term is the same for all slots and leaves the softmax as it is: two sums a slot are shared, <w, M_n> and kappa_n.
// The backward pass goes back through the same iterations. The gradient g of the new tape is complete but for one term, dphi_n h[i-1], when
// d beta of the step before is summed; kappa, which forward keeps, completes that sum too. `kept` has beta, kappa and a of each iteration.
// The tape is saved every K steps. The backward pass makes the others again, each step one of the K steps before, in the place of the one that it
// has done with: in shared memory, or where constant FAR is 1 in `history`.
// Rounding points in a bf16 build besides loads and stores: h as operand (`h_operand`), and the gradients of W_h h and W_w h as operands and as
// rows of d_sums (`d_pre`, `d_w`). Row i of d_sums and of `former` is what the product had: W's gradient is one product of both.
#include <elman/families/tape_recurrence/engine.cuh>

namespace elman::tape {
// A score and its slopes by z, r, h and each vector.
template <class A> struct Score {
  A q, by_z, by_r, by_h;
  A by_gate[4];
};

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

// tanh, and of its slope the caller takes tanh_slope; where S is bf16 of the hardware (math.cuh).
template <class S, class A> ELMAN_FN Pair<A> tanh_pair(Pair<A> x) {
  A v[2] = {tanh_scale<S> * x.x, tanh_scale<S> * x.y};
  tanh_each<S, 1>(v);
  return {v[0], v[1]};
}

// Iteration i, with what is on the chain from one block to another marked by >:
//   > W_w h[i-1]; > barrier; > w, its sums with the tape, published;   W_h h[i-1] and its barrier while they travel
//   > the row's scores, both softmaxes, r, h[i], published;   barrier;   while h[i] travels M[i] and <h[i], M[i]>
// The last is done by helpers, where there are any, which hand <h[i], M[i]> to their owners. They store and read out while owners gather the
// scores of the next iteration. Without helpers an owner does all that while h[i] travels.
template <class Step, class C, class S, class Args> struct ForwardPass {
  using A = Acc<S>;
  struct Carry {
    Pair<A> h, u, w;  // h[i-1], W_h h[i-1], W_w h[i-1]
    A chi[(C::N + lanes - 1) / lanes];  // the team's part of <h[i-1], M_n[i-1]>
  };
  using E = Engine<S, C, Carry, 1, 1, 3 + 3 * ((C::N + lanes - 1) / lanes), false>;
  static constexpr int N = C::N, octets = (N + lanes - 1) / lanes;
  static constexpr bool alone = C::TURNS == 1;
  static constexpr int of_chi = 3 + 2 * octets;  // pairs that a helper hands to its owner, behind those of `hand`
  static constexpr unsigned aside = 300;  // cycles for the scores to read shared memory, before the other warps read their part of W_h from it
  const Args p;
  const int T, D;
  const A scale;
  E e;
  Gate<Step, A> gate;
  Packed<S> input{}, z{};
  Slots<A, N> beta, kappa, a;
  Pair<A> r;

  ELMAN_FN ForwardPass(const Args& p, const A* vectors, Division split)
      : p(p), T((int)p.T), D(width<C>(p.D)), scale(rsqrt_of(A(p.D))), e(p.W + p.D * p.D, p.W, p.exchange, p.partials, split, (int)p.B, p.D, (int)p.T + 1) {
    if (e.spare && e.channel < D) gate.load(vectors, D, e.channel);
  }

  ELMAN_FN void begin(int turn) {
    if (!e.owner) return;
    const bool mine = e.mine(turn);
    const int64_t b = e.row(turn);
    Carry& c = e.carry(turn);
    c.h = load_if(mine, p.h0 + b * D + e.channel);
    e.publish_operand(0, turn, 0, c.h);
#pragma unroll
    for (int n = 0; n < N; n += lanes) {
      A of_h[lanes] = {};
#pragma unroll
      for (int j = 0; j < lanes; ++j)
        if (n + j < N) {
          const Pair<A> M = load_if(mine, p.tape0 + at_slot(b, 1, 0, N, n + j, D, e.channel));
          e.slot_of(0, turn, n + j) = M, of_h[j] = dot(c.h, M);
        }
      match(n / lanes, of_h, turn);
    }
  }

  // chi, from the parts of <h, M_n> in each lane.
  ELMAN_FN void match(int octet, A (&of_h)[lanes], int turn) {
    const A chi = e.team_sums(of_h);
    if (E::helped) e.handed(of_chi + octet).x = chi;
    else e.carry(turn).chi[octet] = chi;
  }

  ELMAN_FN void fetch(int i, int turn) {
    if (!e.held(turn) || i >= T) return;
    const S* const xz = p.xz + at_time(e.row(turn), T, i, 2 * D, e.channel);
    if (e.owner) input = load_packed(xz);
    if (e.spare && !E::helped) z = load_packed(xz + D);
  }

  ELMAN_FN void scores(int i, int turn) {
    Carry& c = e.carry(turn);
    constexpr bool early = octets == 1;  // whether the tape is read before the sums: one after the other costs more
    Pair<A> M[lanes];
    if (early)
#pragma unroll
      for (int n = 0; n < lanes && n < N; ++n) M[n] = e.slot_of(0, turn, n);
    c.w = e.take(0);
    if (i == 0) c.w = {0, 0};  // nothing is written before the first step
    const A square = e.team_sum(dot(c.h, c.w));
#pragma unroll
    for (int n = 0; n < N; n += lanes) {
      A of_w[lanes] = {};
#pragma unroll
      for (int j = 0; j < lanes; ++j)
        if (n + j < N) of_w[j] = dot(c.w, early ? M[j] : e.slot_of(0, turn, n + j));
      const A by_w = e.team_sums(of_w);
      const A chi = E::helped ? e.handed(of_chi + n / lanes).x : c.chi[n / lanes];
      e.publish_values(i, turn, n / lanes, by_w, square - chi);
    }
    e.erase_values(i - 1, turn);
  }

  ELMAN_FN void product(int i, int turn) {
    const bool writes = E::helped && e.helper && i > 0;
    if (writes) take_in();
    if (alone) pause(e.since, C::DELAY);
    e.template look<0>(i, turn);
    if (writes) write(i - 1, turn);
    if (alone && !E::helped && i > 0) finish(i - 1, turn);
    e.template wait<0>(i, turn);
    if (alone) fetch(i, turn);
    typename E::Sum of_w = {}, of_h = {};
    e.multiply(e.front, of_w, 0);
    e.put(0, of_w);
    sync_block();
    if (e.owner) scores(i, turn);
    else if (alone) pause(cycles(), aside);
    e.multiply(e.rest, of_h, 0);
    e.put(1, of_h);
    sync_block();
    if (!alone && e.owner) e.carry(turn).u = e.take(1);
  }

  ELMAN_FN void step(int i, int turn) {
    const bool last = i == T;
    Carry& c = e.carry(turn);
    if (!alone) fetch(i, turn);
    if (e.owner) {
      e.gather(i, turn, beta, kappa, [&] {
        if (alone) c.u = e.take(1);
      });
      const Slots<A, N> by_w = beta;
      weigh(i, turn, by_w, false);
      // Both softmaxes without a shift, and again with one where a score of the warp asks for it. Scores of the second are at most scale kappa.
      if (ballot(by_w.far_by(scale) || kappa.far_by(scale))) weigh(i, turn, by_w, true);
      c.h = tanh_pair<S>(unpacked(input) + c.u + r);
      if (!e.mine(turn)) c.h = {0, 0};
      if (!last) e.publish_operand(i + 1, turn, 0, c.h);
      if (E::helped)
        hand([&](int which, Pair<A>& x) { e.handed(which) = x; });
    } else if (e.helper && e.held(turn)) {
      if (i > 0) stores(i - 1, turn);
      if (!last) z = load_packed(p.xz + at_time(e.row(turn), T, i, 2 * D, e.channel) + D);
    }
    if (turn == 0) e.order(i);
    sync_block();
    e.since = cycles();
    if (e.owner) e.erase_operands(i, turn);
    if (!alone || last) finish(i, turn);
  }

  // What a step's stores need, from the owner to its helper.
  template <class Each> ELMAN_FN void hand(Each each) {
    Carry& c = e.own;
    each(0, c.h), each(1, c.w), each(2, r);
#pragma unroll
    for (int j = 0; j < beta.count; ++j) {
      Pair<A> x{beta.own[j], kappa.own[j]}, y{a.own[j], 0};
      each(3 + 2 * j, x), each(4 + 2 * j, y);
      beta.own[j] = x.x, kappa.own[j] = x.y, a.own[j] = y.x;
    }
  }

  // What is left of step i: its stores, and the tape that the next scores need.
  ELMAN_FN void finish(int i, int turn) {
    if (e.helper) take_in();
    if (e.spare && e.held(turn)) stores(i, turn);
    if (E::helped ? e.helper : e.owner) write(i, turn);
  }
  ELMAN_FN void take_in() {
    hand([&](int which, Pair<A>& x) { x = e.handed(which); });
  }

  // beta, a and r from the sums of w with the tape and kappa.
  ELMAN_FN void weigh(int i, int turn, const Slots<A, N>& by_w, bool shifted) {
    const Carry& c = e.carry(turn);
    A all = 0, of_w = 0;
    beta.fill([&](int, int j) { return scale * by_w.own[j]; });
    beta.template exponentials<S>(shifted);
    const A of_beta = reciprocal_of(beta.sum());
    beta.fill([&](int, int j) { return i > 0 ? of_beta * beta.own[j] : A(0); });
    a.fill([&](int, int j) { return scale * (beta.own[j] - 1) * kappa.own[j]; });
    a.template exponentials<S>(shifted);
    r = {0, 0};
#pragma unroll
    for (int n = 0; n < N; ++n) {
      const A share = a.at(n), given = share * beta.at(n);
      all += share, of_w += given;
      r = r + (share - given) * e.slot_of(0, turn, n);
    }
    all = reciprocal_of(all);
    r = all * (r + of_w * c.w);
    a.fill([&](int, int j) { return all * a.own[j]; });
  }

  // What the next step does not need: the readout, and what is kept.
  ELMAN_FN void stores(int i, int turn) {
    const Carry& c = e.carry(turn);
    const int64_t b = e.row(turn), at = at_time(b, T, i, D, e.channel);
    if (i > 0) store2_streamed(p.w + at - D, c.w.x, c.w.y);
    if (i < T) {
      const Pair<A> h = c.h, v = unpacked(z);
      store2_streamed(p.y + at, h.x * silu_for<S>(Step::score(v.x, r.x, h.x, gate.x).q), h.y * silu_for<S>(Step::score(v.y, r.y, h.y, gate.y).q));
      store2_streamed(p.h + at, h.x, h.y);
      if (i == T - 1) store2(p.h_last + b * D + e.channel, h.x, h.y);
    }
    if (i + 2 < T) {
      const S* const xz = p.xz + at_time(b, T, i + 2, 2 * D, e.channel);
      prefetch(xz), prefetch(xz + D);
    }
    if (!e.of_row(turn)) return;
    A* const to = p.kept + (b * (T + 1) + i) * (3 * N);
#pragma unroll
    for (int j = 0; j < beta.count; ++j)
      if (beta.present(j)) {
        const int n = beta.slot(j);
        store(to + n, beta.own[j]), store(to + N + n, kappa.own[j]), store(to + 2 * N + n, a.own[j]);
      }
  }

  // The tape that the next scores need, which is kept where it is one of those that are saved.
  ELMAN_FN void write(int i, int turn) {
    const int64_t b = e.row(turn);
    const Carry& c = e.carry(turn);
#pragma unroll
    for (int n = 0; n < N; n += lanes) {
      A of_h[lanes] = {};
      Pair<A> M[lanes];
#pragma unroll
      for (int j = 0; j < lanes; ++j)
        if (n + j < N) M[j] = e.slot_of(0, turn, n + j);
#pragma unroll
      for (int j = 0; j < lanes; ++j)
        if (n + j < N) {
          M[j] = written(M[j], beta.at(n + j), c.w);
          e.slot_of(0, turn, n + j) = M[j], of_h[j] = dot(c.h, M[j]);
        }
      match(n / lanes, of_h, turn);
    }
    const bool saved = i % C::K == 0 && i < T;
    if (!e.held(turn) || !(saved || i == T)) return;
#pragma unroll
    for (int n = 0; n < N; ++n) {
      const Pair<A> M = e.slot_of(0, turn, n);
      if (saved) store2(p.tapes + at_slot(b, ceil_div(T, C::K), i / C::K, N, n, D, e.channel), M.x, M.y);
      else store2(p.tape_last + at_slot(b, 1, 0, N, n, D, e.channel), M.x, M.y);
    }
  }

  ELMAN_FN void run() {
    for (int turn = 0; turn < C::TURNS; ++turn) begin(turn);
    for (int i = 0; i <= T; ++i) {
      for (int turn = 0; turn < C::TURNS && e.present(turn); ++turn) product(i, turn);
      for (int turn = 0; turn < C::TURNS && e.present(turn); ++turn) step(i, turn);
    }
  }
};
}  // namespace elman::tape

#include <elman/families/tape_recurrence/backward.cuh>

namespace elman::tape {
template <class Step, class C, class S, class Args> ELMAN_KERNEL(threads<C>) forward_pass(Args p, const Acc<S>* gate, Division split) {
  ForwardPass<Step, C, S, Args>(p, gate, split).run();
}
template <class Step, class C, class S, class Args>
ELMAN_KERNEL(threads<C>) backward_pass(Args p, const Acc<S>* gate, Acc<S>* gate_part, Division split) {
  BackwardPass<Step, C, S, Args>(p, gate, gate_part, split).run();
}

template <class C, class S, class E, class Args, class... Given>
Status start(void (*kernel)(Given...), const char* name, const Args& a, Division split, Given... arguments) {
  const int64_t width = a.D * E::P::operands;
  ELMAN_TRY(check<C>(name, a.B, a.T, width));
  ELMAN_TRY((check<C, typename E::P>(name, Matrix<S>{a.W, (int)a.D, (int)width}, a.B)));
  const size_t slots = (size_t)min_of<int64_t>(C::RING, a.T + 1), teams = (size_t)ceil_div<int64_t>(a.D, E::joint * tile);
  ELMAN_TRY(fill_async(a.partials, 0xFF, (counters(a.B) + slots * (size_t)(ceil_div<int64_t>(a.B, rows) * rows) * teams * E::words) * sizeof(Acc<S>), a.stream));
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
