// h[t] = phi(a h[t-1] + x[t]), y = h^2. One thread per (batch, channel).
#include <elman/elman.cuh>

#include "elman_args.h"

using namespace elman;
using args::acc;
using args::scalar;

namespace integrator {
constexpr bool bounded = args::Constant::BOUNDED != 0;

ELMAN_KERNEL(64) forward(args::Forward p) {
  const int64_t i = (int64_t)block_x() * threads_x() + thread_x();
  if (i >= p.B * p.D) return;
  const int64_t b = i / p.D, d = i % p.D;
  acc h = p.h0[i];
  for (int64_t t = 0; t < p.T; ++t) {
    const int64_t at = (b * p.T + t) * p.D + d;
    h = p.a[d] * h + load(p.x + at);
    if (bounded) h = tanh_of(h);
    p.h[at] = h;
    store(p.y + at, h * h);
  }
  p.h_last[i] = h;
}

ELMAN_KERNEL(64) backward(args::Backward p) {
  const int64_t i = (int64_t)block_x() * threads_x() + thread_x();
  if (i >= p.B * p.D) return;
  const int64_t b = i / p.D, d = i % p.D;
  acc carry = p.d_h_last[i], a_part = 0;
  for (int64_t t = p.T - 1; t >= 0; --t) {
    const int64_t at = (b * p.T + t) * p.D + d;
    const acc h = p.h[at];
    carry += 2 * h * load(p.d_y + at);
    if (bounded) carry *= 1 - h * h;
    store(p.d_x + at, carry);
    a_part += carry * (t ? p.h[at - p.D] : p.h0[i]);
    carry *= p.a[d];
  }
  p.d_h0[i] = carry;
  p.a_part[i] = a_part;
}

unsigned blocks(int64_t B, int64_t D) { return (unsigned)((B * D + 63) / 64); }
}  // namespace integrator

ELMAN_FORWARD(a) { return launch(integrator::forward, "forward", integrator::blocks(a.B, a.D), 64, 0, a.stream, a); }
ELMAN_BACKWARD(a) { return launch(integrator::backward, "backward", integrator::blocks(a.B, a.D), 64, 0, a.stream, a); }
