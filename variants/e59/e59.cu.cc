// h[t] = (h[t-1] + u[t]) / sqrt(mean (h[t-1] + u[t])^2 + 1e-6), y[t] = h[t] silu(h[t]): equations 2 to 4 of README.md.
// A block has one batch row, a thread CHUNKS times four neighbouring channels. A step waits for one sum over the row, and for nothing else:
// * Rows come through a ring in shared memory, SLOTS - 1 steps ahead, by asynchronous copies: no register waits for device memory. The next
//   step's channels are taken from there a step early.
// * Every warp leaves its part of the sum in shared memory, in one of two places by turns, and behind one barrier every thread adds the parts
//   in the same order. Few warps leave few parts. The same barrier hands on the ring: what has come, and the slot that is free.
// * Between two barriers is one step: first what its sum waits for; the readout or its slope, whose elementary functions take nearly as
//   long, depend on nothing that comes later, so that they fill the time in which lanes wait for each other.
#include <elman/elman.cuh>
#include <elman/families/pointwise_recurrence/steps.cuh>

#include "elman_args.h"

namespace e59 {
using namespace elman;
using S = args::scalar;
using A = args::acc;
using C = args::Constant;
inline constexpr int threads = 32 * C::WARPS;
inline constexpr int room = 4 * threads * C::CHUNKS;  // channels that the threads have, D of them in use
inline constexpr double eps = 1e-6;
using Four = A[4];

struct Layout {
  Carve carve;
  unsigned parts, rows, states, inverse;
  ELMAN_BOTH explicit Layout(bool backward)
      : parts(carve.take<A>(2 * C::WARPS)),
        rows(carve.take<S>(C::SLOTS * room)),
        states(carve.take<A>(backward ? C::SLOTS * room : 0)),
        inverse(carve.take<A>(backward ? C::SLOTS * 4 : 0)) {}
};

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
// share a reciprocal: a multiprocessor makes 16 elementary functions a cycle, so that two of each channel would take two thirds of a step.
template <class S> ELMAN_FN void silus(Acc<S> (&silu)[4], Acc<S> (&rest)[4], const Acc<S> (&x)[4]) {
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    if constexpr (is_bf16<S>) {
      if (k % 2) continue;
      const float e = exp2_near(min_of(-1.44269504f * x[k], 60.0f)), f = exp2_near(min_of(-1.44269504f * x[k + 1], 60.0f));
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
  const int D, T;
  const int64_t b;
  A* const parts;
  const A share;  // of a channel in the mean

  ELMAN_FN Row(int64_t D, int64_t T, unsigned parts)
      : D((int)D), T((int)T), b(block_x()), parts(shared<A>(parts, 2 * C::WARPS)), share(A(1) / (int)D) {}
  ELMAN_FN int channel(int i) const { return 4 * ((int)thread_x() + i * threads); }
  ELMAN_FN bool mine(int i) const { return i + 1 < C::CHUNKS || channel(i) < D; }
  ELMAN_FN int64_t at(int t) const { return (b * T + t) * D; }

  // The thread's channels of a row, zeros past the last one.
  template <class E> ELMAN_FN void take(Four (&x)[C::CHUNKS], const E* from) const {
#pragma unroll
    for (int i = 0; i < C::CHUNKS; ++i) {
      x[i][0] = x[i][1] = x[i][2] = x[i][3] = 0;
      if (mine(i)) get(x[i], from + channel(i));
    }
  }
  template <class E> ELMAN_FN void give(E* to, const Four (&x)[C::CHUNKS]) const {
#pragma unroll
    for (int i = 0; i < C::CHUNKS; ++i)
      if (mine(i)) put(to + channel(i), x[i]);
  }
  // Begin to copy a row to its slot, where `there`.
  template <class E> ELMAN_FN void fetch(E* slot, const E* from, bool there) const {
    constexpr int width = 16 / sizeof(E);
    const int end = there ? D : 0;
#pragma unroll
    for (int first = 0; first < room; first += width * threads) {
      const int c = first + width * (int)thread_x();
      if (c < end) copy16_async(slot + c, from + c);
    }
  }

  // The mean over the row of what the threads have sums of: before a barrier each leaves its own on one side, behind it all know.
  ELMAN_FN void leave(const Four& x, int side) const {
    const A sum = warp_sum((x[0] + x[1]) + (x[2] + x[3]));
    if (lane() == 0) parts[side + (int)warp()] = sum;
  }
  ELMAN_FN A mean(int side) const {
    A part[C::WARPS];
#pragma unroll
    for (int w = 0; w < C::WARPS; ++w) part[w] = parts[side + w];
#pragma unroll
    for (int gap = 1; gap < C::WARPS; gap *= 2)
#pragma unroll
      for (int w = 0; w + gap < C::WARPS; w += 2 * gap) part[w] += part[w + gap];
    return part[0] * share;
  }
};

ELMAN_KERNEL(threads) forward(args::Forward p) {
  constexpr Layout at(false);
  const Row row(p.D, p.T, at.parts);
  S* const ring = shared<S>(at.rows, C::SLOTS * room);
  const auto fetch = [&](int t) {
    row.fetch(ring + t % C::SLOTS * room, p.u + row.at(t), t < row.T);
    copy_commit();  // an empty one at the end, so that a wait counts steps
  };
  // g = h[t-1] + u[t] and its sum; then u[t+1].
  Four g[C::CHUNKS], u[C::CHUNKS], h[C::CHUNKS] = {}, y[C::CHUNKS] = {};
  A inverse = 1;
  const auto step = [&](int t, int side) {
    Four square = {};
#pragma unroll
    for (int i = 0; i < C::CHUNKS; ++i)
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        g[i][k] = fused(g[i][k], inverse, u[i][k]);
        square[k] += g[i][k] * g[i][k];
      }
    row.take(u, ring + (t + 1) % C::SLOTS * room);
    row.leave(square, side);
    fetch(t + C::SLOTS);  // where u[t] was, which all have taken before the last barrier
    copy_wait<C::SLOTS - 2>();  // u[t+2] has come
  };
  const auto give = [&](int t) {
    row.give(p.h + row.at(t), h);
    row.give(p.y + row.at(t), y);
    if (thread_x() < 4) p.inverse[(row.b * row.T + t) * 4 + thread_x()] = inverse;
  };

  for (int t = 1; t < C::SLOTS; ++t) fetch(t);
  row.take(g, p.h0 + row.b * row.D);
  row.take(u, p.u + row.at(0));
  copy_wait<C::SLOTS - 2>();
  sync_block();
  int side = 0;
  step(0, side);
  for (int t = 0; t < row.T; ++t) {
    sync_block();
    const A mean = row.mean(side);
    give(max_of(t - 1, 0));  // the step before, while the parts come; the first time zeros, where step 0 will be
    inverse = rsqrt_for<S>(mean + A(eps));
#pragma unroll
    for (int i = 0; i < C::CHUNKS; ++i)
#pragma unroll
      for (int k = 0; k < 4; ++k) h[i][k] = g[i][k] * inverse;
    side = C::WARPS - side;
    step(t + 1, side);
#pragma unroll
    for (int i = 0; i < C::CHUNKS; ++i) {
      Four silu, rest;
      silus<S>(silu, rest, h[i]);
#pragma unroll
      for (int k = 0; k < 4; ++k) y[i][k] = h[i][k] * silu[k];
    }
  }
  give(row.T - 1);
  row.give(p.h_last + row.b * row.D, h);
}

// With d the gradient of h[t]: d u[t] = (d - h[t] mean(d h[t])) / R, which is that of h[t-1], too.
// Steps are counted from the last one.
ELMAN_KERNEL(threads) backward(args::Backward p) {
  constexpr Layout at(true);
  const Row row(p.D, p.T, at.parts);
  S* const ring = shared<S>(at.rows, C::SLOTS * room);
  A *const states = shared<A>(at.states, C::SLOTS * room), *const inverses = shared<A>(at.inverse, C::SLOTS * 4);
  const auto fetch = [&](int s) {
    const int slot = s % C::SLOTS, t = row.T - 1 - s;
    row.fetch(ring + slot * room, p.d_y + row.at(t), t >= 0);
    row.fetch(states + slot * room, p.h + row.at(t), t >= 0);
    if (thread_x() == 0 && t >= 0) copy16_async(inverses + slot * 4, p.inverse + (row.b * row.T + t) * 4);
    copy_commit();  // an empty one at the end, so that a wait counts steps
  };
  // Of a step, ahead of it: h, 1 / R, and what the output adds to d.
  Four next_h[C::CHUNKS], of_y[C::CHUNKS];
  A next_inverse;
  const auto prepare = [&](const A* h, const S* d_y, const A* inverse) {
    row.take(next_h, h);
    row.take(of_y, d_y);
    next_inverse = *inverse;
#pragma unroll
    for (int i = 0; i < C::CHUNKS; ++i) {
      Four silu, rest;
      silus<S>(silu, rest, next_h[i]);
#pragma unroll
      for (int k = 0; k < 4; ++k) of_y[i][k] *= silu[k] * (2 + rest[k]);
    }
  };
  // The sum of d h; then the step after it is prepared.
  Four d[C::CHUNKS], h[C::CHUNKS], d_u[C::CHUNKS] = {};
  A inverse;
  const auto step = [&](int s, int side) {
    Four product = {};
#pragma unroll
    for (int i = 0; i < C::CHUNKS; ++i)
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        h[i][k] = next_h[i][k];
        product[k] += d[i][k] * h[i][k];
      }
    inverse = next_inverse;
    const int slot = (s + 1) % C::SLOTS;
    prepare(states + slot * room, ring + slot * room, inverses + slot * 4);
    row.leave(product, side);
    fetch(s + C::SLOTS);  // where this step was, which all have taken before the last barrier
    copy_wait<C::SLOTS - 2>();  // the step after the next has come
  };

  for (int s = 1; s < C::SLOTS; ++s) fetch(s);
  row.take(d, p.d_h_last + row.b * row.D);
  prepare(p.h + row.at(row.T - 1), p.d_y + row.at(row.T - 1), p.inverse + (row.b * row.T + row.T - 1) * 4);
#pragma unroll
  for (int i = 0; i < C::CHUNKS; ++i)
#pragma unroll
    for (int k = 0; k < 4; ++k) d[i][k] += of_y[i][k];
  copy_wait<C::SLOTS - 2>();
  sync_block();
  int side = 0;
  step(0, side);
#pragma unroll 2
  for (int s = 0; s < row.T; ++s) {
    sync_block();
    const A mean = row.mean(side) * inverse;
    row.give(p.d_u + row.at(min_of(row.T - s, row.T - 1)), d_u);  // as in the forward pass
#pragma unroll
    for (int i = 0; i < C::CHUNKS; ++i)
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const A own = d[i][k] * inverse;
        d_u[i][k] = fused(-h[i][k], mean, own);
        d[i][k] = fused(-h[i][k], mean, own + of_y[i][k]);
      }
    side = C::WARPS - side;
    step(s + 1, side);
  }
  row.give(p.d_u + row.at(0), d_u);
  row.give(p.d_h0 + row.b * row.D, d_u);
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
  return elman::launch(e59::forward, "e59_forward", a.B, e59::threads, e59::Layout(false).carve.bytes, a.stream, a);
}
ELMAN_BACKWARD(a) {
  ELMAN_TRY(e59::check("e59_backward", a));
  return elman::launch(e59::backward, "e59_backward", a.B, e59::threads, e59::Layout(true).carve.bytes, a.stream, a);
}
