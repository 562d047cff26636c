#pragma once
// The tapes that the backward pass of tape_recurrence.cuh, which includes it, makes again.
#include <elman/families/tape_recurrence/engine.cuh>

namespace elman::tape {
// `Args` is the variant's args::Backward, E the pass's engine.
template <class C, class S, class E, class Args> struct Tapes {
  using A = Acc<S>;
  static constexpr int N = C::N;
  const Args p;
  const int T, D;
  E e;
  Slots<A, N> past_beta{};  // of the tape to be restored
  Pair<A> past_w{};

  ELMAN_FN Tapes(const Args& p, Division split)
      : p(p), T((int)p.T), D(width<C>(p.D)), e(p.W, p.W + p.D * p.D, p.exchange, p.partials, split, (int)p.B, p.D, (int)p.T + 1) {}

  // What forward kept of iteration i in row b, and w of a step.
  ELMAN_FN const A* kept(int64_t b, int i) const { return p.kept + (b * (T + 1) + i) * (3 * N); }
  ELMAN_FN const A* w_at(int step, int turn) const { return p.w + at_time(e.row(turn), T, step, D, e.channel); }

  // The tapes that the K steps of a segment found, and their place: from one segment to the next the order turns around. So what the backward
  // pass has done with makes room for the tape that `restore` makes next, of the segment before.
  static ELMAN_FN int place(int step) { return step / C::K % 2 ? C::K - 1 - step % C::K : step % C::K; }
  ELMAN_FN Pair<A>& found(int step, int turn, int n) const { return e.slot_of(C::FAR ? 1 : 1 + place(step), turn, n); }
  ELMAN_FN A* history(int step, int turn, int n) const { return p.history + at_slot(e.row(turn), C::K, place(step), N, n, D, e.channel); }
  ELMAN_FN Pair<A> restored(int step, int turn, int n) const {
    if constexpr (C::FAR) return load_if(e.held(turn), history(step, turn, n));
    else return found(step, turn, n);
  }

  // What wrote the tape that `step` found, if that is to be restored in a segment: of step - 1.
  ELMAN_FN void fetch_writing(int step, int turn) {
    if (step <= 0 || step % C::K == 0 || !e.in_batch(turn)) return;
    const A* const from = kept(e.row(turn), step);
    past_beta.fill([&](int n, int) { return elman::load(from + n); });
    if (e.held(turn)) past_w = load2(w_at(step - 1, turn));
  }
  // Slot n of the tape that `step`, a segment's first, found.
  ELMAN_FN const A* saved(int step, int turn, int n) const {
    return p.tapes + at_slot(e.row(turn), ceil_div(T, C::K), step / C::K, N, n, D, e.channel);
  }
  // Bring to the L2 cache what the tape that `step` found is made from.
  ELMAN_FN void prefetch_writing(int step, int turn) const {
    if (step < 0 || !e.held(turn)) return;
    if (step % C::K == 0) {
#pragma unroll 1
      for (int n = 0; n < N; ++n) prefetch(saved(step, turn, n));
    } else {
      prefetch(w_at(step - 1, turn)), prefetch(kept(e.row(turn), step) + (int)lane() % lanes);
    }
  }
  // Make the tape that `step` found, from that of the step before or at a segment's first step from what forward saved.
  ELMAN_FN void restore(int step, int turn) {
    if (step < 0) return;
    const bool held = e.held(turn);
    // Each way stores what it made: where they met, both would wait for what only one has loaded.
    const auto put = [&](int n, Pair<A> (&tape)[lanes]) {
#pragma unroll
      for (int j = 0; j < lanes; ++j)
        if (n + j < N) {
          if constexpr (!C::FAR) found(step, turn, n + j) = tape[j];
          else if (held) store2(history(step, turn, n + j), tape[j].x, tape[j].y);
        }
    };
#pragma unroll
    for (int n = 0; n < N; n += lanes) {
      Pair<A> tape[lanes];
      if (step % C::K == 0) {
        const A* const from = saved(step, turn, n);
#pragma unroll
        for (int j = 0; j < lanes; ++j) tape[j] = load_if(held && n + j < N, from + (int64_t)j * D);
        put(n, tape);
      } else {
#pragma unroll
        for (int j = 0; j < lanes; ++j)
          if (n + j < N) tape[j] = written(restored(step - 1, turn, n + j), past_beta.at(n + j), past_w);
        put(n, tape);
      }
    }
  }
  // The step whose tape is restored when that of `step` is no longer needed.
  static ELMAN_FN int partner(int step) { return (step / C::K - 1) * C::K + C::K - 1 - step % C::K; }

  // Whether a thread itself restores in the place of what `step` found: its helper does it one iteration later, if it is not needed before.
  static ELMAN_FN bool restores(int step) { return !E::helped || step % C::K == 0; }

  // Bring the tape that `step` found from global memory, if it is there.
  ELMAN_FN void meet(int step, int turn) const {
    if constexpr (C::FAR) {
#pragma unroll
      for (int n = 0; n < N; ++n) found(step, turn, n) = restored(step, turn, n);
    }
  }
};
}  // namespace elman::tape
