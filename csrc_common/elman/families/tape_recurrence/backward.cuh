#pragma once
// The backward pass of tape_recurrence.cuh, which includes it. Iteration i = T..0; with G = d y, M and w as they were in step i - 1, M' = written
// (what h[i] was made from), g the gradient of M' without its term in dphi, and d_r, d_pre those of step i (zero for i = T):
//   shared sums   da_n = <d_r, M'_n>,   mu_n = <g_n + a_n d_r, w - M_n>
//   dphi = s a (da - sum a da),   dbeta = mu + dphi kappa,   deps = s beta (dbeta - sum beta dbeta)
//   dM'_n = g_n + a_n d_r + dphi_n h[i-1],   d_w = sum beta_n dM'_n + deps_n M_n,   g_n <- (1 - beta_n) dM'_n + deps_n w
//   d_h[i-1] = W_h^T d_pre + W_w^T d_w + sum dphi_n M'_n + what y[i-1] gives     (at i = 0 the gradient of h0, and g that of the first tape)

namespace elman::tape {
template <class Step, class C, class S, class Args> struct BackwardPass {
  using A = Acc<S>;
  struct Carry {
    Pair<A> d_pre, d_r, past, r;  // of step i; sum dphi_n M'_n; r of step i - 1
    A gate_x[Gate<Step, A>::held], gate_y[Gate<Step, A>::held];
  };
  using E = Engine<S, C, Carry, 2, true>;
  static constexpr int N = C::N;
  enum { G, M };  // what the tapes in shared memory hold: g, and M of step i - 1
  const Args p;
  const int T, D;
  const A scale;
  A* const gate_part;
  E e;
  Gate<Step, A> gate;

  ELMAN_FN BackwardPass(const Operand<2>& operand, const Args& p, const A* vectors, A* gate_part, Division split)
      : p(p), T((int)p.T), D((int)p.D), scale(rsqrt_of(A(p.D))), gate_part(gate_part),
        e(operand, p.W, p.exchange, p.partials, split, (int)p.B, (int)p.D, (int)p.T + 1) {
    if (e.owner()) gate.load(vectors, D, e.channel());
  }

  ELMAN_FN const A* kept(int64_t b, int i) const { return p.kept + (b * (T + 1) + i) * (3 * N); }
  // beta, kappa (which = 0, 1) of step i - 1, a (2) of step i; zero for rows that are none.
  ELMAN_FN void load(Slots<A, N>& to, int which, int i, int turn) const {
    const bool mine = e.mine(turn);
    const A* const from = kept(e.row(turn), i) + which * N;
    to.fill([&](int n, int) { return mine ? elman::load(from + n) : A(0); });
  }
  ELMAN_FN Pair<A> w_of(int step, int turn) const {  // nothing is written before step 0
    return load_if(e.mine(turn) && step >= 0, p.w + at_time(e.row(turn), T, step, D, e.channel()));
  }
  ELMAN_FN Pair<A> h_of(int step, int turn) const {
    const int64_t b = e.row(turn);
    return load_if(e.mine(turn), step >= 0 ? p.h + at_time(b, T, step, D, e.channel()) : p.h0 + b * D + e.channel());
  }

  // Put the tape that `step` found into shared memory. At the last step of each K, and first of all, make all up to it again.
  ELMAN_FN void load_tape(int step, int turn) {
    const int64_t b = e.row(turn);
    const bool mine = e.mine(turn);
    const int segment = step / C::K, first = segment * C::K, own = (int)lane() % lanes;
    A* const history = p.history + at_slot(b, C::K, 0, N, 0, D, e.channel());
    if (step == T - 1 || step - first == C::K - 1) {
#pragma unroll 1
      for (int n = 0; n < N; n += lanes) {
        Pair<A> tape[lanes];
#pragma unroll
        for (int j = 0; j < lanes; ++j)
          tape[j] = load_if(mine && n + j < N, p.tapes + at_slot(b, ceil_div(T, C::K), segment, N, n + j, D, e.channel()));
        for (int t = first; t <= step; ++t) {
          const Pair<A> w = w_of(t, turn);
          const A beta = mine && n + own < N ? elman::load(kept(b, t + 1) + n + own) : A(0);
#pragma unroll
          for (int j = 0; j < lanes; ++j) {
            if (mine && n + j < N) store2(history + ((int64_t)(t - first) * N + n + j) * D, tape[j].x, tape[j].y);
            tape[j] = written(tape[j], shfl(beta, (int)lane() / lanes * lanes + j), w);
          }
        }
      }
    }
#pragma unroll
    for (int n = 0; n < N; ++n) e.slot_of(M, turn, n) = load_if(mine, history + ((int64_t)(step - first) * N + n) * D);
  }

  // What the block's channels add to the sums of iteration i.
  ELMAN_FN void add(const Slots<A, N>& beta, const Slots<A, N>& a, Pair<A> w, Pair<A> d_r, int turn) {
    const int own = (int)lane() % lanes;
#pragma unroll
    for (int n = 0; n < N; n += lanes) {
      A of_a[lanes] = {}, of_beta[lanes] = {};
#pragma unroll
      for (int j = 0; j < lanes; ++j)
        if (n + j < N) {
          const Pair<A> tape = e.slot_of(M, turn, n + j);
          of_a[j] = dot(d_r, written(tape, beta.at(n + j), w));
          of_beta[j] = dot(e.slot_of(G, turn, n + j) + a.at(n + j) * d_r, w - tape);
        }
      const A d_a = scattered_sum(of_a), mu = scattered_sum(of_beta);
      if (n + own < N) e.give(n + own, d_a), e.give(N + n + own, mu);
    }
  }

  ELMAN_FN void begin(int turn) {
    if (!e.owner()) return;
    const bool mine = e.mine(turn);
    const Pair<A> none = {0, 0};
    Carry& c = e.carry(turn);
    c = Carry{};
#pragma unroll
    for (int n = 0; n < N; ++n) e.slot_of(G, turn, n) = load_if(mine, p.d_tape_last + at_slot(e.row(turn), 1, 0, N, n, D, e.channel()));
    load_tape(T - 1, turn);
    Slots<A, N> beta, a;
    load(beta, 0, T, turn), load(a, 2, T, turn);
    add(beta, a, w_of(T - 1, turn), none, turn);
  }

  // From the sums of iteration i to the operands of its product.
  ELMAN_FN void step(int i, int turn) {
    const bool mine = e.mine(turn);
    Slots<A, N> beta, kappa, a, next, d_phi, d_eps;
    Pair<A> h = {}, w = {};
    if (e.owner()) {
      load(beta, 0, i, turn), load(kappa, 1, i, turn), load(a, 2, i, turn), load(next, 2, max_of(i - 1, 0), turn);
      h = h_of(i - 1, turn), w = w_of(i - 1, turn);
    }
    e.gather(T - i, turn);
    if (!e.owner()) return;
    Carry& c = e.carry(turn);
    d_phi.fill([&](int n, int j) { return a.own[j] * e.value(n, turn); });
    const A mean = d_phi.sum();
    d_phi.fill([&](int n, int j) { return scale * a.own[j] * (e.value(n, turn) - mean); });
    kappa.fill([&](int n, int j) { return e.value(N + n, turn) + d_phi.own[j] * kappa.own[j]; });  // now d beta
    d_eps.fill([&](int, int j) { return beta.own[j] * kappa.own[j]; });
    const A middle = d_eps.sum();
    d_eps.fill([&](int, int j) { return scale * beta.own[j] * (kappa.own[j] - middle); });
    Pair<A> d_w = {0, 0};
    c.past = c.r = {0, 0};
#pragma unroll
    for (int n = 0; n < N; ++n) {
      const A of_beta = beta.at(n), of_phi = d_phi.at(n), of_eps = d_eps.at(n);
      const Pair<A> tape = e.slot_of(M, turn, n), d = e.slot_of(G, turn, n) + a.at(n) * c.d_r + of_phi * h;
      c.past = c.past + of_phi * written(tape, of_beta, w);
      d_w = d_w + of_beta * d + of_eps * tape;
      c.r = c.r + next.at(n) * tape;
      e.slot_of(G, turn, n) = (1 - of_beta) * d + of_eps * w;
    }
    e.phase.value[0] = c.d_pre, e.phase.value[1] = d_w;
    e.publish_operands(T - i, turn);
    e.erase_operands(T - i - 1, turn);
    if (!mine) return;
    const int64_t b = e.row(turn);
    S* const to = p.d_sums + at_time(b, T + 1, i, 2 * D, e.channel());
    store2_streamed(to, c.d_pre.x, c.d_pre.y), store2_streamed(to + D, d_w.x, d_w.y);
    store2_streamed(p.former + at_time(b, T + 1, i, D, e.channel()), h.x, h.y);
    if (i == 0)
#pragma unroll
      for (int n = 0; n < N; ++n) {
        const Pair<A> d = e.slot_of(G, turn, n);
        store2(p.d_tape0 + at_slot(b, 1, 0, N, n, D, e.channel()), d.x, d.y);
      }
  }

  // One channel of step i - 1, before the state's slope: what y gives to d_h, d_r and d_z.
  struct Read {
    A d_h, d_r, d_z;
  };
  ELMAN_FN Read read(A d_y, A z, A r, A h, const A (&vectors)[Gate<Step, A>::held], A (&part)[Gate<Step, A>::held]) const {
    const Score<A> s = Step::score(z, r, h, vectors);
    const A d_q = d_y * h * silu_slope(s.q);
#pragma unroll
    for (int v = 0; v < Step::vectors; ++v) part[v] += d_q * s.by_gate[v];
    return {d_y * silu_of(s.q) + d_q * s.by_h, d_q * s.by_r, d_q * s.by_z};
  }

  // The product of iteration i, the gradients of step i - 1, and what its channels add to the next sums.
  ELMAN_FN void product(int i, int turn) {
    const bool mine = e.mine(turn);
    const int64_t b = e.row(turn);
    const int t = i - 1;
    Pair<A> h = {}, w = {}, last = {};
    Packed<S> d_y = {}, z = {};
    Slots<A, N> beta, a;
    if (e.owner() && i > 0) {
      h = h_of(t, turn), w = w_of(t - 1, turn);
      if (mine) d_y = load_packed(p.d_y + at_time(b, T, t, D, e.channel())), z = load_packed(p.xz + at_time(b, T, t, 2 * D, e.channel()) + D);
      if (i == T) last = load_if(mine, p.d_h_last + b * D + e.channel());
      load(beta, 0, t, turn), load(a, 2, t, turn);
      if (t > 0) load_tape(t - 1, turn);  // at t = 0 the first tape is there: beta is 0 and w nothing
    }
    Pair<A> sum[1];
    e.multiply(T - i, turn, sum);
    if (!e.owner()) return;
    Carry& c = e.carry(turn);
    const Pair<A> d_h = sum[0] + c.past + last;
    if (i == 0) {
      if (mine) store2(p.d_h0 + b * D + e.channel(), d_h.x, d_h.y);
      return;
    }
    const Pair<A> of_y = unpacked(d_y), of_z = unpacked(z);
    const Read x = read(of_y.x, of_z.x, c.r.x, h.x, gate.x, c.gate_x), y = read(of_y.y, of_z.y, c.r.y, h.y, gate.y, c.gate_y);
    c.d_pre = {(d_h.x + x.d_h) * tanh_slope(h.x), (d_h.y + y.d_h) * tanh_slope(h.y)};
    c.d_r = {x.d_r + c.d_pre.x, y.d_r + c.d_pre.y};
    add(beta, a, w, c.d_r, turn);
    if (!mine) return;
    S* const to = p.d_xz + at_time(b, T, t, 2 * D, e.channel());
    store2_streamed(to, c.d_pre.x, c.d_pre.y), store2_streamed(to + D, x.d_z, y.d_z);
    if (t == 0) return;
    const int64_t before = at_time(b, T, t - 1, D, e.channel());
    prefetch(p.d_y + before), prefetch(p.h + before), prefetch(p.xz + at_time(b, T, t - 1, 2 * D, e.channel()) + D);
    if (t > 1) prefetch(p.w + before - D);
  }

  ELMAN_FN void run() {
    for (int turn = 0; turn < C::TURNS && e.present(turn); ++turn) {
      sync_block();  // those who publish the turn before have read
      begin(turn);
      e.share(0, turn);
    }
    for (int i = T; i >= 0; --i) {
      for (int turn = 0; turn < C::TURNS && e.present(turn); ++turn) step(i, turn);
      for (int turn = 0; turn < C::TURNS && e.present(turn); ++turn) {
        product(i, turn);
        if (i > 0) e.share(T - i + 1, turn);
        else sync_block();  // the next turn stores where this one has read
      }
      if ((T - i) % fence_steps<C> == 0) fence_words();
    }
    if constexpr (Step::vectors > 0)
      for (int turn = 0; turn < C::TURNS; ++turn)
        if (e.mine(turn))
#pragma unroll
          for (int v = 0; v < Step::vectors; ++v) {
            const Carry& c = e.carry(turn);
            store2(gate_part + (e.row(turn) * Step::vectors + v) * D + e.channel(), c.gate_x[v], c.gate_y[v]);
          }
  }
};
}  // namespace elman::tape
