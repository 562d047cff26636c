// E71: S' = diag(a) S + diag(1 - a) v k^T with a = sigmoid(logit + d S k + b), with the readout r = S' q gating itself.
// Tensors and constants: binding.py. Equations: README.md.
#include <elman/families/matrix_state/steps.cuh>

#include "elman_args.h"

using namespace elman;

namespace e71 {
using args::acc;
using args::scalar;

struct Step : matrix_state::SelfGated<scalar, args::Constant, 4, 2> {
  // Raw vectors: query, key, value, then the gate's logit. Parameters: d and b.
  enum { LOGIT = VALUE + 1 };
  enum { MEMORY, BIAS };
  // Record, by row: the value, logit + b, and d.
  enum { WRITE, GATE, LOOK };
  static constexpr int rows = 3, scalars = 0, grad_scalars = 0;
  using Record = matrix_state::Record<Step>;

  template <class Inputs> ELMAN_FN static acc retention(const Inputs& in, int r, acc memory) {
    return sigmoid_for<scalar>(in.row[GATE][r] + in.row[LOOK][r] * memory);
  }

  // S' = diag(a) S + diag(1 - a) v k^T,  a = sigmoid(logit + d memory + b),  memory = S k
  template <class Lane, int R, int C>
  ELMAN_FN static void forward(const Lane& lane, acc (&s)[R][C], const typename Lane::Inputs& in, acc (&memory)[R]) {
    lane.product(memory, s, in.k);
#pragma unroll
    for (int r = 0; r < R; ++r) {
      const acc a = retention(in, r, memory[r]), write = (1 - a) * in.row[WRITE][r];
#pragma unroll
      for (int c = 0; c < C; ++c) s[r][c] = a * s[r][c] + write * in.k[c];
    }
  }

  // With G = dL/dS' on entry and tau = G k:  da_i = sum_j G_ij S_ij - v_i tau_i,  dz = da a (1 - a),  dv = (1 - a) tau,
  // dmemory = d dz,  dd = dz memory,  dk = G^T ((1 - a) v) + S^T dmemory;  on return g = dL/dS = diag(a) G + dmemory k^T.
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
      const acc a = retention(in, r, memory[r]), v = in.row[WRITE][r];
      const acc dz = (kept[r] - v * tau[r]) * sigmoid_slope(a);
      d.row[WRITE][r] = (1 - a) * tau[r];
      d.row[GATE][r] = dz;
      d.row[LOOK][r] = dz * memory[r];
      d_memory[r] = dz * in.row[LOOK][r];
      write[r] = (1 - a) * v;
    }
    matrix_state::add_to_key(d, g, write);
    matrix_state::add_to_key(d, before, d_memory);
#pragma unroll
    for (int r = 0; r < R; ++r) {
      const acc a = retention(in, r, memory[r]);
#pragma unroll
      for (int c = 0; c < C; ++c) g[r][c] = a * g[r][c] + d_memory[r] * in.k[c];
    }
  }

  template <class Args>
  ELMAN_FN static void prepare(const Args& a, const Place& at, const Team& team, const Raw& raw, acc* record) {
    acc x[E], bias[E];
    put_raw<Record>(team, raw, record);
    numbers(x, raw.x[LOGIT]);
    team.get(bias, a.bias + at.h * N);
#pragma unroll
    for (int j = 0; j < E; ++j) x[j] += bias[j];
    team.put(record + Record::row(GATE), x);
    team.get(x, a.memory + at.h * N);
    team.put(record + Record::row(LOOK), x);
  }

  template <class Args>
  ELMAN_FN static void finish(const Args& a, const Place& at, const Team& team, const Raw&, const acc*,
                              const matrix_state::RecordGradient<Step>& gradient, Sums& sums) {
    acc d[E];
    give_raw(a, at, team, gradient);
    gradient.row(team, GATE, d);
    give(a, at, team, LOGIT, d);
    sums.add(at, BIAS, d);
    gradient.row(team, LOOK, d);
    sums.add(at, MEMORY, d);
  }
};
}  // namespace e71

ELMAN_FORWARD(a) { return matrix_state::forward<e71::Step>(a, "e71_forward"); }
ELMAN_BACKWARD(a) { return matrix_state::backward<e71::Step>(a, "e71_backward"); }
