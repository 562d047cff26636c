// h[t] = phi(x[t] + a * h[t-1]), y[t] = h[t], with phi = tanh or the identity. One thread per (batch, channel), a loop over time.
#include <elman/elman.cuh>

#include "elman_args.h"

namespace blank {
using namespace elman;
using args::acc;

constexpr bool linear = args::Constant::LINEAR != 0;
constexpr int threads = 64;

// The step and its derivative by the pre-activation, the latter from the step's result.
ELMAN_FN acc step(acc x, acc a, acc h) {
  const acc pre = x + a * h;
  return linear ? pre : tanh_of(pre);
}
ELMAN_FN acc step_slope(acc h) { return linear ? acc(1) : tanh_slope(h); }

ELMAN_KERNEL(threads) forward(args::Forward p) {
  const int64_t row = (int64_t)block_x() * threads_x() + thread_x();  // (batch, channel)
  if (row >= p.B * p.D) return;
  const int64_t b = row / p.D, d = row % p.D;
  const acc a = p.a[d];
  acc h = p.h0[row];
  for (int64_t t = 0; t < p.T; ++t) {
    const int64_t i = (b * p.T + t) * p.D + d;
    h = step(load(p.x + i), a, h);
    p.h[i] = h;
    store(p.y + i, h);
  }
  p.h_last[row] = h;
}

// carry is the gradient of h[t]: what y[t] and the step after it send back.
ELMAN_KERNEL(threads) backward(args::Backward p) {
  const int64_t row = (int64_t)block_x() * threads_x() + thread_x();
  if (row >= p.B * p.D) return;
  const int64_t b = row / p.D, d = row % p.D;
  const acc a = p.a[d];
  acc carry = p.d_h_last[row], a_part = 0;
  for (int64_t t = p.T - 1; t >= 0; --t) {
    const int64_t i = (b * p.T + t) * p.D + d;
    const acc before = t ? p.h[i - p.D] : p.h0[row];
    const acc d_pre = (carry + load(p.d_y + i)) * step_slope(p.h[i]);
    store(p.d_x + i, d_pre);
    a_part += d_pre * before;
    carry = a * d_pre;
  }
  p.d_h0[row] = carry;
  p.a_part[row] = a_part;  // torch adds these up over the batch, in one order
}

int64_t blocks(int64_t B, int64_t D) { return ceil_div(B * D, (int64_t)threads); }
}  // namespace blank

ELMAN_FORWARD(a) {
  return elman::launch(blank::forward, "blank_forward", blank::blocks(a.B, a.D), blank::threads, 0, a.stream, a);
}
ELMAN_BACKWARD(a) {
  return elman::launch(blank::backward, "blank_backward", blank::blocks(a.B, a.D), blank::threads, 0, a.stream, a);
}
