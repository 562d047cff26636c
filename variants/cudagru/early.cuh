#pragma once
// The backward pass's own order of a step. Of what its first product multiplies a_z is known an exchange before a_r: it is published with a_n, looked
// at once the block has published a_r, and multiplied while the look at the others' a_r is on its way. Everything else is as in engine.cuh.
// * A slot of the exchange holds a_z, a_r and a_n of all channels, one after the other. What step s makes for the next is in slot s + 1, a_n in slot s.
// * With one turn no pause comes before the look at a_r: that at a_z takes about as long. Both products' inputs are loaded in the first one, after
//   its looks: the device counts such loads and a look at a_z together and would wait for both. They are used a product later at the earliest.
// * Use of a slot again: a_z in slot s - 1 is erased with a_r in it, after the block's barrier of the second product of step s. Every block has then
//   published a_n of step s, and so has read all of a_z and a_r in slot s, let alone in slot s - 1. From there on a_z's words are written, looked at
//   and ordered by the fences as a_r's are: written half a step before them, looked at just before them.
#include <elman/families/dense_recurrence/engine.cuh>
#include <elman/pin.cuh>

namespace cudagru {
using namespace elman;
using namespace elman::dense;

// A warp's look at one operand.
template <class S, class P> struct Look {
  Eight<S> seen[P::chunks];

  ELMAN_FN void begin(const S* from, int mine) {
#pragma unroll
    for (int c = 0; c < P::chunks; ++c) {
      if (!P::full) seen[c] = {};
      if (P::full || c < mine) seen[c] = load_exchanged(from + c * chunk * rows);
    }
  }
  ELMAN_FN void end(const S* from) {
    for (unsigned tries = 0;;) {
      bool late = false;
#pragma unroll
      for (int c = 0; c < P::chunks; ++c) late |= !complete(seen[c]);
      if (!elman::ballot(late)) break;
      await_words(tries);
#pragma unroll
      for (int c = 0; c < P::chunks; ++c)
        if (!complete(seen[c])) seen[c] = load_exchanged(from + c * chunk * rows);
    }
  }
  ELMAN_FN void multiply(const Stationary<S, P, true>& matrix, Acc<S> (&sum)[P::row_tiles][4]) const {
#pragma unroll
    for (int c = 0; c < P::chunks; ++c) matrix.multiply(sum, c, seen[c]);
  }
};

// One product of a step: engine.cuh's Phase, in pieces.
template <class S, class C, class P, class Pass> struct Half : Phase<S, C, P, true, Pass> {
  using Base = Phase<S, C, P, true, Pass>;
  using Base::Base;
  using A = Acc<S>;

  ELMAN_FN const S* operand(int step, int turn) const { return this->source + this->slot(step) + turn * (unsigned)(rows * this->terms); }
  ELMAN_FN int own(int turn) const { return this->row - this->b + turn * rows + lane() / 4 < this->B ? this->chunks : 0; }  // this lane's chunks
  ELMAN_FN void fetch_next(int step, int turn) { this->fetch(step + (turn + 1) / C::TURNS, (turn + 1) % C::TURNS); }

  // The warps' parts, their sums, and the step's result from these, published.
  ELMAN_FN void settle(const Place& at, int turn, const A (&sum)[P::row_tiles][4], typename Pass::Carry& carry, unsigned half, unsigned& since) {
#pragma unroll
    for (int m = 0; m < P::row_tiles; ++m) {
      store2(this->write + half + m * tile * rows, sum[m][0], sum[m][2]);
      store2(this->write + half + (m * rows + 2) * tile, sum[m][1], sum[m][3]);
    }
    sync_block();
    since = cycles();
    if (!at.mine) return;
    const A* const part = this->read + half;
    Pair<A> total[2] = {load2(part), load2(part + Base::half_part / C::WARPS)};
#pragma unroll
    for (int w = 2; w < C::WARPS; ++w) {
      const Pair<A> x = load2(part + w * (Base::half_part / C::WARPS));
      total[w % 2].x += x.x;
      total[w % 2].y += x.y;
    }
    this->pass.value(this->work, {{total[0].x + total[1].x, total[0].y + total[1].y}}, carry, this->value);
    this->publish_all(this->target_of(at.step + this->ring.ahead, turn));
  }
};

// P: the products U_z^T a_z and U_r^T a_r together, Q: U_n^T a_n. First makes a_n and leaves a_z in the carry, Second makes a_r.
template <class S, class C, class P, class Q, class First, class Second> struct Steps {
  using Carry = typename First::Carry;
  using At = Layout<S, C, Carry, P, Q>;
  static constexpr bool alone = C::TURNS == 1;
  static constexpr int shared_early = min_of(P::shared, P::tiles);
  using Early = Product<P::own_chunks, P::tiles, shared_early, 1, 1, P::full>;
  using Late = Product<P::own_chunks, P::tiles, P::shared - shared_early, 1, 1, P::full>;
  Half<S, C, Late, First> a;
  Half<S, C, Q, Second> b;
  Stationary<S, Early, true> early;
  const unsigned operand;  // elements of a slot that one operand takes
  unsigned since = 0;

  ELMAN_FN Steps(const S* U, const S* N, int D, S* exchange, Division split, int B, int T, int steps, const First& first, const Second& second,
                 const At& layout, unsigned size)
      : a(first, Matrix<S>{U + (int64_t)D * D, D, D}, shared<Eight<S>>(layout.first, At::kept_first) + (At::kept_first - kept<Late>), parts(layout),
          exchange, Ring{3 * size, size, 2 * size, 0}, split, B, T, steps),
        b(second, Matrix<S>{N, D, D}, shared<Eight<S>>(layout.second, At::kept_second), parts(layout), exchange, Ring{3 * size, 2 * size, size, 1},
          split, B, T, steps),
        operand(size) {
    const int block = block_x() % split.blocks;
    early.load(Matrix<S>{U, D, D}, shared<Eight<S>>(layout.first, At::kept_first), block * P::tiles * tile + lane() / 4 * 2,
               (warp() + block) % C::WARPS * (Early::chunks * chunk) + lane() % 4 * 8);
  }
  template <class R> static constexpr unsigned kept = C::WARPS * R::own_chunks * R::shared * 2 * 32;
  static ELMAN_FN Acc<S>* parts(const At& layout) { return shared<Acc<S>>(layout.parts, 2 * At::half); }

  // Where in a slot this thread leaves a_z.
  ELMAN_FN S* early_target(int slot, int turn) const { return a.target_of(slot, turn) - 2 * operand; }

  ELMAN_FN void first(Carry& carry, int turn) {
    b.first(carry, turn);
    if (b.place_of(0, turn).mine) publish(early_target(0, turn), Pair<Acc<S>>{0, 0});
  }
  ELMAN_FN void finish_second(int step, int turn, const typename Second::Work& done) {
    if (b.place_of(step, turn).mine && step > 0 && step - 1 + C::RING <= b.steps) erase(early_target(step - 1, turn));
    b.finish(step, turn, done);  // which has the fence
  }

  ELMAN_FN void first_product(int step, int turn, Carry& carry, unsigned half) {
    const typename First::Work before = a.work;
    const auto finish_former = [&] {
      if (turn > 0) a.finish(step, turn - 1, before);
      else if (step > 0) finish_second(step - 1, C::TURNS - 1, b.work);
    };
    const Place at = a.place_of(step, turn);
    const S *const z_from = a.operand(step, turn) - operand, *const r_from = a.operand(step, turn);
    Acc<S> sum[P::row_tiles][4] = {};
    Look<S, Early> z;
    Look<S, Late> r;
    if (!alone && at.mine) a.work = a.pass.prepare(at, a.next, carry);
    z.begin(z_from, a.own(turn));
    if (alone) {
      finish_former();
      z.end(z_from);
    }
    r.begin(r_from, a.own(turn));
    if (alone) a.work = a.pass.prepare(at, a.next, carry);
    else {
      finish_former();
      z.end(z_from);
    }
    z.multiply(early, sum);
    if constexpr (alone) {
      const Place next = a.place_of(step + 1, turn);
      auto of_a = a.pass.locate(next), of_b = b.pass.locate(at);
      pin(of_a.d_y, of_a.kept, of_a.former);
      pin(of_b.d_y, of_b.kept, of_b.former);
      sync_warp();  // else the tests of the look come first, and all this waits for it
      r.end(r_from);
      if (at.mine && next.step < a.T) a.pass.load(of_a, a.next);
      if (at.mine && step < a.T) b.pass.load(of_b, b.next);
    } else {
      r.end(r_from);
      a.fetch_next(step, turn);
    }
    r.multiply(a.matrix, sum);
    a.settle(at, turn, sum, carry, half, since);
    if (at.mine) publish(early_target(step + 1, turn), carry.a_z);
  }

  ELMAN_FN void second_product(int step, int turn, Carry& carry, unsigned half) {
    const typename Second::Work before = b.work;
    const auto finish_former = [&] {
      if (turn > 0) finish_second(step, turn - 1, before);
      else a.finish(step, C::TURNS - 1, a.work);
    };
    const Place at = b.place_of(step, turn);
    Acc<S> sum[Q::row_tiles][4] = {};
    Look<S, Q> n;
    if (alone) {
      finish_former();
      pause(since, C::DELAY);
    } else if (at.mine) b.work = b.pass.prepare(at, b.next, carry);
    n.begin(b.operand(step, turn), b.own(turn));
    if (alone) b.work = b.pass.prepare(at, b.next, carry);
    else finish_former();
    n.end(b.operand(step, turn));
    if (!alone) b.fetch_next(step, turn);
    n.multiply(b.matrix, sum);
    b.settle(at, turn, sum, carry, half, since);
  }
};

template <class C, class P, class Q, class S, class First, class Second>
ELMAN_FN void run_back(const S* U, const S* N, int D, S* exchange, Division split, int B, int T, int steps, const First& first, const Second& second) {
  using Run = Steps<S, C, P, Q, First, Second>;
  using At = typename Run::At;
  using Carry = typename Run::Carry;
  const At layout;
  Run run(U, N, D, exchange, split, B, T, steps, first, second, layout, rows * ceil_div(B, rows) * (unsigned)D);
  Carries<C, Carry> carry{{}, At::carried ? shared<Carry>(layout.carries, At::carried) + thread_x() : nullptr, (int)At::owners};
  for (int turn = 0; turn < C::TURNS; ++turn) run.first(carry.of(turn), turn);
  run.a.fetch(0, 0);
  if (!Run::alone) run.b.fetch(0, 0);
  run.since = cycles();
  for (int step = 0; step < steps; ++step) {
    for (int turn = 0; turn < C::TURNS; ++turn) run.first_product(step, turn, carry.of(turn), turn % 2 * At::half);
    for (int turn = 0; turn < C::TURNS; ++turn) run.second_product(step, turn, carry.of(turn), (C::TURNS + turn) % 2 * At::half);
  }
  run.finish_second(steps - 1, C::TURNS - 1, run.b.work);
}
}  // namespace cudagru
