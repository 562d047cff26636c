#pragma once
// What an iteration of the backward pass of tape_recurrence.cuh reads: by each thread itself (`fetch`), or where `ahead` is true by helpers, an
// iteration before it is needed, who give owners their part and form what those need of it, of g and of the tape.
#include <elman/families/tape_recurrence/tapes.cuh>

namespace elman::tape {
// `Args` is the variant's args::Backward, E the pass's engine.
template <class C, class S, class E, class Args> struct Rows : Tapes<C, S, E, Args> {
  using A = Acc<S>;
  using Base = Tapes<C, S, E, Args>;
  using Base::p, Base::T, Base::D, Base::e, Base::kept, Base::w_at, Base::found;
  using Base::restores, Base::partner, Base::past_beta, Base::past_w, Base::fetch_writing, Base::prefetch_writing;
  static constexpr int N = C::N, octets = (N + lanes - 1) / lanes;
  // Not with tapes in global memory, which each thread has to read for itself.
  static constexpr bool ahead = E::helped && !C::FAR;
  // Pairs that an owner and its helper hand to each other. From one barrier to the other d_pre, d_w, d_r go to the helper, and in the same places
  // on to the next w, h[i-1] and the sum of beta g to the owner, who then reads before it writes, as the helper does. Others have their own.
  enum { of_d_pre = 0, of_d_w = 1, of_d_r = 2, of_w_next = 0, of_h = 1, of_beta_g = 2, of_beta_M = 3, of_d_h = 4, of_d_q = 5, of_slots = 6 };
  static constexpr int of_row = of_slots + 2 * octets, gates = of_row + 2 * octets;  // for each octet (beta, kappa), (a, G); gate and gradient
  // What forward kept of iteration i: beta and kappa of step i - 1, a of step i; and w of step i - 1.
  struct Row {
    Slots<A, N> beta, kappa, a;
    Pair<A> w;
  };
  const A scale;
  A* const gate_part;
  const A* const vectors;  // of the readout's gate
  Row now{}, next{}, after{};  // of iterations i, i - 1 and i - 2
  Pair<A> h{}, d_w{};  // of step i - 1, as d_y and z
  Pair<A> new_g[octets == 1 ? N : 1];  // g as `update` in backward.cuh made it
  Pair<A> h_after{}, h_stored{};  // of step i - 2; and what is to be stored
  Packed<S> d_y{}, z{};
  A beta_a{};  // sum of beta a

  ELMAN_FN Rows(const Args& p, const A* vectors, A* gate_part, Division split)
      : Base(p, split), scale(rsqrt_of(A(p.D))), gate_part(gate_part), vectors(vectors) {}

  ELMAN_FN Pair<A>& g_of(int turn, int n) const { return e.slot_of(0, turn, n); }

  // Nothing is written before step 0; rows that are none have zeros.
  ELMAN_FN void load(Row& to, int i, int turn) const {
    if (i < 0 || !e.in_batch(turn)) return;
    const A* const from = kept(e.row(turn), i);
    to.beta.fill([&](int n, int) { return elman::load(from + n); });
    to.kappa.fill([&](int n, int) { return elman::load(from + N + n); });
    to.a.fill([&](int n, int) { return elman::load(from + 2 * N + n); });
    if (i == 0) to.w = {0, 0};
    else if (e.held(turn)) to.w = load2(w_at(i - 1, turn));
  }
  // What iteration i reads of step i - 1.
  ELMAN_FN void fetch(int i, int turn) {
    if (e.owner) {
      load(next, i - 1, turn);
      if (i > 1 && restores(i - 1)) fetch_writing(partner(i - 1), turn);
    }
    if (!e.held(turn)) return;
    const int64_t b = e.row(turn), at = at_time(b, T, i - 1, D, e.channel);
    h = load2(i > 0 ? p.h + at : p.h0 + b * D + e.channel);
    if (e.spare && i > 0) d_y = load_packed(p.d_y + at), z = load_packed(p.xz + at_time(b, T, i - 1, 2 * D, e.channel) + D);
  }

  // Bring to the L2 cache what the next fetch reads.
  ELMAN_FN void prefetches(int i, int turn) const {
    if (!e.held(turn) || i < 2) return;
    const int64_t b = e.row(turn), at = at_time(b, T, i - 2, D, e.channel);
    prefetch(p.d_y + at), prefetch(p.h + at), prefetch(p.xz + at_time(b, T, i - 2, 2 * D, e.channel) + D);
    prefetch(kept(b, i - 2) + (int)lane() % lanes);
    if (!E::helped) prefetch_writing(partner(i - 2), turn);
  }

  // Where `ahead` is true, a helper's loads for iteration i, in the iteration before, and to the L2 cache those of iteration i - 1: behind its look at
  // d_pre the rows, behind that at d_w what restoring takes. So each comes with the look.
  ELMAN_FN void fetch_ahead(int i, int turn) {
    if (!e.helper || i < 0 || !e.in_batch(turn)) return;
    const bool more = i > 2;
    const int64_t b = e.row(turn), at = at_time(b, T, i - 1, D, e.channel);
    const A* const row = kept(b, i - 1);
    if (i > 0) {
      after.beta.fill([&](int n, int) { return elman::load(row + n); });
      after.kappa.fill([&](int n, int) { return elman::load(row + N + n); });
      after.a.fill([&](int n, int) { return elman::load(row + 2 * N + n); });
    }
    if (more) prefetch(row - 3 * N + (int)lane() % lanes);
    if (!e.held(turn)) return;
    if (i > 1) after.w = load2(p.w + at - D);
    else after.w = {0, 0};
    h_after = load2(i > 0 ? p.h + at : p.h0 + b * D + e.channel);
    const S* const of_y = p.d_y + at;
    const S* const xz = p.xz + at_time(b, T, i - 1, 2 * D, e.channel) + D;
    if (i > 0) d_y = load_packed(of_y), z = load_packed(xz);
    if (more) prefetch(p.w + at - 2 * D), prefetch(p.h + at - D), prefetch(of_y - D), prefetch(xz - 2 * D);
  }
  ELMAN_FN void fetch_past(int i, int turn) {
    const int past = partner(i);
    if (i <= 0) return;
    if (i % C::K == 0) prefetch_writing(partner(i - 1), turn);
    if (past <= 0 || past % C::K == 0 || !e.in_batch(turn)) return;
    const A* const from = kept(e.row(turn), past);
    past_beta.fill([&](int n, int) { return elman::load(from + n); });
    prefetch(from + 3 * N);
    if (!e.held(turn)) return;
    const A* const w = w_at(past - 1, turn);
    past_w = load2(w);
    prefetch(w + D);
  }
  // Hand over what of that the owner needs, and go on to iteration i.
  ELMAN_FN void give(int i) {
    h_stored = h;
    now = next, next = after, h = h_after;
    e.handed(of_w_next) = next.w, e.handed(of_h) = h;
#pragma unroll
    for (int j = 0; j < octets; ++j) {
      e.handed(of_row + 2 * j) = {next.beta.own[j], next.kappa.own[j]};
      e.handed(of_row + 2 * j + 1).x = next.a.own[j];
    }
  }
  ELMAN_FN void receive() {
    next.w = e.handed(of_w_next), h = e.handed(of_h);
#pragma unroll
    for (int j = 0; j < octets; ++j) {
      const Pair<A> x = e.handed(of_row + 2 * j);
      next.beta.own[j] = x.x, next.kappa.own[j] = x.y, next.a.own[j] = e.handed(of_row + 2 * j + 1).x;
    }
  }
  // Of iteration i, whose row is `now`: sums of beta g and of beta M, and G. Where the owner restores M only now, it is made here as well.
  ELMAN_FN void prepare(int i, int turn) {
    if (i > 0 && i < T && restores(i)) prepare<true>(i - 2, turn);
    else prepare<false>(max_of(i - 1, 0), turn);
  }
  template <bool restoring> ELMAN_FN void prepare(int step, int turn) {
    Pair<A> of_g = {0, 0}, of_tape = {0, 0};
#pragma unroll
    for (int n = 0; n < N; n += lanes) {
      A x[lanes] = {};
#pragma unroll
      for (int j = 0; j < lanes; ++j)
        if (n + j < N) {
          const Pair<A> g = octets == 1 ? new_g[j] : g_of(turn, n + j);
          Pair<A> M = found(step, turn, n + j);
          if (restoring) M = written(M, past_beta.at(n + j), past_w);
          const A beta = now.beta.at(n + j);
          of_g = of_g + beta * g, of_tape = of_tape + beta * M;
          x[j] = dot(g, now.w - M);
        }
      e.handed(of_row + 2 * (n / lanes) + 1).y = e.team_sums(x);
    }
    e.handed(of_beta_g) = of_g, e.handed(of_beta_M) = of_tape;
  }
  ELMAN_FN void sum_ahead(const Row& row) {
    Slots<A, N> both;
    both.fill([&](int, int j) { return row.beta.own[j] * row.a.own[j]; });
    beta_a = both.sum();
  }
  // Before the first iteration.
  ELMAN_FN void begin_ahead(int turn) {
    load(next, T, turn);
    fetch_ahead(T, turn);
    give(T);
    if (octets == 1)
#pragma unroll
      for (int n = 0; n < N; ++n) new_g[n] = g_of(turn, n);
    prepare(T, turn);
  }
};
}  // namespace elman::tape
