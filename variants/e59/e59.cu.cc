// h[t] = (h[t-1] + u[t]) / sqrt(mean (h[t-1] + u[t])^2 + 1e-6), y[t] = h[t] silu(h[t]): equations 2 to 4 of README.md.
// A block has one batch row. A step is what lies between two barriers of the block, and waits for one sum over the row. A warp issues in order,
// so that what is not waited for is left to other warps. There are three roles, of as many warps each:
// * Carriers have the state, a thread CHUNKS times four neighbouring channels. Each leaves its warp's part of the sum in shared memory, in one
//   of two places by turns, and behind the barrier every thread adds the parts in the same order. Few warps leave few parts.
// * Helpers have the same channels and the elementary functions, which take nearly as long as the sum. Forward they make and store the states
//   and readouts, a step or two behind; backward the readout's slopes, two steps ahead. A row of `passed`, one of two by turns, hands over.
// * Bringers copy rows to a ring in shared memory, SLOTS - 3 steps ahead or more, so that nothing waits for device memory. Rows too wide
//   for a ring (SLOTS = 0) are loaded from there, a step ahead; a step then takes longer than the load.
#include <elman/elman.cuh>
#include <elman/families/pointwise_recurrence/steps.cuh>

#include "elman_args.h"

namespace e59 {
using namespace elman;
using S = args::scalar;
using A = args::acc;
using C = args::Constant;
inline constexpr int threads = 32 * C::WARPS, all = 3 * threads;  // of a role, of a block
inline constexpr int room = 4 * threads * C::CHUNKS;  // channels that a role has, D of them in use
inline constexpr int slots = max_of(C::SLOTS, 1);
inline constexpr double eps = 1e-6;
using Four = A[4];

struct Layout {
  Carve carve;
  unsigned parts, passed, rows, states, inverses;
  ELMAN_BOTH explicit Layout(bool backward)
      : parts(carve.take<A>(2 * C::WARPS)),
        passed(carve.take<A>(2 * room)),
        rows(carve.take<S>(C::SLOTS * room)),
        states(carve.take<A>(backward ? C::SLOTS * room : 0)),
        inverses(carve.take<A>(backward ? C::SLOTS * 4 : 0)) {}
};

// The barrier, one place for all roles.
ELMAN_FN void meet() { sync_roles<all>(); }

// Four neighbours in accesses of 16 bytes, or of 8 where that is all of them.
template <class E> struct alignas(sizeof(E) == 2 ? 8 : 16) Word {
  static constexpr int count = sizeof(E) == 8 ? 2 : 4;
  E at[count];
};
template <> struct alignas(8) Word<bf16> {
  uint32_t low, high;
};
template <class E> ELMAN_FN void get(Acc<E> (&x)[4], const E* from) {
  if constexpr (is_bf16<E>) {
    const auto word = load_word<Word<E>>(from);
    const auto low = unpack(word.low), high = unpack(word.high);
    x[0] = low.x, x[1] = low.y, x[2] = high.x, x[3] = high.y;
  } else {
#pragma unroll
    for (int k = 0; k < 4; k += Word<E>::count) {
      const auto word = load_word<Word<E>>(from + k);
#pragma unroll
      for (int n = 0; n < Word<E>::count; ++n) x[k + n] = word.at[n];
    }
  }
}
template <class E> ELMAN_FN void put(E* to, const Acc<E> (&x)[4]) {
  if constexpr (is_bf16<E>) {
    store_word(to, Word<E>{pack(x[0], x[1]), pack(x[2], x[3])});
  } else {
#pragma unroll
    for (int k = 0; k < 4; k += Word<E>::count) {
      Word<E> word;
#pragma unroll
      for (int n = 0; n < Word<E>::count; ++n) word.at[n] = x[k + n];
      store_word(to + k, word);
    }
  }
}

ELMAN_FN float fused(float a, float b, float c) { return elman::fused(a, b, c); }
ELMAN_FN double fused(double a, double b, double c) { return a * b + c; }

// silu = x sigmoid(x) and rest = x sigmoid(-x), of which y = h silu and d y / d h = silu (2 + rest) are made. In a bf16 build two neighbours
// share a reciprocal: a multiprocessor makes 16 elementary functions a cycle, so that two of each channel would take half of a step.
ELMAN_FN float bounded(float exponent) {
  // So that the product of two neighbours' 1 + 2^exponent is finite. Since h has a mean square of one or less, |h| + |h'| is at most
  // (2 D)^(1/2): up to this width no more than 2^122 without a bound.
  if constexpr (room <= 3584) return exponent;
  else return min_of(exponent, 60.0f);
}
template <class S> ELMAN_FN void silus(Acc<S> (&silu)[4], Acc<S> (&rest)[4], const Acc<S> (&x)[4]) {
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    if constexpr (is_bf16<S>) {
      if (k % 2) continue;
      const float e = exp2_near(bounded(-1.44269504f * x[k])), f = exp2_near(bounded(-1.44269504f * x[k + 1]));
      const float r = reciprocal_near((1 + e) * (1 + f));
      silu[k] = x[k] * (r * (1 + f)), silu[k + 1] = x[k + 1] * (r * (1 + e));
      rest[k] = e * silu[k], rest[k + 1] = f * silu[k + 1];
    } else {
      const auto gate = pointwise::gate<S>(x[k]);
      silu[k] = x[k] * gate.open, rest[k] = x[k] * gate.shut;
    }
  }
}

// What thread and row have in common in both passes.
struct Row {
  const int D, T, thread;  // the thread among its like
  const int64_t b;
  A *const parts, *const passed;
  const A share;  // of a channel in the mean

  ELMAN_FN Row(int64_t D, int64_t T, const Layout& at)
      : D((int)D),
        T((int)T),
        thread((int)thread_x() % threads),
        b(block_x()),
        parts(shared<A>(at.parts, 2 * C::WARPS)),
        passed(shared<A>(at.passed, 2 * room)),
        share(A(1) / (int)D) {}
  ELMAN_FN bool carries() const { return (int)thread_x() < threads; }
  ELMAN_FN bool brings() const { return (int)thread_x() >= 2 * threads; }
  ELMAN_FN bool mine(int i) const { return C::WHOLE || i + 1 < C::CHUNKS || 4 * (thread + i * threads) < D; }
  ELMAN_FN int64_t at(int t) const { return (b * T + t) * D; }
  ELMAN_FN A* pass(int step) const { return passed + step % 2 * room; }
  // Where a row of x [B, T, D] is for a step that is at time t.
  template <class E> ELMAN_FN const E* find(const E* ring, const E* x, int step, int t) const {
    return C::SLOTS ? ring + step % slots * room : x + at(max_of(0, min_of(t, T - 1)));
  }

  // The thread's channels of a row, zeros past the last one.
  template <class E> ELMAN_FN void take(Four (&x)[C::CHUNKS], const E* from) const {
#pragma unroll
    for (int i = 0; i < C::CHUNKS; ++i) {
      x[i][0] = x[i][1] = x[i][2] = x[i][3] = 0;
      if (mine(i)) get(x[i], from + 4 * thread + i * 4 * threads);  // one address and constants
    }
  }
  template <class E> ELMAN_FN void give(E* to, const Four (&x)[C::CHUNKS]) const {
#pragma unroll
    for (int i = 0; i < C::CHUNKS; ++i)
      if (mine(i)) put(to + 4 * thread + i * 4 * threads, x[i]);
  }

  // The mean over the row of what the carriers have sums of: before a barrier each leaves its own, behind it all know.
  ELMAN_FN void leave(const Four& x, int step) const {
    const A sum = warp_sum((x[0] + x[1]) + (x[2] + x[3]));
    if (lane() == 0) parts[step % 2 * C::WARPS + (int)warp()] = sum;
  }
  ELMAN_FN A mean(int step) const {
    A part[C::WARPS];
#pragma unroll
    for (int w = 0; w < C::WARPS; ++w) part[w] = parts[step % 2 * C::WARPS + w];
#pragma unroll
    for (int gap = 1; gap < C::WARPS; gap *= 2)
#pragma unroll
      for (int w = 0; w + gap < C::WARPS; w += 2 * gap) part[w] += part[w + gap];
    return part[0] * share;
  }
};

// Copies of rows, one after the other, to slots of a ring. A warp has neighbouring pieces, since a copy's constant offset is small.
template <class E> struct Bring {
  static constexpr int piece = 512 / sizeof(E), pieces = ceil_div(room, piece * C::WARPS);
  const int mine, left;
  E* const ring;
  const E* from;

  ELMAN_FN Bring(E* ring, const E* row, int D)
      : mine((int)warp() % C::WARPS * pieces * piece + (int)lane() * (16 / (int)sizeof(E))), left(D - mine), ring(ring + mine), from(row + mine) {}
  // Begin with the row of step s, after which comes the one `stride` elements further.
  ELMAN_FN void begin(int s, int stride) {
#pragma unroll
    for (int first = 0; first < pieces * piece; first += piece)
      if (first < left) copy16_async(ring + s % slots * room + first, from + first);
    from += stride;
  }
};

// 1 / R from the mean of (h[t-1] + u[t])^2.
ELMAN_FN A inverse_of(A mean) { return rsqrt_for<S>(mean + A(eps)); }

ELMAN_KERNEL(all) forward(args::Forward p) {
  constexpr Layout at(false);
  const Row row(p.D, p.T, at);
  S* const ring = shared<S>(at.rows, C::SLOTS * room);
  if (row.carries()) {
    Four g[C::CHUNKS], u[C::CHUNKS];
    row.take(g, p.h0 + row.b * row.D);
    row.take(u, p.u + row.at(0));
    // g[t] = h[t-1] + u[t] and its sum; then u[t+1].
    const auto step = [&](int t, A inverse) {
      Four square = {};
#pragma unroll
      for (int i = 0; i < C::CHUNKS; ++i)
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          g[i][k] = fused(g[i][k], inverse, u[i][k]);
          square[k] += g[i][k] * g[i][k];
        }
      row.give(row.pass(t), g);
      row.take(u, row.find(ring, p.u, t + 1, t + 1));
      row.leave(square, t);
    };
    meet();
    step(0, 1);
#pragma unroll 2  // the places by turns are constants then, also below
    for (int t = 0; t < row.T; ++t) {
      meet();
      step(t + 1, inverse_of(row.mean(t)));  // the last one is for nobody
    }
    return;
  }

  if (row.brings()) {
    Bring<S> u(ring, p.u + row.at(1), row.D);
    const auto begin = [&](int t) {
      if (C::SLOTS && t < row.T) u.begin(t, row.D);
      copy_commit();  // of nothing at the end, so that a wait counts steps
    };
    for (int t = 1; t < C::SLOTS; ++t) begin(t);
    for (int t = 0; t <= row.T; ++t) {
      copy_wait<max_of(C::SLOTS - 2, 0)>();  // u[t+1] has come
      meet();
      begin(t + C::SLOTS);  // where u[t] was, which all have taken before this barrier
    }
    return;
  }

  Four g[C::CHUNKS], h[C::CHUNKS] = {};
  A inverse = 0;
  S* y_to = p.y + row.at(0);
  A *h_to = p.h + row.at(0), *inverse_to = p.inverse + row.b * row.T * 4 + row.thread;
  const auto give = [&] {
    Four y[C::CHUNKS];
#pragma unroll
    for (int i = 0; i < C::CHUNKS; ++i) {
      Four silu, rest;
      silus<S>(silu, rest, h[i]);
#pragma unroll
      for (int k = 0; k < 4; ++k) y[i][k] = h[i][k] * silu[k];
    }
    row.give(h_to, h);
    row.give(y_to, y);
    if (row.thread < 4) *inverse_to = inverse;
  };
  meet();
  for (int t = 0; t < row.T; ++t) {
    meet();
    const A next = inverse_of(row.mean(t));
    row.take(g, row.pass(t));
    give();  // a step behind; the first time zeros, where step 0 will be
    h_to += t > 0 ? row.D : 0, y_to += t > 0 ? row.D : 0, inverse_to += t > 0 ? 4 : 0;
    inverse = next;
#pragma unroll
    for (int i = 0; i < C::CHUNKS; ++i)
#pragma unroll
      for (int k = 0; k < 4; ++k) h[i][k] = g[i][k] * inverse;
  }
  give();
  row.give(p.h_last + row.b * row.D, h);
}

// With d the gradient of h[t]: d u[t] = (d - h[t] mean(d h[t])) / R, which is that of h[t-1], too.
// Steps s are counted from the last one. What the output adds to d in step s is passed before barrier s - 2 and taken before barrier s - 1.
ELMAN_KERNEL(all) backward(args::Backward p) {
  constexpr Layout at(true);
  const Row row(p.D, p.T, at);
  S* const ring = shared<S>(at.rows, C::SLOTS * room);
  A *const states = shared<A>(at.states, C::SLOTS * room), *const inverses = shared<A>(at.inverses, C::SLOTS * 4);
  if (row.carries()) {
    struct Next {  // what a step needs
      Four h[C::CHUNKS], of_y[C::CHUNKS];
      A inverse;
    };
    Four d[C::CHUNKS], d_u[C::CHUNKS];
    S* to = p.d_u + row.at(row.T - 1);
    const auto take = [&](Next& next, int s) {
      row.take(next.h, row.find(states, p.h, s, row.T - 1 - s));
      row.take(next.of_y, row.pass(s));
      next.inverse = C::SLOTS ? inverses[s % slots * 4] : p.inverse[(row.b * row.T + max_of(row.T - 1 - s, 0)) * 4];
    };
    // The sum of d h.
    const auto leave = [&](const Next& now, int s) {
      Four product = {};
#pragma unroll
      for (int i = 0; i < C::CHUNKS; ++i)
#pragma unroll
        for (int k = 0; k < 4; ++k) product[k] += d[i][k] * now.h[i][k];
      row.leave(product, s);
    };
    Next now, next;
    meet();
    meet();
    take(now, 0);
    row.take(d, p.d_h_last + row.b * row.D);
#pragma unroll
    for (int i = 0; i < C::CHUNKS; ++i)
#pragma unroll
      for (int k = 0; k < 4; ++k) d[i][k] += now.of_y[i][k];
    meet();
    take(next, 1);
    leave(now, 0);
#pragma unroll 2
    for (int s = 0; s < row.T; ++s) {
      meet();
      const A mean = row.mean(s) * now.inverse;
#pragma unroll
      for (int i = 0; i < C::CHUNKS; ++i)
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          const A own = d[i][k] * now.inverse;  // ahead of the mean, which is awaited
          d_u[i][k] = fused(-now.h[i][k], mean, own);
          d[i][k] = fused(-now.h[i][k], mean, own + next.of_y[i][k]);
        }
      now = next;
      take(next, s + 2);
      row.give(to, d_u);
      to -= row.D;
      leave(now, s + 1);  // the last one is for nobody
    }
    row.give(p.d_h0 + row.b * row.D, d_u);
    return;
  }

  if (row.brings()) {
    Bring<S> d_y(ring, p.d_y + row.at(row.T - 1), row.D);
    Bring<A> h(states, p.h + row.at(row.T - 1), row.D);
    const A* inverse = p.inverse + (row.b * row.T + row.T - 1) * 4;
    const auto begin = [&](int s) {
      if (C::SLOTS && s < row.T) {
        d_y.begin(s, -row.D);
        h.begin(s, -row.D);
        if (row.thread == 0) copy16_async(inverses + s % slots * 4, inverse);
        inverse -= 4;
      }
      copy_commit();  // of nothing at the end, so that a wait counts steps
    };
    for (int s = 0; s < C::SLOTS - 2; ++s) begin(s);
    for (int s = -2; s <= row.T; ++s) {
      copy_wait<max_of(C::SLOTS - 4, 0)>();  // step s + 3 has come
      meet();
      begin(s + C::SLOTS);  // where step s was, which all have taken before this barrier
    }
    return;
  }

  struct Next {
    Four h[C::CHUNKS], d_y[C::CHUNKS];
  };
  const auto take = [&](Next& next, int s) {
    row.take(next.h, row.find(states, p.h, s, row.T - 1 - s));
    row.take(next.d_y, row.find(ring, p.d_y, s, row.T - 1 - s));
  };
  Next next;
  meet();
  take(next, 0);
#pragma unroll 2
  for (int s = 0; s < row.T + 2; ++s) {
    Next now = next;
    take(next, s + 1);
#pragma unroll
    for (int i = 0; i < C::CHUNKS; ++i) {
      Four silu, rest;
      silus<S>(silu, rest, now.h[i]);
#pragma unroll
      for (int k = 0; k < 4; ++k) now.d_y[i][k] *= silu[k] * (2 + rest[k]);
    }
    row.give(row.pass(s), now.d_y);
    meet();
  }
}

template <class Args> Status check(const char* name, const Args& a) {
  if (a.B < 1 || a.T < 1 || a.T > INT32_MAX - 64 || a.D % 8 || ceil_div<int64_t>(a.D, 4 * threads) != C::CHUNKS)
    return refuse("%s: B=%lld, T=%lld, D=%lld in a build for a D of %d times %d channels or less, a multiple of 8", name, (long long)a.B,
                  (long long)a.T, (long long)a.D, C::CHUNKS, 4 * threads);
  return 0;
}
}  // namespace e59

ELMAN_FORWARD(a) {
  ELMAN_TRY(e59::check("e59_forward", a));
  return elman::launch(e59::forward, "e59_forward", a.B, e59::all, e59::Layout(false).carve.bytes, a.stream, a);
}
ELMAN_BACKWARD(a) {
  ELMAN_TRY(e59::check("e59_backward", a));
  return elman::launch(e59::backward, "e59_backward", a.B, e59::all, e59::Layout(true).carve.bytes, a.stream, a);
}
