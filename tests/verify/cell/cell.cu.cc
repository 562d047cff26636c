// s[t] = tanh(decay[t] s[t-1] + W s[t-1] + x[t]), y[t] = s[t] silu(gate[t]). One thread per (row, head).
#include <elman/elman.cuh>

#include "elman_args.h"

using namespace elman;
using args::acc;
using args::scalar;

namespace cell {
constexpr int N = args::Constant::N;

template <class Args> ELMAN_FN int64_t place(const Args& p, int64_t b, int64_t t, int64_t h) { return ((b * p.T + t) * p.H + h) * N; }

// The one step, which the forward pass takes and the backward pass replays.
template <class Args> ELMAN_FN void step(const Args& p, int64_t at, int64_t h, acc lambda, const acc (&s)[N], acc (&next)[N]) {
  for (int i = 0; i < N; ++i) {
    acc sum = 0;
    for (int j = 0; j < N; ++j) sum += p.W[(h * N + i) * N + j] * s[j];
    next[i] = tanh_of(lambda * s[i] + sum + load(p.x + at + i));
  }
}

ELMAN_KERNEL(32) forward(args::Forward p) {
  const int64_t row = (int64_t)block_x() * threads_x() + thread_x();
  if (row >= p.B * p.H) return;
  const int64_t b = row / p.H, h = row % p.H;
  acc s[N], next[N];
  for (int i = 0; i < N; ++i) s[i] = p.s0[row * N + i];
  for (int64_t t = 0; t < p.T; ++t) {
    const int64_t at = place(p, b, t, h);
    const acc lambda = p.decay[at / N];
    step(p, at, h, lambda, s, next);
    for (int i = 0; i < N; ++i) {
      p.slots[at + i] = s[i];
      p.read[at + i] = next[i];
      store(p.y + at + i, next[i] * silu_of(load(p.gate + at + i)));
      s[i] = next[i];
    }
  }
  for (int i = 0; i < N; ++i) p.s_last[row * N + i] = s[i];
}

ELMAN_KERNEL(32) backward(args::Backward p) {
  const int64_t row = (int64_t)block_x() * threads_x() + thread_x();
  if (row >= p.B * p.H) return;
  const int64_t b = row / p.H, h = row % p.H;
  acc carry[N], before[N], after[N], pre[N], dW[N][N] = {};
  for (int i = 0; i < N; ++i) carry[i] = p.d_s_last[row * N + i];
  for (int64_t t = p.T - 1; t >= 0; --t) {
    const int64_t at = place(p, b, t, h);
    const acc lambda = p.decay[at / N];
    acc d_lambda = 0;
    for (int i = 0; i < N; ++i) before[i] = p.slots[at + i];
    step(p, at, h, lambda, before, after);
    for (int i = 0; i < N; ++i) {
      const acc g = load(p.gate + at + i), dy = load(p.d_y + at + i);
      store(p.d_gate + at + i, dy * p.read[at + i] * silu_slope(g));
      pre[i] = (carry[i] + dy * silu_of(g)) * tanh_slope(after[i]);
      store(p.d_x + at + i, pre[i]);
      d_lambda += pre[i] * before[i];
    }
    p.d_decay[at / N] = d_lambda;
    for (int j = 0; j < N; ++j) {
      carry[j] = lambda * pre[j];
      for (int i = 0; i < N; ++i) {
        carry[j] += p.W[(h * N + i) * N + j] * pre[i];
        dW[i][j] += pre[i] * before[j];
      }
    }
  }
  for (int i = 0; i < N; ++i) p.d_s0[row * N + i] = carry[i];
  for (int i = 0; i < N * N; ++i) p.W_part[row * N * N + i] = dW[i / N][i % N];
}

unsigned blocks(int64_t B, int64_t H) { return (unsigned)((B * H + 31) / 32); }
}  // namespace cell

ELMAN_FORWARD(a) { return launch(cell::forward, "forward", cell::blocks(a.B, a.H), 32, 0, a.stream, a); }
ELMAN_BACKWARD(a) { return launch(cell::backward, "backward", cell::blocks(a.B, a.H), 32, 0, a.stream, a); }
