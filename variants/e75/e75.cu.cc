// E75: gated delta rule, S' = tanh(diag(beta) S + (v - S k) k^T), with the readout r = S' q gating itself: y = r^2 sigmoid(r).
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
  using Tile = matrix_state::Tile<Constant::N, Constant::N>;
  static constexpr int N = Tile::N, K = Constant::K;

  // Record: value and forget gate by row; the factor of the key's norm.
  enum { VALUE, BETA };
  enum { K_FACTOR };
  static constexpr int rows = 2, scalars = 1, grad_rows = 2, grad_scalars = 0;
  static constexpr bool needs_readout = true, global_history = Constant::GLOBAL_HISTORY;
  static constexpr int EN = Tile::team_keys;
  using Record = matrix_state::Record<Step>;
  using Lane = matrix_state::Lane<Step>;
  using Team = matrix_state::Team<Step>;
  using Place = matrix_state::Place;
  using Inputs = matrix_state::Inputs<Step>;
  static constexpr int R = Tile::R, C = Tile::C;

  // S' = tanh(diag(beta) S + delta k^T),  delta = v - S k
  ELMAN_FN static void forward(const Lane& lane, acc (&s)[R][C], const Inputs& in, acc (&delta)[R]) {
#pragma unroll
    for (int r = 0; r < R; ++r) delta[r] = in.row[VALUE][r] - lane.dot(s[r], in.k);
#pragma unroll
    for (int r = 0; r < R; ++r)
#pragma unroll
      for (int c = 0; c < C; ++c) s[r][c] = tanh_of(in.row[BETA][r] * s[r][c] + delta[r] * in.k[c]);
  }

  // With g = dL/dS' on entry and A = g (1 - S'^2):  dv = A k,  dbeta_i = sum_j A_ij S_ij,  dk = A^T delta - S^T dv;
  // on return g = dL/dS = diag(beta) A - dv k^T.
  ELMAN_FN static void backward(const Lane& lane, const acc (&before)[R][C], const acc (&after)[R][C], const Inputs& in,
                                const acc (&delta)[R], acc (&g)[R][C], Inputs& d) {
#pragma unroll
    for (int r = 0; r < R; ++r) {
#pragma unroll
      for (int c = 0; c < C; ++c) g[r][c] *= tanh_slope(after[r][c]);
      const acc dv = lane.dot(g[r], in.k);
      d.row[VALUE][r] = dv;
      d.row[BETA][r] = lane.dot(g[r], before[r]);
#pragma unroll
      for (int c = 0; c < C; ++c) {
        d.k[c] += g[r][c] * delta[r] - before[r][c] * dv;
        g[r][c] = in.row[BETA][r] * g[r][c] - dv * in.k[c];
      }
    }
  }

  // y = r^2 sigmoid(r),  dr = dy r sigmoid(r) (2 + r (1 - sigmoid(r)))
  ELMAN_FN static acc output(const acc*, int, acc r) { return r * silu_of(r); }
  template <class Args> ELMAN_FN static acc output_backward(const Args&, const Place&, const acc*, int, acc r, acc d) {
    return d * silu_of(r) * (2 + r * sigmoid_of(-r));
  }

  // Raw vectors: q, k, v and the logit of beta, each [B, T, 4, H, N]. No raw numbers.
  enum { Q, KEY, V, LOGIT, vectors };
  ELMAN_BOTH static int length(int) { return N; }
  ELMAN_FN static int64_t offset(const Place& at, int v) { return ((at.step() * 4 + v) * at.H + at.h) * N; }
  template <class Args> ELMAN_FN static const scalar* source(const Args& a, const Place& at, int v) {
    return a.qkvb + offset(at, v);
  }
  struct RawScalars {};
  template <class Args> ELMAN_FN static RawScalars load_scalars(const Args&, const Place&) { return {}; }
  template <class Args> ELMAN_FN static void prepare_scalars(const Args&, const Place&, const RawScalars&, acc*) {}

  template <class Args>
  ELMAN_FN static void prepare(const Args& a, const Place& at, const Team& team, const scalar* raw, acc* record) {
    acc k[EN];
#pragma unroll
    for (int j = 0; j < EN; ++j) k[j] = team.element(j) < N ? load(raw + KEY * N + team.element(j)) : acc(0);
    const acc factor = matrix_state::unit_factor(team, k);
#pragma unroll
    for (int j = 0; j < EN; ++j)
      if (const int i = team.element(j); i < N) {
        record[Record::q(i)] = load(raw + Q * N + i);
        record[Record::k(i)] = k[j] * factor;
        record[Record::row(VALUE, i)] = load(raw + V * N + i);
        record[Record::row(BETA, i)] = sigmoid_of(load(raw + LOGIT * N + i) + a.beta_bias[at.h * N + i]);
      }
    if (team.first()) record[Record::scalar(K_FACTOR)] = factor;
  }

  struct Sums {
    acc beta_bias[EN];
  };

  template <class Args>
  ELMAN_FN static void finish(const Args& a, const Place& at, const Team& team, const scalar*, const acc* record,
                              const matrix_state::RecordGradient<Step>& gradient, Sums& sums) {
    acc dk[EN], k[EN];
#pragma unroll
    for (int j = 0; j < EN; ++j) {
      const int i = team.element(j);
      dk[j] = i < N ? gradient.k(i) : acc(0);
      k[j] = i < N ? record[Record::k(i)] : acc(0);
    }
    matrix_state::unit_backward(team, dk, k, record[Record::scalar(K_FACTOR)]);
    if (!at.valid) return;
#pragma unroll
    for (int j = 0; j < EN; ++j)
      if (const int i = team.element(j); i < N) {
        const acc d_logit = gradient.row(BETA, i) * sigmoid_slope(record[Record::row(BETA, i)]);
        store(a.d_qkvb + offset(at, Q) + i, gradient.q(i));
        store(a.d_qkvb + offset(at, KEY) + i, dk[j]);
        store(a.d_qkvb + offset(at, V) + i, gradient.row(VALUE, i));
        store(a.d_qkvb + offset(at, LOGIT) + i, d_logit);
        sums.beta_bias[j] += d_logit;
      }
  }

  template <class Args, class SumOver>
  ELMAN_FN static void store_sums(const Args& a, const Place& at, const Team& team, const Sums& sums, const SumOver& sum_over) {
#pragma unroll
    for (int j = 0; j < EN; ++j) {
      const acc total = sum_over(sums.beta_bias[j], team.lane_, team.width, team.count);
      if (const int i = team.element(j); i < N && team.index == 0) a.beta_bias_part[(at.b * at.H + at.h) * N + i] = total;
    }
  }
};
}  // namespace e75

ELMAN_FORWARD(a) { return matrix_state::forward<e75::Step>(a, "e75_forward"); }
ELMAN_BACKWARD(a) { return matrix_state::backward<e75::Step>(a, "e75_backward"); }
