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
  static constexpr int N = Constant::N, M = Constant::M, K = Constant::K;
  using Team = matrix_state::Team<N, M, Constant::PACKED>;
  static constexpr int EN = N / Team::width, EM = M / Team::width;
  static constexpr bool tied = Constant::TIED, silu = Constant::SILU, unit = Constant::UNIT, linear = Constant::LINEAR;
  static constexpr bool write_gate = Constant::WRITE_GATE, projected_decay = Constant::DECAY_LOGIT, mamba = Constant::MAMBA;
  static constexpr bool constant_decay = Constant::CONSTANT;
  static constexpr bool gate = Constant::GATE, sigmoid_gate = Constant::GATE == 2;
  static_assert(!tied || M == N, "tied keys and values have one width");

  // A record's value and its decay for the state are this many times v and lambda, so that the state's tanh needs no product of
  // its own.
  static constexpr acc scale = linear ? acc(1) : tanh_scale<scalar>;
  // Record: the value by row; decay, write gate, scaled decay, and the factors of q's and k's norms.
  enum { VALUE };
  enum { LAMBDA, WRITE, SCALED_LAMBDA = 1 + write_gate, Q_FACTOR, K_FACTOR };
  static constexpr int rows = 1, scalars = K_FACTOR + 1, read_scalars = SCALED_LAMBDA + 1, grad_scalars = 1 + write_gate;
  static constexpr bool needs_readout = gate, global_history = Constant::GLOBAL_HISTORY, spread = Constant::SPREAD, packed = Constant::PACKED;
  using Record = matrix_state::Record<Step>;
  using Place = matrix_state::Place;

  template <class Inputs> ELMAN_FN static acc write(const Inputs& in) {
    if constexpr (write_gate) return in.scalar[WRITE];
    return 1;
  }

  // S' = phi(lambda S + b delta k^T),  delta = v - S k, which is kept scaled
  template <class Lane, int R, int C>
  ELMAN_FN static void forward(const Lane& lane, acc (&s)[R][C], const typename Lane::Inputs& in, acc (&delta)[R]) {
    const acc lambda = in.scalar[SCALED_LAMBDA], b = write(in);
    lane.product(delta, s, in.k);
#pragma unroll
    for (int r = 0; r < R; ++r) {
      delta[r] = in.row[VALUE][r] - scale * delta[r];
      const acc u = b * delta[r];
#pragma unroll
      for (int c = 0; c < C; ++c) s[r][c] = lambda * s[r][c] + u * in.k[c];
    }
    if (!linear) tanh_each<scalar, Lane::share>(reinterpret_cast<acc(&)[R * C]>(s));
  }

  // A = dL/dS' (1 - S'^2)
  template <int R, int C> ELMAN_FN static void slope(const acc (&after)[R][C], acc (&g)[R][C]) {
#pragma unroll
    for (int r = 0; r < R; ++r)
#pragma unroll
      for (int c = 0; c < C; ++c) if (!linear) g[r][c] *= tanh_slope(after[r][c]);
  }
  // With g = A on entry:  du = A k,  db = <du, delta>,  dv = b du,  -dk = S^T dv - A^T (b delta),
  // dlambda = <A, S>;  on return g = dL/dS = lambda A - dv k^T.
  template <class Lane, class Gradients, int R, int C>
  ELMAN_FN static void backward(const Lane& lane, const acc (&before)[R][C], const typename Lane::Inputs& in,
                                const acc (&delta)[R], acc (&g)[R][C], Gradients& d) {
    const acc lambda = in.scalar[LAMBDA], b = write(in);
    acc du[R], minus_u[R];
    lane.product(du, g, in.k);
#pragma unroll
    for (int r = 0; r < R; ++r) {
      d.row[VALUE][r] = b * du[r];
      minus_u[r] = b * (-1 / scale) * delta[r];
      if constexpr (write_gate) d.scalar[WRITE] += lane.first() ? du[r] * ((1 / scale) * delta[r]) : acc(0);
    }
    d.columns.minus_key(g, minus_u);
    d.columns.minus_key(before, d.row[VALUE]);
#pragma unroll
    for (int r = 0; r < R; ++r)
#pragma unroll
      for (int c = 0; c < C; ++c) {
        d.scalar[LAMBDA] += g[r][c] * before[r][c];
        g[r][c] = lambda * g[r][c] - d.row[VALUE][r] * in.k[c];
      }
  }

  // o = silu(g) y or sigmoid(g) y
  template <class Args> ELMAN_FN static void output(const Args& a, const Place& at, const Team& team, acc (&y)[EM]) {
    if constexpr (gate) {
      const auto g = matrix_state::read_slice<EM>(team.part<EM>(at, a.gate));
#pragma unroll
      for (int j = 0; j < EM; ++j) y[j] *= sigmoid_gate ? sigmoid_for<scalar>(g[j]) : silu_for<scalar>(g[j]);
    }
  }
  template <class Args>
  ELMAN_FN static void output_backward(const Args& a, const Place& at, const Team& team, const acc (&y)[EM], acc (&d)[EM]) {
    const auto gates = matrix_state::read_slice<EM>(team.part<EM>(at, a.gate));
    acc d_gate[EM];
#pragma unroll
    for (int j = 0; j < EM; ++j) {
      const acc g = gates[j];
      d_gate[j] = d[j] * y[j] * (sigmoid_gate ? sigmoid_slope(sigmoid_for<scalar>(g)) : silu_slope_for<scalar>(g));
      d[j] *= sigmoid_gate ? sigmoid_for<scalar>(g) : silu_for<scalar>(g);
    }
    matrix_state::write_slice(team.part<EM>(at, a.d_gate), d_gate);
  }

  // Raw vectors: q, k, v unless tied. Raw numbers: the logits of decay and write gate.
  enum { Q, KEY, V };
  struct Raw {
    matrix_state::Slice<scalar, EN> q, k;
    matrix_state::Slice<scalar, EM> v;
  };
  // A team's part of q, k or v in the fused projection: q of all heads, k of all heads, v of all heads.
  template <int E, class T> ELMAN_FN static T* part(T* qkv, const Place& at, const Team& team, int v) {
    return team.part<E>(at, qkv, at.H * (2 * N + (tied ? 0 : M)), v * at.H * N);
  }
  template <class Args> ELMAN_FN static Raw load(const Args& a, const Place& at, const Team& team) {
    using matrix_state::read_slice;
    Raw raw{read_slice<EN>(part<EN>(a.qkv, at, team, Q)), read_slice<EN>(part<EN>(a.qkv, at, team, KEY)), {}};
    if constexpr (!tied) raw.v = read_slice<EM>(part<EM>(a.qkv, at, team, V));
    return raw;
  }
  struct RawScalars {
    scalar decay, write;
  };
  template <class Args> ELMAN_FN static RawScalars load_scalars(const Args& a, const Place& at) {
    RawScalars raw{};
    if (projected_decay) raw.decay = a.decay_logit[at.head()];
    if (write_gate) raw.write = a.write_logit[at.head()];
    return raw;
  }

  ELMAN_FN static acc activation(acc x) { return silu ? silu_for<scalar>(x) : x; }
  ELMAN_FN static acc activation_slope(acc x) { return silu ? silu_slope_for<scalar>(x) : acc(1); }

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
  ELMAN_FN static void prepare(const Args&, const Place&, const Team& team, const Raw& raw, acc* record) {
    acc q[EN], k[EN], v[EM], q_factor = 1, k_factor = 1;
#pragma unroll
    for (int j = 0; j < EN; ++j) q[j] = activation(raw.q[j]), k[j] = activation(raw.k[j]);
    if constexpr (tied) {
#pragma unroll
      for (int j = 0; j < EM; ++j) v[j] = scale * k[j];
      team.put(record + Record::row(VALUE), v);
    }
    if (unit) q_factor = team.unit_factor<scalar>(q), k_factor = team.unit_factor<scalar>(k);
#pragma unroll
    for (int j = 0; j < EN; ++j) q[j] *= q_factor, k[j] *= k_factor;
    team.put(record + Record::q(), q);
    team.put(record + Record::k(), k);
    if constexpr (!tied) {
#pragma unroll
      for (int j = 0; j < EM; ++j) v[j] = scale * activation(raw.v[j]);
      team.put(record + Record::row(VALUE), v);
    }
    if (team.first()) {
      record[Record::scalar(Q_FACTOR)] = q_factor;
      record[Record::scalar(K_FACTOR)] = k_factor;
    }
  }
  template <class Args>
  ELMAN_FN static void prepare_scalars(const Args& a, const Place& at, const RawScalars& raw, acc* record) {
    const acc lambda = decay(a, at, elman::load(&raw.decay));
    record[Record::scalar(LAMBDA)] = lambda;
    record[Record::scalar(SCALED_LAMBDA)] = scale * lambda;
    if constexpr (write_gate) record[Record::scalar(WRITE)] = sigmoid_of(elman::load(&raw.write));
  }

  struct Sums {
    acc A_log, dt_bias, decay_bias;
  };

  template <class Args>
  ELMAN_FN static void finish(const Args& a, const Place& at, const Team& team, const Raw& raw, const acc* record,
                              const matrix_state::RecordGradient<Step>& gradient, Sums&) {
    // One vector after the other, since wide ones fill the registers.
    const auto key_or_query = [&](acc (&d)[EN], int factor, int unit_at, acc sign) {
      acc x[EN];
      if (unit) team.get(x, record + unit_at);
      if (unit) team.unit_backward(d, x, sign * record[Record::scalar(factor)]);
      else
        for (int j = 0; j < EN; ++j) d[j] *= sign;
    };
    acc dq[EN], dk[EN], dv[EM];
    gradient.q(team, dq);
    key_or_query(dq, Q_FACTOR, Record::q(), 1);
#pragma unroll
    for (int j = 0; j < EN; ++j) dq[j] *= activation_slope(raw.q[j]);
    if (at.valid) matrix_state::write_slice(part<EN>(a.d_qkv, at, team, Q), dq);
    gradient.row(team, VALUE, dv);
    if constexpr (!tied) {
#pragma unroll
      for (int j = 0; j < EM; ++j) dv[j] *= activation_slope(raw.v[j]);
      if (at.valid) matrix_state::write_slice(part<EM>(a.d_qkv, at, team, V), dv);
    }
    gradient.minus_k(team, dk);
    key_or_query(dk, K_FACTOR, Record::k(), -1);
#pragma unroll
    for (int j = 0; j < EN; ++j) {
      if constexpr (tied) dk[j] += dv[j];
      dk[j] *= activation_slope(raw.k[j]);
    }
    if (at.valid) matrix_state::write_slice(part<EN>(a.d_qkv, at, team, KEY), dk);
  }

  template <class Args>
  ELMAN_FN static void finish_scalars(const Args& a, const Place& at, const RawScalars& raw, const acc* record,
                                      const acc* gradient, Sums& sums) {
    const acc lambda = record[Record::scalar(LAMBDA)], alpha = elman::load(&raw.decay);
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

  // Producer i of a block has summed the steps i / heads, i / heads + K, ... of head i % heads.
  template <class Plan, class Args, class SumOver>
  ELMAN_FN static void store_sums(const Args& a, int producer, int bh0, const Sums& sums, const SumOver& sum_over) {
    const bool speaks = producer >= 0 && producer < Plan::heads && bh0 + producer < (int)(a.B * a.H);
    const auto total = [&](acc x) { return sum_over(x, producer, Plan::heads, speaks ? K : 0); };
    if (mamba) {
      const acc A_log = total(sums.A_log), dt_bias = total(sums.dt_bias);
      if (speaks) a.A_log_part[bh0 + producer] = A_log, a.dt_bias_part[bh0 + producer] = dt_bias;
    }
    if (constant_decay) {
      const acc decay_bias = total(sums.decay_bias);
      if (speaks) a.decay_bias_part[bh0 + producer] = decay_bias;
    }
  }
};
}  // namespace e88

ELMAN_FORWARD(a) { return matrix_state::forward<e88::Step>(a, "e88_forward"); }
ELMAN_BACKWARD(a) { return matrix_state::backward<e88::Step>(a, "e88_backward"); }
