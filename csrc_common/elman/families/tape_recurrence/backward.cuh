#pragma once
// The backward pass of tape_recurrence.cuh, which includes it. Iteration i = T..0; with G = d y, M and w as they were in step i - 1, M' = written
// (what h[i] was made from), g the gradient of M' without its term in dphi, and d_r, d_pre those of step i (zero for i = T):
//   shared sums   da_n = <d_r, M'_n> = (1 - beta_n) e_n + beta_n rho,   mu_n = <g_n + a_n d_r, w - M_n> = G_n + a_n (rho - e_n)
//                 from e_n = <d_r, M_n>, rho = <d_r, w> and, before d_r is known, G_n = <g_n, w - M_n>
//   dphi = s a (da - sum a da),   dbeta = mu + dphi kappa,   deps = s beta (dbeta - sum beta dbeta)
//   dM'_n = g_n + a_n d_r + dphi_n h[i-1],   d_w = sum beta_n dM'_n + deps_n M_n,   g_n <- (1 - beta_n) dM'_n + deps_n w
//   d_h[i-1] = W_h^T d_pre + W_w^T d_w + sum dphi_n M'_n + what y[i-1] gives     (at i = 0 the gradient of h0, and g that of the first tape)
// On the chain from one block to another, marked by >:
//   > W_w^T d_w; > barrier; > d_h, d_pre, which is published at once, and the sums, published
//   > the row's sums, two softmaxes' slopes, d_w, published;   barrier;   while d_w travels W_h^T d_pre, which has long come, and M
// Helpers meanwhile: from the barrier of the product on the readout's slopes, from the other on g. Where they read for their owners (`ahead` in
// rows.cuh) they store, load and restore a tape behind their look at d_pre, and form behind that at d_w what the next iteration needs of g and M:
// G and the sums of beta g and beta M. Elsewhere an owner forms those, and a helper restores before its look at d_pre and stores before that at d_w.
// What a warp has loaded it uses before it looks for words, or else behind the look's wait: loads that are on the way at once share a scoreboard,
// so that the wait for one is a wait for all. Two ways of the code that meet must not each load what follows, nor write a register of the other's.
#include <elman/families/tape_recurrence/rows.cuh>

namespace elman::tape {
template <class Step, class A> struct BackwardCarry {
  Pair<A> d_pre, d_r, d_h, d_q;  // of step i; what of d_h[i-1] and d_r[i-1] does not come from the products
  A gate_x[Gate<Step, A>::held], gate_y[Gate<Step, A>::held];
};
template <class Step, class C, class S>
using BackwardEngine =
    Engine<S, C, BackwardCarry<Step, Acc<S>>, 2, C::FAR ? 2 : 1 + C::K, 6 + 4 * ((C::N + lanes - 1) / lanes) + 2 * Step::vectors, true>;

template <class Step, class C, class S, class Args> struct BackwardPass : Rows<C, S, BackwardEngine<Step, C, S>, Args> {
  using A = Acc<S>;
  using Carry = BackwardCarry<Step, A>;
  using E = BackwardEngine<Step, C, S>;
  using Base = Rows<C, S, E, Args>;
  using Row = typename Base::Row;
  using Base::p, Base::T, Base::D, Base::e, Base::scale, Base::gate_part, Base::vectors, Base::N, Base::octets, Base::ahead;
  using Base::now, Base::next, Base::h, Base::h_stored, Base::d_w, Base::d_y, Base::z, Base::new_g, Base::beta_a;
  using Base::kept, Base::found, Base::g_of, Base::meet, Base::restores, Base::partner, Base::restore;
  using Base::load, Base::fetch, Base::fetch_writing, Base::prefetch_writing, Base::prefetches;
  using Base::fetch_ahead, Base::fetch_past, Base::give, Base::receive, Base::prepare, Base::sum_ahead, Base::begin_ahead;
  using Base::of_d_pre, Base::of_d_w, Base::of_d_r, Base::of_beta_g, Base::of_beta_M, Base::of_d_h, Base::of_d_q;
  using Base::of_slots, Base::of_row, Base::gates;
  static constexpr bool alone = C::TURNS == 1;
  static constexpr bool early = ahead && octets == 1;  // whether owners read M beside the product's sums: one after the other costs more
  typename E::Sum sum;  // of the products of an iteration
  Slots<A, N> d_phi, d_eps;
  A of_w{};  // sum of beta dphi

  ELMAN_FN BackwardPass(const Args& p, const A* vectors, A* gate_part, Division split) : Base(p, vectors, gate_part, split) {
    if (!e.helper) return;
#pragma unroll
    for (int v = 0; v < Step::vectors; ++v) {
      e.handed(gates + v) = load_if(e.channel < D, vectors + v * D + e.channel);
      e.handed(gates + Step::vectors + v) = {0, 0};
    }
  }

  // G_n of the iteration whose row is `of`, with the tape that `step` found.
  ELMAN_FN void match(A (&of_g)[octets], const Row& of, int step, int turn) const {
#pragma unroll
    for (int n = 0; n < N; n += lanes) {
      A x[lanes] = {};
#pragma unroll
      for (int j = 0; j < lanes; ++j)
        if (n + j < N) x[j] = dot(g_of(turn, n + j), of.w - found(step, turn, n + j));
      of_g[n / lanes] = e.team_sums(x);
    }
  }

  ELMAN_FN void begin(int turn) {
    if (!e.owner) return;
    const bool mine = e.mine(turn);
    Carry& c = e.carry(turn);
    c = Carry{};
    e.publish_operand(0, turn, 0, c.d_pre);
#pragma unroll
    for (int n = 0; n < N; ++n) g_of(turn, n) = load_if(mine, p.d_tape_last + at_slot(e.row(turn), 1, 0, N, n, D, e.channel));
    const int first = (T - 1) / C::K * C::K;
    for (int step = first; step < T; ++step) fetch_writing(step, turn), restore(step, turn);
    for (int step = first + C::K - 1; step >= T; --step) fetch_writing(partner(step), turn), restore(partner(step), turn);
    meet(T - 1, turn);
    load(now, T, turn);
    if (ahead) sum_ahead(now);
    A of_g[octets];
    match(of_g, now, T - 1, turn);
#pragma unroll
    for (int j = 0; j < octets; ++j) e.publish_values(0, turn, j, A(0), of_g[j]);
  }

  // From the sums of iteration i to the operands of its product.
  ELMAN_FN void step(int i, int turn) {
    const int s = T - i, before = max_of(i - 1, 0);
    Carry& c = e.carry(turn);
    if (!alone && e.owner) load(now, i, turn);
    if (e.owner) {
      if (!ahead) fetch(i, turn);
      else if (i > 1 && restores(i - 1)) fetch_writing(partner(i - 1), turn);
      Slots<A, N> weighted;
      Pair<A> fixed = {0, 0}, mean_tape = {0, 0};
      const auto under_way = [&] {
        if (ahead) {
          receive();
          fixed = beta_a * c.d_r + e.handed(of_beta_g), mean_tape = e.handed(of_beta_M);
          return;
        }
        if (alone && !E::helped) prefetches(i, turn);
        weighted.fill([&](int, int j) { return now.beta.own[j] * now.a.own[j]; });
        fixed = weighted.sum() * c.d_r;
#pragma unroll
        for (int n = 0; n < N; ++n) {
          const A beta = now.beta.at(n);
          fixed = fixed + beta * g_of(turn, n);
          mean_tape = mean_tape + beta * found(before, turn, n);
        }
      };
      e.gather(s, turn, d_phi, d_eps, under_way);
      weighted.fill([&](int, int j) { return now.a.own[j] * d_phi.own[j]; });
      const A mean = weighted.sum();
      d_phi.fill([&](int, int j) { return scale * now.a.own[j] * (d_phi.own[j] - mean); });
      weighted.fill([&](int, int j) { return now.beta.own[j] * d_phi.own[j]; });
      of_w = weighted.sum();
      weighted.fill([&](int, int j) { return now.beta.own[j] * (d_eps.own[j] + d_phi.own[j] * now.kappa.own[j]); });  // beta d beta
      const A middle = weighted.sum();
      d_w = {0, 0};
#pragma unroll
      for (int n = 0; n < N; ++n) d_w = d_w + weighted.at(n) * found(before, turn, n);
      d_w = fixed + of_w * h + scale * (d_w - middle * mean_tape);
      d_eps.fill([&](int, int j) { return scale * (weighted.own[j] - now.beta.own[j] * middle); });
      e.publish_operand(s, turn, 1, d_w);
      if (alone) e.template look<0>(s, turn);
      if (E::helped) tell();
    } else if (alone) {
      help(i, turn);
    }
    if (turn == 0) e.order(s);
    sync_block();
    if (!e.owner) e.since = cycles();
    if (!e.owner) return;
    e.erase_operands(s - 1, turn);
    if (!alone) stores(i, turn, h), readout(i, turn), carry_on(i, turn), update(i, turn);
  }

  // What an owner tells its helper: pairs, and of each slot what `update` multiplies g, d_r, h and w by.
  ELMAN_FN void tell() {
    const Carry& c = e.own;
    e.handed(of_d_pre) = c.d_pre, e.handed(of_d_w) = d_w, e.handed(of_d_r) = c.d_r;
#pragma unroll
    for (int j = 0; j < octets; ++j) {
      const A left = 1 - now.beta.own[j];
      if (e.part == 0 && d_phi.present(j)) e.quad(of_slots, d_phi.slot(j)) = {left, left * now.a.own[j], left * d_phi.own[j], d_eps.own[j]};
    }
  }
  ELMAN_FN void hear() {
    Carry& c = e.own;
    c.d_pre = e.handed(of_d_pre), d_w = e.handed(of_d_w), c.d_r = e.handed(of_d_r);
  }

  // What other warps do while owners gather the sums of iteration i: W_h^T d_pre, and helpers the readout and a tape restored. What these take has
  // been loaded with the look at d_w before, or else is used here before the look at d_pre: behind it the loads would be waited for with it.
  ELMAN_FN void help(int i, int turn) {
    const bool restoring = e.helper && i < T && !restores(i);
    if (!ahead && restoring) fetch_writing(partner(i), turn);
    if (!ahead && e.helper) {
      fetch(i, turn);
      if (i > 0 && e.in_batch(turn)) next.a.fill([&](int n, int) { return elman::load(kept(e.row(turn), i - 1) + 2 * N + n); });
      load(now, i, turn);
    }
    if (!ahead && restoring) restore(partner(i), turn);
    if (e.helper) {
      readout(i, turn);
      e.handed(of_d_h) = e.own.d_h, e.handed(of_d_q) = e.own.d_q;
    }
    pause(e.since, 3 * C::DELAY);  // until the owners of all blocks have published d_pre
    e.template look<0>(T - i, turn);
    if (ahead && e.helper && i < T) stores(i + 1, turn, h_stored);
    if (ahead) fetch_ahead(i - 1, turn);
    if (ahead && restoring) restore(partner(i), turn);
    first_product(i, turn);
  }
  ELMAN_FN void first_product(int i, int turn) {
    e.template wait<0>(T - i, turn);
#pragma unroll
    for (auto& of_tile : sum)
#pragma unroll
      for (A& x : of_tile) x = 0;
    e.multiply(e.front, sum, 0);
  }

  // One channel of step i - 1, before the state's slope: what y gives to d_h, d_r and d_z.
  struct Read {
    A d_h, d_r, d_z;
  };
  ELMAN_FN Read read(A d_y, A z, A r, A h, const A (&vectors)[Gate<Step, A>::held], A (&part)[Gate<Step, A>::held]) const {
    const Score<A> s = Step::score(z, r, h, vectors);
    const A d_q = d_y * h * silu_slope_for<S>(s.q);
#pragma unroll
    for (int v = 0; v < Step::vectors; ++v) part[v] += d_q * s.by_gate[v];
    return {d_y * silu_for<S>(s.q) + d_q * s.by_h, d_q * s.by_r, d_q * s.by_z};
  }

  // What y gives to step i - 1. Without a branch around it: behind one the compiler takes loads for pending and waits for later ones.
  ELMAN_FN void readout(int i, int turn) {
    Carry& c = e.carry(turn);
    Pair<A> r = {0, 0}, of_y = unpacked(d_y), of_z = unpacked(z);
    if (i == 0) of_y = {0, 0};
#pragma unroll
    for (int n = 0; n < N; ++n) r = r + next.a.at(n) * found(max_of(i - 1, 0), turn, n);
    Gate<Step, A> gate, part;  // read again, since registers are full
    if (E::helped) {
#pragma unroll
      for (int v = 0; v < Step::vectors; ++v) {
        const Pair<A> g = e.handed(gates + v), sum = e.handed(gates + Step::vectors + v);
        gate.x[v] = g.x, gate.y[v] = g.y, part.x[v] = sum.x, part.y[v] = sum.y;
      }
    } else if (e.channel < D) {
      gate.load(vectors, D, e.channel);
    }
    const Read x = read(of_y.x, of_z.x, r.x, h.x, gate.x, E::helped ? part.x : c.gate_x);
    const Read y = read(of_y.y, of_z.y, r.y, h.y, gate.y, E::helped ? part.y : c.gate_y);
    if (E::helped)
#pragma unroll
      for (int v = 0; v < Step::vectors; ++v) e.handed(gates + Step::vectors + v) = {part.x[v], part.y[v]};
    c.d_h = {x.d_h, y.d_h}, c.d_q = {x.d_r, y.d_r};
    if (i == 0 || !e.held(turn)) return;
    store2_streamed(p.d_xz + at_time(e.row(turn), T, i - 1, 2 * D, e.channel) + D, x.d_z, y.d_z);
    if (i == T) c.d_h = c.d_h + load2(p.d_h_last + e.row(turn) * D + e.channel);
  }

  // What M gives to step i - 1, and the tape before.
  ELMAN_FN void carry_on(int i, int turn) {
    Carry& c = e.carry(turn);
    Pair<A> past = {0, 0};
    Slots<A, N> of_h;  // sum dphi M' = sum of_h M + (sum dphi beta) w
    of_h.fill([&](int, int j) { return (1 - now.beta.own[j]) * d_phi.own[j]; });
#pragma unroll
    for (int n = 0; n < N; ++n) past = past + of_h.at(n) * found(max_of(i - 1, 0), turn, n);
    if (E::helped) c.d_h = e.handed(of_d_h), c.d_q = e.handed(of_d_q);
    c.d_h = c.d_h + past + of_w * now.w;
    if (i > 1) {  // iteration 0 has the first tape, beta 0 and no w
      if (restores(i - 1)) restore(partner(i - 1), turn);
      meet(i - 2, turn);
    }
  }

  // g of the tape before: g <- left (g + a d_r + dphi h) + deps w.
  ELMAN_FN void update(int i, int turn) {
    const Pair<A> d_r = e.carry(turn).d_r;
    Slots<A, N> left, of_r, of_h;
    if (!E::helped) {
      left.fill([&](int, int j) { return 1 - now.beta.own[j]; });
      of_r.fill([&](int, int j) { return left.own[j] * now.a.own[j]; });
      of_h.fill([&](int, int j) { return left.own[j] * d_phi.own[j]; });
    }
    constexpr int joint = N < lanes ? N : lanes;  // read before anything is stored: the compiler does not know that these are places apart
#pragma unroll
    for (int n = 0; n < N; n += joint) {
      Quad<A> by[joint];
      Pair<A> g[joint];
#pragma unroll
      for (int j = 0; j < joint; ++j)
        if (n + j < N) {
          by[j] = E::helped ? e.quad(of_slots, n + j) : Quad<A>{left.at(n + j), of_r.at(n + j), of_h.at(n + j), d_eps.at(n + j)};
          g[j] = g_of(turn, n + j);
        }
#pragma unroll
      for (int j = 0; j < joint; ++j)
        if (n + j < N) {
          const Pair<A> x = by[j].x * g[j] + by[j].y * d_r + by[j].z * h + by[j].w * now.w;
          g_of(turn, n + j) = x;
          if (octets == 1) new_g[j] = x;
        }
    }
    if (i > 0 || !e.held(turn)) return;
#pragma unroll
    for (int n = 0; n < N; ++n) {
      const Pair<A> d = g_of(turn, n);
      store2(p.d_tape0 + at_slot(e.row(turn), 1, 0, N, n, D, e.channel), d.x, d.y);
    }
  }

  // The gradients of step i - 1, and what its channels add to the next sums.
  ELMAN_FN void product(int i, int turn) {
    const int s = T - i;
    if (!alone) {
      e.template look<0>(s, turn), e.template look<1>(s, turn);
      first_product(i, turn);
    } else if (e.owner) {
      if (!E::helped) stores(i, turn, h), readout(i, turn), update(i, turn);
      first_product(i, turn);
      if (ahead) e.template look<1>(s, turn);
      carry_on(i, turn);
      if (ahead) sum_ahead(next);
    } else if (e.helper) {
      hear();
      update(i, turn);
      if (ahead) {
        e.template look<1>(s, turn);
        fetch_past(i - 1, turn);
        if (i == 0) stores(i, turn, h);
        if (i > 0) give(i - 1), prepare(i - 1, turn);
      } else {
        stores(i, turn, h);
        if (i < T) prefetch_writing(partner(i - 1), turn);
        prefetches(i, turn);
      }
    } else {
      pause(e.since, C::DELAY);
    }
    if (alone && !(ahead && (e.helper || e.owner))) e.template look<1>(s, turn);
    e.template wait<1>(s, turn);
    e.multiply(e.rest, sum, 1);
    e.put(0, sum);
    sync_block();
    if (!e.owner) e.since = cycles();
    if (e.owner) gradients(i, turn);
    if (!alone || i == 0) sync_block();  // a next turn stores where this one has read
  }

  ELMAN_FN void gradients(int i, int turn) {
    const int s = T - i;
    Carry& c = e.carry(turn);
    const Pair<A> d_h = e.take(0) + c.d_h;
    Pair<A> M[lanes];
    if (early) {
#pragma unroll
      for (int n = 0; n < lanes && n < N; ++n) M[n] = found(max_of(i - 2, 0), turn, n);
      sync_warp();  // or the compiler reads it where it is multiplied
    }
    if (i == 0) {
      if (e.mine(turn)) store2(p.d_h0 + e.row(turn) * D + e.channel, d_h.x, d_h.y);
      return;
    }
    if (!alone) fetch(i, turn);
    c.d_pre = {d_h.x * tanh_slope(h.x), d_h.y * tanh_slope(h.y)};
    c.d_r = c.d_q + c.d_pre;
    e.publish_operand(s + 1, turn, 0, c.d_pre);
    A of_g[octets];
    if (ahead) {
#pragma unroll
      for (int j = 0; j < octets; ++j) of_g[j] = e.handed(of_row + 2 * j + 1).y;
    } else {
      match(of_g, next, max_of(i - 2, 0), turn);
    }
    const A rho = e.team_sum(dot(c.d_r, next.w));
#pragma unroll
    for (int n = 0; n < N; n += lanes) {
      A of_r[lanes] = {};
#pragma unroll
      for (int j = 0; j < lanes; ++j)
        if (n + j < N) of_r[j] = dot(c.d_r, early ? M[j] : found(max_of(i - 2, 0), turn, n + j));
      const int o = n / lanes;
      const A x = e.team_sums(of_r), beta = next.beta.own[o];
      e.publish_values(s + 1, turn, o, (1 - beta) * x + beta * rho, of_g[o] + next.a.own[o] * (rho - x));
    }
    e.erase_values(s, turn);
    now = next;
  }

  // What iteration i leaves for nobody who waits.
  ELMAN_FN void stores(int i, int turn, Pair<A> h) {
    if (!e.held(turn)) return;
    const Pair<A> d = e.carry(turn).d_pre;
    const int64_t b = e.row(turn);
    S* const to = p.d_sums + at_time(b, T + 1, i, 2 * D, e.channel);
    store2_streamed(to, d.x, d.y), store2_streamed(to + D, d_w.x, d_w.y);
    store2_streamed(p.former + at_time(b, T + 1, i, D, e.channel), h.x, h.y);
    if (i < T) store2_streamed(p.d_xz + at_time(b, T, i, 2 * D, e.channel), d.x, d.y);
  }
  ELMAN_FN void run() {
    for (int turn = 0; turn < C::TURNS && e.present(turn); ++turn) begin(turn);
    sync_block();  // helpers read the tapes
    if constexpr (ahead) {
      if (e.helper) begin_ahead(0);
      sync_block();
    }
    for (int i = T; i >= 0; --i) {
      for (int turn = 0; turn < C::TURNS && e.present(turn); ++turn) step(i, turn);
      for (int turn = 0; turn < C::TURNS && e.present(turn); ++turn) product(i, turn);
    }
    if constexpr (Step::vectors > 0)
      for (int turn = 0; turn < C::TURNS; ++turn)
        if (e.spare && e.held(turn))
#pragma unroll
          for (int v = 0; v < Step::vectors; ++v) {
            const Carry& c = e.carry(turn);
            const Pair<A> sum = E::helped ? e.handed(gates + Step::vectors + v) : Pair<A>{c.gate_x[v], c.gate_y[v]};
            store2(gate_part + (e.row(turn) * Step::vectors + v) * D + e.channel, sum.x, sum.y);
          }
  }
};
}  // namespace elman::tape
