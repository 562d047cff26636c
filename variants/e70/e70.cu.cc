// E70: linear matrix state, S' = lambda S + v k^T, with the readout r = S' q gating itself.
// Tensors and constants: binding.py. Equations: README.md.
#include <elman/families/matrix_state/steps.cuh>

#include "elman_args.h"

using namespace elman;

namespace e70 {
using args::acc;

struct Step : matrix_state::SelfGated<args::scalar, args::Constant, 3> {
  // Record: the value by row, and the decay.
  enum { WRITE };
  enum { LAMBDA };
  static constexpr int rows = 1, scalars = 1, read_scalars = 1, grad_scalars = 1;
  using Record = matrix_state::Record<Step>;

  // S' = lambda S + v k^T
  template <class Lane, int R, int C>
  ELMAN_FN static void forward(const Lane&, acc (&s)[R][C], const typename Lane::Inputs& in, acc (&kept)[R]) {
    const acc lambda = in.scalar[LAMBDA];
#pragma unroll
    for (int r = 0; r < R; ++r) {
      kept[r] = 0;
#pragma unroll
      for (int c = 0; c < C; ++c) s[r][c] = lambda * s[r][c] + in.row[WRITE][r] * in.k[c];
    }
  }

  // With G = dL/dS' on entry:  dv = G k,  dk = G^T v,  dlambda = <G, S>;  on return g = dL/dS = lambda G.
  template <class Lane, class Gradients, int R, int C>
  ELMAN_FN static void backward(const Lane& lane, const acc (&before)[R][C], const typename Lane::Inputs& in, const acc (&)[R],
                                acc (&g)[R][C], Gradients& d) {
    lane.product(d.row[WRITE], g, in.k);
    matrix_state::add_to_key(d, g, in.row[WRITE]);
#pragma unroll
    for (int r = 0; r < R; ++r)
#pragma unroll
      for (int c = 0; c < C; ++c) {
        d.scalar[LAMBDA] += g[r][c] * before[r][c];
        g[r][c] *= in.scalar[LAMBDA];
      }
  }

  template <class Args>
  ELMAN_FN static void prepare(const Args&, const Place&, const Team& team, const Raw& raw, acc* record) {
    put_raw<Record>(team, raw, record);
  }
  template <class Args> ELMAN_FN static void prepare_scalars(const Args& a, const Place& at, const RawScalars&, acc* record) {
    record[Record::scalar(LAMBDA)] = a.decay[at.h];
  }

  struct Sums {
    acc decay;
  };
  template <class Args>
  ELMAN_FN static void finish(const Args& a, const Place& at, const Team& team, const Raw&, const acc*,
                              const matrix_state::RecordGradient<Step>& gradient, Sums&) {
    give_raw(a, at, team, gradient);
  }
  template <class Args>
  ELMAN_FN static void finish_scalars(const Args&, const Place&, const RawScalars&, const acc*, const acc* gradient, Sums& sums) {
    sums.decay += gradient[LAMBDA];
  }
  // Producer i of a block has summed the steps i / heads, i / heads + K, ... of head i % heads.
  template <class Plan, class Args, class SumOver>
  ELMAN_FN static void store_sums(const Args& a, int producer, int bh0, const Sums& sums, const SumOver& sum_over) {
    const bool speaks = producer >= 0 && producer < Plan::heads && bh0 + producer < (int)(a.B * a.H);
    const acc total = sum_over(sums.decay, producer, Plan::heads, speaks ? K : 0);
    if (speaks) a.decay_part[bh0 + producer] = total;
  }
};
}  // namespace e70

ELMAN_FORWARD(a) { return matrix_state::forward<e70::Step>(a, "e70_forward"); }
ELMAN_BACKWARD(a) { return matrix_state::backward<e70::Step>(a, "e70_backward"); }
