#pragma once
// What the Steps of several variants on <elman/families/matrix_state.cuh> share.
#include <elman/families/matrix_state.cuh>

namespace elman::matrix_state {

// d_k += A^T x over a lane's rows.
template <class Gradients, class A, int R, int C> ELMAN_FN void add_to_key(Gradients& d, const A (&a)[R][C], const A (&x)[R]) {
  A minus[R];
#pragma unroll
  for (int r = 0; r < R; ++r) minus[r] = -x[r];
  d.columns.minus_key(a, minus);
}

// A square state for each head whose step takes VECTORS raw vectors, side by side in one projection, and whose readout gates itself:
// y = r^2 sigmoid(r). What is left to a Step: rows, scalars, grad_scalars, forward, backward, prepare, finish.
// * Args have `projected` [B, T, VECTORS, H, N], d_projected, and with PARAMETERS > 0 `parameter_parts` [B, H, PARAMETERS, N]: the
//   gradients of parameters for each row, which `finish` sums over time in `sums.parameter`.
// * Raw vectors 0, 1 and 2 are query, key and value.
template <class Scalar_, class Constant, int VECTORS, int PARAMETERS = 0> struct SelfGated {
  using Scalar = Scalar_;
  using acc = Acc<Scalar>;
  static constexpr int N = Constant::N, M = N, K = Constant::K;
  using Team = matrix_state::Team<N, N, Constant::PACKED>;
  using Place = matrix_state::Place;
  static constexpr int E = N / Team::width, EM = E;
  static constexpr int read_scalars = 0;
  static constexpr bool needs_readout = true, global_history = Constant::GLOBAL_HISTORY, spread = Constant::SPREAD, packed = Constant::PACKED;
  enum { QUERY, KEY, VALUE };

  struct Raw {
    Slice<Scalar, E> x[VECTORS];
  };
  template <class T> ELMAN_FN static T* part(T* projected, const Place& at, const Team& team, int vector) {
    return team.template part<E>(at, projected, VECTORS * at.H * N, vector * at.H * N);
  }
  template <class Args> ELMAN_FN static Raw load(const Args& a, const Place& at, const Team& team) {
    Raw raw;
#pragma unroll
    for (int i = 0; i < VECTORS; ++i) raw.x[i] = read_slice<E>(part(a.projected, at, team, i));
    return raw;
  }
  ELMAN_FN static void numbers(acc (&x)[E], const Slice<Scalar, E>& raw) {
#pragma unroll
    for (int j = 0; j < E; ++j) x[j] = raw[j];
  }
  // Query, key and value into a record as they are, the value as its first row.
  template <class Record> ELMAN_FN static void put_raw(const Team& team, const Raw& raw, acc* record) {
    acc x[E];
    numbers(x, raw.x[QUERY]);
    team.put(record + Record::q(), x);
    numbers(x, raw.x[KEY]);
    team.put(record + Record::k(), x);
    numbers(x, raw.x[VALUE]);
    team.put(record + Record::row(0), x);
  }
  template <class Gradient> ELMAN_FN static void key_gradient(const Gradient& gradient, const Team& team, acc (&d)[E]) {
    gradient.minus_k(team, d);
#pragma unroll
    for (int j = 0; j < E; ++j) d[j] = -d[j];
  }
  // And their gradients from a record's.
  template <class Args, class Gradient>
  ELMAN_FN static void give_raw(const Args& a, const Place& at, const Team& team, const Gradient& gradient) {
    acc d[E];
    gradient.q(team, d);
    give(a, at, team, QUERY, d);
    key_gradient(gradient, team, d);
    give(a, at, team, KEY, d);
    gradient.row(team, 0, d);
    give(a, at, team, VALUE, d);
  }
  // Store the gradient of a raw vector.
  template <class Args>
  ELMAN_FN static void give(const Args& a, const Place& at, const Team& team, int vector, const acc (&d)[E]) {
    if (at.valid) write_slice(part(a.d_projected, at, team, vector), d);
  }

  // The step is linear in the state unless a Step says otherwise.
  template <int R, int C> ELMAN_FN static void slope(const acc (&)[R][C], acc (&)[R][C]) {}

  // y = r^2 sigmoid(r),  dr = dy r sigmoid(r) (2 + r (1 - sigmoid(r)))
  template <class Args> ELMAN_FN static void output(const Args&, const Place&, const Team&, acc (&r)[E]) {
#pragma unroll
    for (int j = 0; j < E; ++j) r[j] *= silu_for<Scalar>(r[j]);
  }
  template <class Args>
  ELMAN_FN static void output_backward(const Args&, const Place&, const Team&, const acc (&r)[E], acc (&d)[E]) {
#pragma unroll
    for (int j = 0; j < E; ++j) d[j] *= silu_for<Scalar>(r[j]) * (2 + r[j] * sigmoid_for<Scalar>(-r[j]));
  }

  // No raw numbers.
  struct RawScalars {};
  template <class Args> ELMAN_FN static RawScalars load_scalars(const Args&, const Place&) { return {}; }
  template <class Args> ELMAN_FN static void prepare_scalars(const Args&, const Place&, const RawScalars&, acc*) {}
  template <class Args, class Sums>
  ELMAN_FN static void finish_scalars(const Args&, const Place&, const RawScalars&, const acc*, const acc*, Sums&) {}

  struct Sums {
    acc parameter[PARAMETERS > 0 ? PARAMETERS : 1][E];
    ELMAN_FN void add(const Place& at, int i, const acc (&d)[E]) {
#pragma unroll
      for (int j = 0; j < E; ++j) parameter[i][j] += at.valid ? d[j] : acc(0);
    }
  };
  // Team i of a block has summed every so many steps of head i % heads, a part of each parameter in each of its lanes.
  template <class Plan, class Args, class SumOver>
  ELMAN_FN static void store_sums(const Args& a, int producer, int bh0, const Sums& sums, const SumOver& sum_over) {
    constexpr int speakers = Team::width * Plan::heads;
    const int bh = bh0 + producer / Team::width;
    const bool speaks = producer >= 0 && producer < speakers && bh < (int)(a.B * a.H);
#pragma unroll
    for (int i = 0; i < PARAMETERS; ++i)
#pragma unroll
      for (int j = 0; j < E; ++j) {
        const acc total = sum_over(sums.parameter[i][j], producer, speakers, speaks ? Plan::teams / Plan::heads : 0);
        if constexpr (PARAMETERS > 0)
          if (speaks) a.parameter_parts[(bh * PARAMETERS + i) * N + producer % Team::width * E + j] = total;
      }
  }
};
}  // namespace elman::matrix_state
