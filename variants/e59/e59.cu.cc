// h[t] = (h[t-1] + u[t]) / sqrt(mean (h[t-1] + u[t])^2 + 1e-6), y[t] = h[t] silu(h[t]): equations 2 to 4 of README.md.
// A block has one batch row, a thread PAIRS times two of its channels, side by side within a warp. A step has one sum over the row: every warp
// leaves its part in shared memory, in one of two places by turns, and behind one barrier every thread adds the parts in the same order.
#include <elman/elman.cuh>

#include "elman_args.h"

namespace e59 {
using namespace elman;
using S = args::scalar;
using A = args::acc;
using C = args::Constant;
inline constexpr int threads = 32 * C::WARPS;
inline constexpr double eps = 1e-6;

struct Layout {
  Carve carve;
  unsigned parts;
  ELMAN_BOTH Layout() : parts(carve.take<A>(2 * C::WARPS)) {}
};

// What thread and row have in common in both passes.
struct Row {
  const int D;
  const int64_t b;
  A* const parts;

  ELMAN_FN explicit Row(int64_t D) : D((int)D), b(block_x()), parts(shared<A>(Layout().parts, 2 * C::WARPS)) {}
  ELMAN_FN int channel(int i) const { return 2 * ((int)thread_x() + i * threads); }
  ELMAN_FN bool mine(int i) const { return channel(i) < D; }
  ELMAN_FN int64_t at(int64_t t, int64_t T, int i) const { return (b * T + t) * D + channel(i); }
  template <class E> ELMAN_FN Pair<A> load(const E* p, int64_t from, int i) const { return mine(i) ? load2(p + from) : Pair<A>{0, 0}; }

  // The mean over the row of what each thread has a sum of.
  ELMAN_FN A mean(A x, int64_t step) const {
    A* const to = parts + step % 2 * C::WARPS;
    x = warp_sum(x);
    if (lane() == 0) to[warp()] = x;
    sync_block();
    A total = to[0];
#pragma unroll
    for (int w = 1; w < C::WARPS; ++w) total += to[w];
    return total / D;
  }
};

ELMAN_KERNEL(threads) forward(args::Forward p) {
  const Row row(p.D);
  Pair<A> h[C::PAIRS], next[C::PAIRS];
#pragma unroll
  for (int i = 0; i < C::PAIRS; ++i) h[i] = row.load(p.h0, row.at(0, 1, i), i), next[i] = row.load(p.u, row.at(0, p.T, i), i);
  for (int64_t t = 0; t < p.T; ++t) {
    A square = 0;
#pragma unroll
    for (int i = 0; i < C::PAIRS; ++i) {
      h[i] = {h[i].x + next[i].x, h[i].y + next[i].y};
      square += h[i].x * h[i].x + h[i].y * h[i].y;
      if (t + 1 < p.T) next[i] = row.load(p.u, row.at(t + 1, p.T, i), i);
    }
    const A inverse = 1 / sqrt_of(row.mean(square, t) + A(eps));
    if (thread_x() == 0) p.inverse[row.b * p.T + t] = inverse;
#pragma unroll
    for (int i = 0; i < C::PAIRS; ++i) {
      h[i] = {h[i].x * inverse, h[i].y * inverse};
      if (!row.mine(i)) continue;
      store2(p.h + row.at(t, p.T, i), h[i].x, h[i].y);
      store2(p.y + row.at(t, p.T, i), h[i].x * silu_of(h[i].x), h[i].y * silu_of(h[i].y));
    }
  }
#pragma unroll
  for (int i = 0; i < C::PAIRS; ++i)
    if (row.mine(i)) store2(p.h_last + row.at(0, 1, i), h[i].x, h[i].y);
}

// With d the gradient of h[t]: d u[t] = (d - h[t] mean(d h[t])) / R, which is that of h[t-1], too.
ELMAN_FN A slope(A h) { return silu_of(h) + h * silu_slope(h); }

ELMAN_KERNEL(threads) backward(args::Backward p) {
  const Row row(p.D);
  Pair<A> d[C::PAIRS], next_h[C::PAIRS], next_y[C::PAIRS];
#pragma unroll
  for (int i = 0; i < C::PAIRS; ++i) {
    const int64_t from = row.at(p.T - 1, p.T, i);
    d[i] = row.load(p.d_h_last, row.at(0, 1, i), i), next_h[i] = row.load(p.h, from, i), next_y[i] = row.load(p.d_y, from, i);
  }
  for (int64_t t = p.T - 1; t >= 0; --t) {
    Pair<A> h[C::PAIRS];
    const A inverse = p.inverse[row.b * p.T + t];
    A product = 0;
#pragma unroll
    for (int i = 0; i < C::PAIRS; ++i) {
      h[i] = next_h[i];
      d[i] = {d[i].x + next_y[i].x * slope(h[i].x), d[i].y + next_y[i].y * slope(h[i].y)};
      product += d[i].x * h[i].x + d[i].y * h[i].y;
      if (t > 0) next_h[i] = row.load(p.h, row.at(t - 1, p.T, i), i), next_y[i] = row.load(p.d_y, row.at(t - 1, p.T, i), i);
    }
    const A mean = row.mean(product, t);
#pragma unroll
    for (int i = 0; i < C::PAIRS; ++i) {
      d[i] = {(d[i].x - h[i].x * mean) * inverse, (d[i].y - h[i].y * mean) * inverse};
      if (row.mine(i)) store2(p.d_u + row.at(t, p.T, i), d[i].x, d[i].y);
    }
  }
#pragma unroll
  for (int i = 0; i < C::PAIRS; ++i)
    if (row.mine(i)) store2(p.d_h0 + row.at(0, 1, i), d[i].x, d[i].y);
}

template <class Args> Status check(const char* name, const Args& a) {
  if (a.B < 1 || a.T < 1 || a.D % 2 || ceil_div<int64_t>(a.D, 2 * threads) != C::PAIRS)
    return refuse("%s: B=%lld, T=%lld, D=%lld in a build for an even D of %d times %d channels or less", name, (long long)a.B, (long long)a.T,
                  (long long)a.D, C::PAIRS, 2 * threads);
  return 0;
}
}  // namespace e59

ELMAN_FORWARD(a) {
  ELMAN_TRY(e59::check("e59_forward", a));
  return elman::launch(e59::forward, "e59_forward", a.B, e59::threads, e59::Layout().carve.bytes, a.stream, a);
}
ELMAN_BACKWARD(a) {
  ELMAN_TRY(e59::check("e59_backward", a));
  return elman::launch(e59::backward, "e59_backward", a.B, e59::threads, e59::Layout().carve.bytes, a.stream, a);
}
