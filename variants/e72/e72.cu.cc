// E72: S' = diag(a) S + diag(1 - a) (v g) k^T with g = sigmoid(d rho(S k) + b), with the readout r = S' q gating itself.
// Tensors and constants: binding.py. Equations: README.md.
#include <elman/families/matrix_state/steps.cuh>

#include "elman_args.h"

using namespace elman;

namespace e72 {
using args::acc;
using args::scalar;

struct Step : matrix_state::SelfGated<scalar, args::Constant, 4, 3> {
  static constexpr bool inverse = args::Constant::INVERSE;
  // Raw vectors: query, key, value, then the logit of a. Parameters: the bias of that logit, d, and b.
  enum { LOGIT = VALUE + 1 };
  enum { RETAIN_BIAS, MEMORY, VALUE_BIAS };
  // Record, by row: the value, a, d, and b.
  enum { WRITE, RETAIN, LOOK, SHIFT };
  static constexpr int rows = 4, scalars = 0, read_scalars = 0, grad_scalars = 0;
  using Record = matrix_state::Record<Step>;

  // rho, and its derivative
  ELMAN_FN static acc seen(acc memory) { return inverse ? -abs_of(memory) : memory; }
  ELMAN_FN static acc seen_slope(acc memory) { return inverse ? acc((memory < 0) - (memory > 0)) : acc(1); }
  template <class Inputs> ELMAN_FN static acc gate(const Inputs& in, int r, acc memory) {
    return sigmoid_for<scalar>(in.row[LOOK][r] * seen(memory) + in.row[SHIFT][r]);
  }

  // S' = diag(a) S + diag(1 - a) (v g) k^T,  g = sigmoid(d rho(memory) + b),  memory = S k
  template <class Lane, int R, int C>
  ELMAN_FN static void forward(const Lane& lane, acc (&s)[R][C], const typename Lane::Inputs& in, acc (&memory)[R]) {
    lane.product(memory, s, in.k);
#pragma unroll
    for (int r = 0; r < R; ++r) {
      const acc a = in.row[RETAIN][r], write = (1 - a) * in.row[WRITE][r] * gate(in, r, memory[r]);
#pragma unroll
      for (int c = 0; c < C; ++c) s[r][c] = a * s[r][c] + write * in.k[c];
    }
  }

  // With G = dL/dS' on entry, tau = G k and w = (1 - a) tau:  da_i = sum_j G_ij S_ij - v_i g_i tau_i,  dv = g w,
  // dz = w v g (1 - g),  dd = dz rho(memory),  db = dz,  dmemory = dz d rho'(memory),  dk = G^T ((1 - a) v g) + S^T dmemory;
  // on return g = dL/dS = diag(a) G + dmemory k^T.
  template <class Lane, class Gradients, int R, int C>
  ELMAN_FN static void backward(const Lane& lane, const acc (&before)[R][C], const typename Lane::Inputs& in,
                                const acc (&memory)[R], acc (&g)[R][C], Gradients& d) {
    acc tau[R], kept[R], write[R], d_memory[R];
#pragma unroll
    for (int r = 0; r < R; ++r) {
      tau[r] = kept[r] = 0;
#pragma unroll
      for (int c = 0; c < C; ++c) tau[r] += g[r][c] * in.k[c], kept[r] += g[r][c] * before[r][c];
    }
    lane.row_sums(tau);
    lane.row_sums(kept);
#pragma unroll
    for (int r = 0; r < R; ++r) {
      const acc v = in.row[WRITE][r], open = gate(in, r, memory[r]), w = (1 - in.row[RETAIN][r]) * tau[r];
      const acc dz = w * v * sigmoid_slope(open);
      d.row[WRITE][r] = open * w;
      d.row[RETAIN][r] = kept[r] - v * open * tau[r];
      d.row[LOOK][r] = dz * seen(memory[r]);
      d.row[SHIFT][r] = dz;
      d_memory[r] = dz * in.row[LOOK][r] * seen_slope(memory[r]);
      write[r] = (1 - in.row[RETAIN][r]) * v * open;
    }
    matrix_state::add_to_key(d, before, d_memory);  // first, so that `before` leaves its registers
    matrix_state::add_to_key(d, g, write);
#pragma unroll
    for (int r = 0; r < R; ++r)
#pragma unroll
      for (int c = 0; c < C; ++c) g[r][c] = in.row[RETAIN][r] * g[r][c] + d_memory[r] * in.k[c];
  }

  template <class Args>
  ELMAN_FN static void prepare(const Args& a, const Place& at, const Team& team, const Raw& raw, acc* record) {
    acc x[E], bias[E];
    put_raw<Record>(team, raw, record);
    numbers(x, raw.x[LOGIT]);
    team.get(bias, a.retain_bias + at.h * N);
#pragma unroll
    for (int j = 0; j < E; ++j) x[j] = sigmoid_for<scalar>(x[j] + bias[j]);
    team.put(record + Record::row(RETAIN), x);
    team.get(x, a.memory + at.h * N);
    team.put(record + Record::row(LOOK), x);
    team.get(x, a.value_bias + at.h * N);
    team.put(record + Record::row(SHIFT), x);
  }

  template <class Args>
  ELMAN_FN static void finish(const Args& a, const Place& at, const Team& team, const Raw&, const acc* record,
                              const matrix_state::RecordGradient<Step>& gradient, Sums& sums) {
    acc d[E], x[E];
    give_raw(a, at, team, gradient);
    gradient.row(team, RETAIN, d);
    team.get(x, record + Record::row(RETAIN));
#pragma unroll
    for (int j = 0; j < E; ++j) d[j] *= sigmoid_slope(x[j]);
    give(a, at, team, LOGIT, d);
    sums.add(at, RETAIN_BIAS, d);
    gradient.row(team, LOOK, d);
    sums.add(at, MEMORY, d);
    gradient.row(team, SHIFT, d);
    sums.add(at, VALUE_BIAS, d);
  }
};
}  // namespace e72

ELMAN_FORWARD(a) { return matrix_state::forward<e72::Step>(a, "e72_forward"); }
ELMAN_BACKWARD(a) { return matrix_state::backward<e72::Step>(a, "e72_backward"); }
