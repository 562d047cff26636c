// E88: multi-head delta rule with a tanh matrix state, S' = tanh(lambda S + b (v - S k) k^T), o = act(g) (S' q).
// Tensors and constants: binding.py. Equations: README.md.
#include <elman/families/matrix_state.cuh>

#include "elman_args.h"

using namespace elman;

namespace e88 {
using args::acc;
using args::scalar;
using Constant = args::Constant;

struct Step {
  using Scalar = scalar;
  using Tile = matrix_state::Tile<Constant::N, Constant::M>;
  static constexpr int N = Tile::N, M = Tile::M, K = Constant::K;
  static constexpr bool tied = Constant::TIED, silu = Constant::SILU, unit = Constant::UNIT, linear = Constant::LINEAR;
  static constexpr bool write_gate = Constant::WRITE_GATE, projected_decay = Constant::DECAY_LOGIT, mamba = Constant::MAMBA;
  static constexpr bool constant_decay = Constant::CONSTANT;
  static constexpr bool gate = Constant::GATE, sigmoid_gate = Constant::GATE == 2;
  static_assert(!tied || M == N, "tied keys and values have one width");

  // Record: the value (and the raw gate) by row; decay, write gate, and the factors of q's and k's norms.
  enum { VALUE, GATE };
  enum { LAMBDA, WRITE, Q_FACTOR = 1 + write_gate, K_FACTOR };
  static constexpr int rows = gate ? 2 : 1, scalars = K_FACTOR + 1, grad_rows = 1, grad_scalars = 1 + write_gate;
  static constexpr bool needs_readout = gate, global_history = Constant::GLOBAL_HISTORY;
  static constexpr int EN = Tile::team_keys;
  using Record = matrix_state::Record<Step>;
  using Lane = matrix_state::Lane<Step>;
  using Team = matrix_state::Team<Step>;
  using Place = matrix_state::Place;
  using Inputs = matrix_state::Inputs<Step>;
  static constexpr int R = Tile::R, C = Tile::C;

  ELMAN_FN static acc write(const Inputs& in) {
    if constexpr (write_gate) return in.scalar[WRITE];
    return 1;
  }

  // S' = phi(lambda S + b delta k^T),  delta = v - S k
  ELMAN_FN static void forward(const Lane& lane, acc (&s)[R][C], const Inputs& in, acc (&delta)[R]) {
    const acc lambda = in.scalar[LAMBDA], b = write(in);
#pragma unroll
    for (int r = 0; r < R; ++r) delta[r] = in.row[VALUE][r] - lane.dot(s[r], in.k);
#pragma unroll
    for (int r = 0; r < R; ++r)
#pragma unroll
      for (int c = 0; c < C; ++c) {
        const acc p = lambda * s[r][c] + b * delta[r] * in.k[c];
        s[r][c] = linear ? p : tanh_of(p);
      }
  }

  // With g = dL/dS' on entry and A = g (1 - S'^2):  du = A k,  db = <du, delta>,  dv = b du,  dk = A^T (b delta) - S^T dv,
  // dlambda = <A, S>;  on return g = dL/dS = lambda A - dv k^T.
  ELMAN_FN static void backward(const Lane& lane, const acc (&before)[R][C], const acc (&after)[R][C], const Inputs& in,
                                const acc (&delta)[R], acc (&g)[R][C], Inputs& d) {
    const acc lambda = in.scalar[LAMBDA], b = write(in);
#pragma unroll
    for (int r = 0; r < R; ++r) {
#pragma unroll
      for (int c = 0; c < C; ++c) {
        if (!linear) g[r][c] *= tanh_slope(after[r][c]);
        d.scalar[LAMBDA] += g[r][c] * before[r][c];
      }
      const acc du = lane.dot(g[r], in.k), dv = b * du, u = b * delta[r];
      d.row[VALUE][r] = dv;
      if constexpr (write_gate) d.scalar[WRITE] += lane.first() ? du * delta[r] : acc(0);
#pragma unroll
      for (int c = 0; c < C; ++c) {
        d.k[c] += g[r][c] * u - before[r][c] * dv;
        g[r][c] = lambda * g[r][c] - dv * in.k[c];
      }
    }
  }

  // o = silu(g) y or sigmoid(g) y
  ELMAN_FN static acc output(const acc* record, int i, acc y) {
    if (!gate) return y;
    const acc g = record[Record::row(GATE, i)];
    return y * (sigmoid_gate ? sigmoid_of(g) : silu_of(g));
  }
  template <class Args>
  ELMAN_FN static acc output_backward(const Args& a, const Place& at, const acc* record, int i, acc y, acc d) {
    const acc g = record[Record::row(GATE, i)];
    store(a.d_gate + at.head() * M + i, d * y * (sigmoid_gate ? sigmoid_slope(sigmoid_of(g)) : silu_slope(g)));
    return d * (sigmoid_gate ? sigmoid_of(g) : silu_of(g));
  }

  // Raw vectors: q, k, v unless tied, gate if there is one. Raw numbers: the logits of decay and write gate.
  enum { Q, KEY, V };
  static constexpr int G = tied ? 2 : 3, vectors = G + gate;
  ELMAN_BOTH static int length(int v) { return v < V ? N : M; }
  template <class Args> ELMAN_FN static const scalar* source(const Args& a, const Place& at, int v) {
    return gate && v == G ? a.gate + at.head() * M : a.qkv + offset(at, v);
  }
  // Where a vector begins in the fused projection: q of all heads, k of all heads, v of all heads.
  ELMAN_FN static int64_t offset(const Place& at, int v) {
    return at.step() * at.H * (2 * N + (tied ? 0 : M)) + v * at.H * N + at.h * (v < V ? N : M);
  }
  static constexpr int q_raw = 0, k_raw = N, v_raw = 2 * N, g_raw = tied ? 2 * N : 2 * N + M;

  struct RawScalars {
    scalar decay, write;
  };
  template <class Args> ELMAN_FN static RawScalars load_scalars(const Args& a, const Place& at) {
    RawScalars raw{};
    if (projected_decay) raw.decay = a.decay_logit[at.head()];
    if (write_gate) raw.write = a.write_logit[at.head()];
    return raw;
  }

  ELMAN_FN static acc activation(acc x) { return silu ? silu_of(x) : x; }
  ELMAN_FN static acc activation_slope(acc x) { return silu ? silu_slope(x) : acc(1); }

  // l = log lambda = -exp(A_log) softplus(alpha + dt_bias)
  template <class Args> ELMAN_FN static acc log_decay(const Args& a, const Place& at, acc alpha) {
    return -exp_of(a.A_log[at.h]) * softplus_of(alpha + a.dt_bias[at.h]);
  }
  template <class Args> ELMAN_FN static acc decay(const Args& a, const Place& at, acc alpha) {
    if (mamba) return exp_of(log_decay(a, at, alpha));
    if (projected_decay) return sigmoid_of(alpha);
    return constant_decay ? sigmoid_of(a.decay_bias[at.h]) : acc(1);
  }

  template <class Args>
  ELMAN_FN static void prepare(const Args&, const Place&, const Team& team, const scalar* raw, acc* record) {
    acc q[EN], k[EN], q_factor = 1, k_factor = 1;
#pragma unroll
    for (int j = 0; j < EN; ++j) {
      const int i = team.element(j);
      q[j] = i < N ? activation(load(raw + q_raw + i)) : acc(0);
      k[j] = i < N ? activation(load(raw + k_raw + i)) : acc(0);
    }
    if (unit) q_factor = matrix_state::unit_factor(team, q), k_factor = matrix_state::unit_factor(team, k);
#pragma unroll
    for (int j = 0; j < EN; ++j)
      if (const int i = team.element(j); i < N) {
        record[Record::q(i)] = q[j] * q_factor;
        record[Record::k(i)] = k[j] * k_factor;
        if (tied) record[Record::row(VALUE, i)] = k[j];
      }
    for (int i = team.element(0); i < M; i += team.width) {
      if (!tied) record[Record::row(VALUE, i)] = activation(load(raw + v_raw + i));
      if (gate) record[Record::row(GATE, i)] = load(raw + g_raw + i);
    }
    if (team.first()) {
      record[Record::scalar(Q_FACTOR)] = q_factor;
      record[Record::scalar(K_FACTOR)] = k_factor;
    }
  }
  template <class Args>
  ELMAN_FN static void prepare_scalars(const Args& a, const Place& at, const RawScalars& raw, acc* record) {
    record[Record::scalar(LAMBDA)] = decay(a, at, load(&raw.decay));
    if constexpr (write_gate) record[Record::scalar(WRITE)] = sigmoid_of(load(&raw.write));
  }

  struct Sums {
    acc A_log, dt_bias, decay_bias;
  };

  template <class Args>
  ELMAN_FN static void finish(const Args& a, const Place& at, const Team& team, const scalar* raw, const acc* record,
                              const matrix_state::RecordGradient<Step>& gradient, Sums&) {
    acc dq[EN], dk[EN];
#pragma unroll
    for (int j = 0; j < EN; ++j) {
      const int i = team.element(j);
      dq[j] = i < N ? gradient.q(i) : acc(0);
      dk[j] = i < N ? gradient.k(i) : acc(0);
    }
    if (unit) {
      acc q[EN], k[EN];
#pragma unroll
      for (int j = 0; j < EN; ++j) {
        const int i = team.element(j);
        q[j] = i < N ? record[Record::q(i)] : acc(0);
        k[j] = i < N ? record[Record::k(i)] : acc(0);
      }
      matrix_state::unit_backward(team, dq, q, record[Record::scalar(Q_FACTOR)]);
      matrix_state::unit_backward(team, dk, k, record[Record::scalar(K_FACTOR)]);
    }
    if (!at.valid) return;
#pragma unroll
    for (int j = 0; j < EN; ++j)
      if (const int i = team.element(j); i < N) {
        const acc d = dk[j] + (tied ? gradient.row(VALUE, i) : acc(0));
        store(a.d_qkv + offset(at, Q) + i, dq[j] * activation_slope(load(raw + q_raw + i)));
        store(a.d_qkv + offset(at, KEY) + i, d * activation_slope(load(raw + k_raw + i)));
      }
    if (!tied)
      for (int i = team.element(0); i < M; i += team.width)
        store(a.d_qkv + offset(at, V) + i, gradient.row(VALUE, i) * activation_slope(load(raw + v_raw + i)));
  }

  template <class Args>
  ELMAN_FN static void finish_scalars(const Args& a, const Place& at, const RawScalars& raw, const acc* record, const acc* gradient,
                                      Sums& sums) {
    const acc lambda = record[Record::scalar(LAMBDA)], alpha = load(&raw.decay);
    acc d_logit = gradient[LAMBDA] * sigmoid_slope(lambda);
    if (mamba) {
      // dl = lambda dlambda,  dalpha = -dl exp(A_log) sigmoid(alpha + dt_bias),  dA_log = dl l
      const acc d_log = lambda * gradient[LAMBDA];
      d_logit = -d_log * exp_of(a.A_log[at.h]) * softplus_slope(alpha + a.dt_bias[at.h]);
      sums.A_log += d_log * log_decay(a, at, alpha);
      sums.dt_bias += d_logit;
    }
    if (constant_decay) sums.decay_bias += d_logit;
    if (projected_decay) store(a.d_decay_logit + at.head(), d_logit);
    if (write_gate) store(a.d_write_logit + at.head(), gradient[WRITE] * sigmoid_slope(record[Record::scalar(WRITE)]));
  }

  // The thread number t of a block has summed the steps t, t + K, ... of its head.
  template <class Args, class SumOver>
  ELMAN_FN static void store_sums(const Args& a, const Place& at, const Team&, const Sums& sums, const SumOver& sum_over) {
    const int64_t head = at.b * at.H + at.h;
    if (mamba) {
      const acc A_log = sum_over(sums.A_log, 0, 1, K), dt_bias = sum_over(sums.dt_bias, 0, 1, K);
      if (thread_x() == 0) a.A_log_part[head] = A_log, a.dt_bias_part[head] = dt_bias;
    }
    if (constant_decay) {
      const acc decay_bias = sum_over(sums.decay_bias, 0, 1, K);
      if (thread_x() == 0) a.decay_bias_part[head] = decay_bias;
    }
  }
};
}  // namespace e88

ELMAN_FORWARD(a) { return matrix_state::forward<e88::Step>(a, "e88_forward"); }
ELMAN_BACKWARD(a) { return matrix_state::backward<e88::Step>(a, "e88_backward"); }
