// E73: S' = tanh(S + (v - (S Z) k) k^T), or without the delta rule tanh(S Z + v k^T), with S Z elementwise and Z_ij = z_j, z_i or
// z_i z_j; the readout r = S' q gates itself. Tensors and constants: binding.py. Equations: README.md.
#include <elman/families/matrix_state/steps.cuh>

#include "elman_args.h"

using namespace elman;

namespace e73 {
using args::acc;
using args::scalar;

struct Step : matrix_state::SelfGated<scalar, args::Constant, 4, 1> {
  static constexpr bool plain = args::Constant::PLAIN, by_row = args::Constant::ROW, by_column = args::Constant::COLUMN;
  static constexpr bool every = args::Constant::EVERY;
  // A record's key is this many times k, so that the state's tanh needs no product of its own.
  static constexpr acc scale = tanh_scale<scalar>;
  // Raw vectors: query, key, value, then the modulation's. One parameter, its bias.
  enum { LOGIT = VALUE + 1 };
  enum { BIAS };
  // Record, by row: the value, and z. Further columns: z k, with which the delta rule reads, or z. The factor of the key's norm.
  enum { WRITE, Z };
  enum { READ };
  enum { K_FACTOR };
  static constexpr int rows = 1 + by_row, columns = by_column, scalars = 1, grad_scalars = 0;
  using Record = matrix_state::Record<Step>;

  template <class Inputs> ELMAN_FN static acc row_factor(const Inputs& in, int r) {
    if constexpr (by_row) return in.row[Z][r];
    return 1;
  }
  // The vector that the delta rule reads with, and what turns it into z k, or k.
  template <class Inputs> ELMAN_FN static const auto& reader(const Inputs& in) {
    if constexpr (by_column) return in.column[READ];
    else return in.k;
  }
  static constexpr acc reader_scale = by_column ? acc(1) : 1 / scale;
  template <class Inputs> ELMAN_FN static acc column_factor(const Inputs& in, int c) {
    if constexpr (by_column) return in.column[READ][c];
    return 1;
  }

  // delta: S' = tanh(S + (v - memory) k^T), memory = (S Z) k = z_i S (z_j k);  plain: S' = tanh(S Z + v k^T)
  template <class Lane, int R, int C>
  ELMAN_FN static void forward(const Lane& lane, acc (&s)[R][C], const typename Lane::Inputs& in, acc (&memory)[R]) {
    if constexpr (!plain) lane.product(memory, s, reader(in));
#pragma unroll
    for (int r = 0; r < R; ++r) {
      memory[r] = plain ? acc(0) : memory[r] * reader_scale;
      const acc z = row_factor(in, r), write = plain ? in.row[WRITE][r] : in.row[WRITE][r] - z * memory[r];
#pragma unroll
      for (int c = 0; c < C; ++c)
        s[r][c] = scale * (plain ? z * column_factor(in, c) * s[r][c] : s[r][c]) + write * in.k[c];
    }
    tanh_each<scalar, Lane::share>(reinterpret_cast<acc(&)[R * C]>(s));
  }

  // A = dL/dS' (1 - S'^2)
  template <int R, int C> ELMAN_FN static void slope(const acc (&after)[R][C], acc (&g)[R][C]) {
#pragma unroll
    for (int r = 0; r < R; ++r)
#pragma unroll
      for (int c = 0; c < C; ++c) g[r][c] *= tanh_slope(after[r][c]);
  }
  template <class Lane, class Gradients, int R, int C>
  ELMAN_FN static void backward(const Lane& lane, const acc (&before)[R][C], const typename Lane::Inputs& in, const acc (&memory)[R],
                                acc (&g)[R][C], Gradients& d) {
    lane.product(d.row[WRITE], g, in.k);
#pragma unroll
    for (int r = 0; r < R; ++r) d.row[WRITE][r] *= 1 / scale;
    if constexpr (plain) backward_plain(lane, before, in, g, d);
    else backward_delta(before, in, memory, g, d);
  }

  // With A in g, ddelta = A k and w = z_i ddelta:  dv = ddelta,  dz_i = -ddelta S (z_j k),
  // dk = A^T (v - memory),  d(z_j k) = -S^T w;  on return g = dL/dS = A - w (z_j k)^T.
  template <class Inputs, class Gradients, int R, int C>
  ELMAN_FN static void backward_delta(const acc (&before)[R][C], const Inputs& in, const acc (&memory)[R], acc (&g)[R][C],
                                      Gradients& d) {
    acc delta[R], minus_w[R];
#pragma unroll
    for (int r = 0; r < R; ++r) {
      const acc z = row_factor(in, r);
      delta[r] = in.row[WRITE][r] - z * memory[r];
      minus_w[r] = -z * d.row[WRITE][r];
      if constexpr (by_row) d.row[Z][r] = -d.row[WRITE][r] * memory[r];
    }
    matrix_state::add_to_key(d, g, delta);
    if constexpr (by_column) d.column[READ].further(before, minus_w);
    else matrix_state::add_to_key(d, before, minus_w);
#pragma unroll
    for (int r = 0; r < R; ++r) {
      const acc minus = minus_w[r] * reader_scale;
#pragma unroll
      for (int c = 0; c < C; ++c) g[r][c] += minus * reader(in)[c];
    }
  }

  // With A in g, dv = A k and P = A S elementwise:  dk = A^T v,  dz_j = sum_i P_ij (z_i),  dz_i = sum_j P_ij (z_j);
  // on return g = dL/dS = A Z.
  template <class Lane, class Gradients, int R, int C>
  ELMAN_FN static void backward_plain(const Lane& lane, const acc (&before)[R][C], const typename Lane::Inputs& in, acc (&g)[R][C],
                                      Gradients& d) {
    matrix_state::add_to_key(d, g, in.row[WRITE]);
    acc p[R][C], z[R], d_z[R];
#pragma unroll
    for (int r = 0; r < R; ++r) {
      z[r] = row_factor(in, r);
      d_z[r] = 0;
#pragma unroll
      for (int c = 0; c < C; ++c) {
        p[r][c] = g[r][c] * before[r][c];
        d_z[r] += p[r][c] * column_factor(in, c);
        g[r][c] *= z[r] * column_factor(in, c);
      }
    }
    if constexpr (by_column) d.column[READ].further(p, z);
    if constexpr (by_row) {
      lane.row_sums(d_z);
      matrix_state::copy(d.row[Z], d_z);
    }
  }

  template <class Args>
  ELMAN_FN static void modulation(const Args& a, const Place& at, const Team& team, const Raw& raw, acc (&z)[E]) {
    team.get(z, a.bias + at.h * N);
#pragma unroll
    for (int j = 0; j < E; ++j) {
      z[j] += raw.x[LOGIT][j];
      if (plain) z[j] = tanh_of(z[j]);
    }
  }

  template <class Args>
  ELMAN_FN static void prepare(const Args& a, const Place& at, const Team& team, const Raw& raw, acc* record) {
    acc z[E], k[E];
    put_raw<Record>(team, raw, record);
    numbers(k, raw.x[KEY]);
    modulation(a, at, team, raw, z);
    if constexpr (by_row) team.put(record + Record::row(Z), z);
    const acc factor = plain ? acc(1) : team.template unit_factor<scalar>(k);
#pragma unroll
    for (int j = 0; j < E; ++j) k[j] *= factor, z[j] *= plain ? acc(1) : k[j];
    if constexpr (by_column) team.put(record + Record::column(READ), z);
#pragma unroll
    for (int j = 0; j < E; ++j) k[j] *= scale;
    team.put(record + Record::k(), k);
    if (team.first()) record[Record::scalar(K_FACTOR)] = factor;
  }

  template <class Args>
  ELMAN_FN static void finish(const Args& a, const Place& at, const Team& team, const Raw& raw, const acc* record,
                              const matrix_state::RecordGradient<Step>& gradient, Sums& sums) {
    acc d[E], dz[E] = {}, dk[E];
    gradient.q(team, d);
    give(a, at, team, QUERY, d);
    gradient.row(team, WRITE, d);
    give(a, at, team, VALUE, d);
    if constexpr (by_row) gradient.row(team, Z, dz);
    key_gradient(gradient, team, dk);
    acc k[E], z[E];
    team.get(k, record + Record::k());
    modulation(a, at, team, raw, z);
    if constexpr (by_column) gradient.column(team, READ, d);
#pragma unroll
    for (int j = 0; j < E; ++j) {
      k[j] *= 1 / scale;
      if constexpr (by_column) {
        dz[j] += plain ? d[j] : k[j] * d[j];
        dk[j] += plain ? acc(0) : z[j] * d[j];
      }
      if (plain) dz[j] *= tanh_slope(z[j]);
    }
    if constexpr (!plain) team.unit_backward(dk, k, record[Record::scalar(K_FACTOR)]);
    give(a, at, team, KEY, dk);
    give(a, at, team, LOGIT, dz);
    sums.add(at, BIAS, dz);
  }
};
}  // namespace e73

ELMAN_FORWARD(a) { return matrix_state::forward<e73::Step>(a, "e73_forward"); }
ELMAN_BACKWARD(a) { return matrix_state::backward<e73::Step>(a, "e73_backward"); }
