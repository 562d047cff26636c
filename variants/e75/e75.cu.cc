// E75: gated delta rule, S' = tanh(diag(beta) S + (v - S k) k^T), or without the tanh, with the readout r = S' q gating itself:
// y = r^2 sigmoid(r).
// Tensors and constants: binding.py. Equations: README.md.
#include <elman/families/matrix_state.cuh>

#include "elman_args.h"

using namespace elman;

namespace e75 {
using args::acc;
using args::scalar;
using Constant = args::Constant;

struct Step {
  using Scalar = scalar;
  static constexpr int N = Constant::N, M = N, K = Constant::K;
  using Team = matrix_state::Team<N, N, Constant::PACKED>;
  static constexpr int E = N / Team::width, EM = E;
  static constexpr bool linear = Constant::LINEAR, log_space = Constant::LOG_SPACE;

  // A record's value is this many times v, so that the state's tanh needs fewer products.
  static constexpr acc scale = linear ? acc(1) : tanh_scale<scalar>;
  // Record: value and forget gate by row; the factor of the key's norm.
  enum { VALUE, BETA };
  enum { K_FACTOR };
  static constexpr int rows = 2, scalars = 1, read_scalars = 0, grad_scalars = 0;
  static constexpr bool needs_readout = true, global_history = Constant::GLOBAL_HISTORY, spread = Constant::SPREAD, packed = Constant::PACKED;
  using Record = matrix_state::Record<Step>;
  using Place = matrix_state::Place;

  // S' = phi(diag(beta) S + delta k^T),  delta = v - S k, which is kept scaled
  template <class Lane, int R, int C>
  ELMAN_FN static void forward(const Lane& lane, acc (&s)[R][C], const typename Lane::Inputs& in, acc (&delta)[R]) {
    lane.product(delta, s, in.k);
#pragma unroll
    for (int r = 0; r < R; ++r) {
      delta[r] = in.row[VALUE][r] - scale * delta[r];
      const acc beta = scale * in.row[BETA][r];
#pragma unroll
      for (int c = 0; c < C; ++c) s[r][c] = beta * s[r][c] + delta[r] * in.k[c];
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
  // With g = A on entry:  dv = A k,  dbeta_i = sum_j A_ij S_ij,  -dk = S^T dv - A^T delta;
  // on return g = dL/dS = diag(beta) A - dv k^T.
  template <class Lane, class Gradients, int R, int C>
  ELMAN_FN static void backward(const Lane& lane, const acc (&before)[R][C], const typename Lane::Inputs& in,
                                const acc (&delta)[R], acc (&g)[R][C], Gradients& d) {
#pragma unroll
    for (int r = 0; r < R; ++r) {
      d.row[BETA][r] = 0;
#pragma unroll
      for (int c = 0; c < C; ++c) d.row[BETA][r] += g[r][c] * before[r][c];
    }
    lane.product(d.row[VALUE], g, in.k);
    lane.row_sums(d.row[BETA]);
    acc minus_delta[R];
#pragma unroll
    for (int r = 0; r < R; ++r) minus_delta[r] = (-1 / scale) * delta[r];
    d.columns.minus_key(g, minus_delta);
    d.columns.minus_key(before, d.row[VALUE]);
#pragma unroll
    for (int r = 0; r < R; ++r)
#pragma unroll
      for (int c = 0; c < C; ++c) g[r][c] = in.row[BETA][r] * g[r][c] - d.row[VALUE][r] * in.k[c];
  }

  // y = r^2 sigmoid(r),  dr = dy r sigmoid(r) (2 + r (1 - sigmoid(r)))
  template <class Args> ELMAN_FN static void output(const Args&, const Place&, const Team&, acc (&r)[E]) {
#pragma unroll
    for (int j = 0; j < E; ++j) r[j] *= silu_for<scalar>(r[j]);
  }
  template <class Args>
  ELMAN_FN static void output_backward(const Args&, const Place&, const Team&, const acc (&r)[E], acc (&d)[E]) {
#pragma unroll
    for (int j = 0; j < E; ++j) d[j] *= silu_for<scalar>(r[j]) * (2 + r[j] * sigmoid_for<scalar>(-r[j]));
  }

  // Raw vectors: q, k, v and the logit of beta, each [B, T, 4, H, N]. No raw numbers.
  enum { Q, KEY, V, LOGIT };
  struct Raw {
    matrix_state::Slice<scalar, E> q, k, v, logit;
  };
  template <class T> ELMAN_FN static T* part(T* qkvb, const Place& at, const Team& team, int v) {
    return team.part<E>(at, qkvb, 4 * at.H * N, v * at.H * N);
  }
  template <class Args> ELMAN_FN static Raw load(const Args& a, const Place& at, const Team& team) {
    const auto read = [&](int v) { return matrix_state::read_slice<E>(part(a.qkvb, at, team, v)); };
    return {read(Q), read(KEY), read(V), read(LOGIT)};
  }
  struct RawScalars {};
  template <class Args> ELMAN_FN static RawScalars load_scalars(const Args&, const Place&) { return {}; }
  template <class Args> ELMAN_FN static void prepare_scalars(const Args&, const Place&, const RawScalars&, acc*) {}

  // A team's part of the biased logits z, and of exp(A_log).
  template <class Args> ELMAN_FN static void logits(const Args& a, const Place& at, const Team& team, const Raw& raw, acc (&z)[E]) {
    team.get(z, a.beta_bias + at.h * N);
#pragma unroll
    for (int j = 0; j < E; ++j) z[j] += raw.logit[j];
  }
  template <class Args> ELMAN_FN static void rates(const Args& a, const Place& at, const Team& team, acc (&rate)[E]) {
    team.get(rate, a.A_log + at.h * N);
#pragma unroll
    for (int j = 0; j < E; ++j) rate[j] = exp_of(rate[j]);
  }

  template <class Args>
  ELMAN_FN static void prepare(const Args& a, const Place& at, const Team& team, const Raw& raw, acc* record) {
    acc q[E], k[E], v[E], beta[E], rate[E] = {};
    logits(a, at, team, raw, beta);
    if (log_space) rates(a, at, team, rate);
#pragma unroll
    for (int j = 0; j < E; ++j) {
      q[j] = raw.q[j], k[j] = raw.k[j], v[j] = scale * raw.v[j];
      beta[j] = log_space ? exp_of(-rate[j] * softplus_of(beta[j])) : sigmoid_for<scalar>(beta[j]);
    }
    const acc factor = team.unit_factor<scalar>(k);
#pragma unroll
    for (int j = 0; j < E; ++j) k[j] *= factor;
    team.put(record + Record::q(), q);
    team.put(record + Record::k(), k);
    team.put(record + Record::row(VALUE), v);
    team.put(record + Record::row(BETA), beta);
    if (team.first()) record[Record::scalar(K_FACTOR)] = factor;
  }

  struct Sums {
    acc beta_bias[E], A_log[E];
  };

  template <class Args>
  ELMAN_FN static void finish(const Args& a, const Place& at, const Team& team, const Raw& raw, const acc* record,
                              const matrix_state::RecordGradient<Step>& gradient, Sums& sums) {
    // One vector after the other, since wide ones fill the registers.
    acc d[E];
    gradient.q(team, d);
    if (at.valid) matrix_state::write_slice(part(a.d_qkvb, at, team, Q), d);
    gradient.row(team, VALUE, d);
    if (at.valid) matrix_state::write_slice(part(a.d_qkvb, at, team, V), d);
    {
      acc k[E];
      gradient.minus_k(team, d);
      team.get(k, record + Record::k());
      team.unit_backward(d, k, -record[Record::scalar(K_FACTOR)]);
    }
    if (at.valid) matrix_state::write_slice(part(a.d_qkvb, at, team, KEY), d);
    acc beta[E];
    gradient.row(team, BETA, d);
    team.get(beta, record + Record::row(BETA));
    if (log_space) {
      // l = log beta = -exp(A_log) softplus(z):  dl = beta dbeta,  dz = -dl exp(A_log) sigmoid(z),  dA_log = dl l
      acc z[E], rate[E];
      logits(a, at, team, raw, z);
      rates(a, at, team, rate);
#pragma unroll
      for (int j = 0; j < E; ++j) {
        const acc d_log = -rate[j] * (d[j] * beta[j]);
        sums.A_log[j] += at.valid ? d_log * softplus_of(z[j]) : acc(0);
        d[j] = d_log * softplus_slope(z[j]);
      }
    } else {
#pragma unroll
      for (int j = 0; j < E; ++j) d[j] *= sigmoid_slope(beta[j]);
    }
#pragma unroll
    for (int j = 0; j < E; ++j) sums.beta_bias[j] += at.valid ? d[j] : acc(0);
    if (at.valid) matrix_state::write_slice(part(a.d_qkvb, at, team, LOGIT), d);
  }
  template <class Args>
  ELMAN_FN static void finish_scalars(const Args&, const Place&, const RawScalars&, const acc*, const acc*, Sums&) {}

  // Team i of a block has summed every so many steps of head i % heads, a part of each parameter in each of its lanes.
  template <class Plan, class Args, class SumOver>
  ELMAN_FN static void store_sums(const Args& a, int producer, int bh0, const Sums& sums, const SumOver& sum_over) {
    const bool speaks = producer >= 0 && producer < Team::width * Plan::heads && bh0 + producer / Team::width < (int)(a.B * a.H);
#pragma unroll
    for (int j = 0; j < E; ++j) {
      const int place = (bh0 + producer / Team::width) * N + producer % Team::width * E + j;
      const auto total = [&](acc x) { return sum_over(x, producer, Team::width * Plan::heads, speaks ? Plan::teams / Plan::heads : 0); };
      const acc beta_bias = total(sums.beta_bias[j]);
      if (speaks) a.beta_bias_part[place] = beta_bias;
      if (log_space) {
        const acc A_log = total(sums.A_log[j]);
        if (speaks) a.A_log_part[place] = A_log;
      }
    }
  }
};
}  // namespace e75

ELMAN_FORWARD(a) { return matrix_state::forward<e75::Step>(a, "e75_forward"); }
ELMAN_BACKWARD(a) { return matrix_state::backward<e75::Step>(a, "e75_backward"); }
