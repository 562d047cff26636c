#pragma once
// E74 on a matrix state: what is made of the raw vectors of a step, their gradients, and the readout. README.md, equations 1, 2,
// 5 and 6.
#include "step.cuh"

namespace e74 {
struct Step : Rule {
  using Scalar = scalar;
  static constexpr int K = diagonal ? 8 : Constant::K;  // a diagonal has chunks of its own (walk.cuh)
  using Team = matrix_state::Team<N, M, Constant::PACKED>;
  using Place = matrix_state::Place;
  static constexpr int EN = N / Team::width, EM = M / Team::width;
  static_assert(low_rank || N == M, "tied vectors, and a modulation's bias, are as long as a column");
  static constexpr bool needs_readout = true, global_history = Constant::GLOBAL_HISTORY;
  // A narrow state is spread over more lanes unless it is packed: several usual ones to a block would not have the shared memory.
  static constexpr bool packed = Constant::PACKED, spread = Constant::SPREAD || (low_rank && !packed);
  using Record = matrix_state::Record<Step>;

  // Raw vectors: those of `projected` but for the input gate, and the query, key and reader of `keys`. In the backward pass of the
  // energy gate, the squared error of the step.
  struct Raw {
    matrix_state::Slice<scalar, EM> x[VECTORS - input_gate];
    matrix_state::Slice<scalar, EN> keys[low_rank ? Constant::KEYS : 1];
    acc squares;
  };
  template <class T> ELMAN_FN static T* part(T* projected, const Place& at, const Team& team, int vector) {
    return team.template part<EM>(at, projected, VECTORS * at.H * M, vector * at.H * M);
  }
  template <class T> ELMAN_FN static T* key_part(T* keys, const Place& at, const Team& team, int vector) {
    return team.template part<EN>(at, keys, Constant::KEYS * at.H * N, vector * at.H * N);
  }
  // Numbers of the whole state that the forward pass notes and the backward pass recalls.
  template <class Args> static constexpr bool recalls = coupled && requires(const Args& a) { a.d_y; };
  template <class Args> ELMAN_FN static auto* numbers_of(const Args& a, const Place& at) {
    return a.numbers + (int64_t)at.head() * noted_numbers;
  }
  template <class Args> ELMAN_FN static Raw load(const Args& a, const Place& at, const Team& team) {
    Raw raw;
#pragma unroll
    for (int i = 0; i < VECTORS - input_gate; ++i) raw.x[i] = matrix_state::read_slice<EM>(part(a.projected, at, team, i));
#pragma unroll
    for (int i = 0; i < (low_rank ? Constant::KEYS : 0); ++i)
      raw.keys[i] = matrix_state::read_slice<EN>(key_part(a.keys, at, team, i));
    if constexpr (energy && recalls<Args>) raw.squares = numbers_of(a, at)[ENERGY];
    return raw;
  }
  template <class Args> ELMAN_FN static void parameter(const Args& a, const Place& at, const Team& team, int i, acc (&x)[EM]) {
    team.get(x, a.parameters + (at.h * PARAMETERS + i) * M);
  }
  // sigmoid(raw + parameter)
  template <class Args>
  ELMAN_FN static void gate(const Args& a, const Place& at, const Team& team, const Raw& raw, int vector, int i, acc (&x)[EM]) {
    parameter(a, at, team, i, x);
#pragma unroll
    for (int j = 0; j < EM; ++j) x[j] = elman::sigmoid_for<scalar>(x[j] + raw.x[vector][j]);
  }

  // Those of them that a lane has beside its step.
  struct RawScalars {
    acc x[read_scalars > 0 ? read_scalars : 1];
  };
  template <class Args> ELMAN_FN static RawScalars load_scalars(const Args& a, const Place& at) {
    RawScalars raw{};
    if constexpr (recalls<Args>) for (int i = 0; i < read_scalars; ++i) raw.x[i] = numbers_of(a, at)[i];
    return raw;
  }
  template <class Args> ELMAN_FN static void prepare_scalars(const Args&, const Place&, const RawScalars& raw, acc* record) {
    if constexpr (recalls<Args>)
      for (int i = 0; i < read_scalars; ++i) record[Record::scalar(i)] = raw.x[i];
  }
  template <class Args, class Sums>
  ELMAN_FN static void finish_scalars(const Args&, const Place&, const RawScalars&, const acc*, const acc*, Sums&) {}

  template <class Args>
  ELMAN_FN static void prepare(const Args& a, const Place& at, const Team& team, const Raw& raw, acc* record) {
    acc q[EN], k[EN], x[EM], v[EM], factor = 1;
#pragma unroll
    for (int j = 0; j < EN; ++j) {
      q[j] = low_rank ? raw.keys[0][j] : raw.x[QUERY][j];
      k[j] = low_rank ? raw.keys[low_rank][j] : raw.x[KEY][j];
    }
    if constexpr (!low_rank) factor = team.template unit_factor<scalar>(k);
#pragma unroll
    for (int j = 0; j < EN; ++j) k[j] *= factor;
    team.put(record + Record::q(), q);
    team.put(record + Record::k(), k);
    if (team.first()) record[Record::scalar(K_FACTOR)] = factor;
    if constexpr (columns > 0) {
      acc z[EN];
      if constexpr (modulated) parameter(a, at, team, Z_BIAS, z);
#pragma unroll
      for (int j = 0; j < EN; ++j) z[j] = low_rank ? acc(raw.keys[low_rank * 2][j]) : (raw.x[modulated ? Z : 0][j] + z[j]) * k[j];
      team.put(record + Record::column(READ), z);
    }
#pragma unroll
    for (int j = 0; j < EM; ++j) v[j] = raw.x[VALUE][j];
    if constexpr (ema || ntm || retrieved) gate(a, at, team, raw, LOGIT, FIRST, x);
    else if constexpr (rows > 1) parameter(a, at, team, FIRST, x);
#pragma unroll
    for (int j = 0; j < EM; ++j) {
      if constexpr (energy) {
        x[j] += raw.x[LOGIT][j];
        if constexpr (recalls<Args>) x[j] = elman::sigmoid_for<scalar>(x[j] + acc(1) / M * raw.squares);
      }
      if (ema) v[j] *= 1 - x[j];
    }
    if constexpr (rows > 1) team.put(record + Record::row(EXTRA), x);
    if constexpr (memory_gate) {
      parameter(a, at, team, SECOND, x);
      team.put(record + Record::row(MORE), x);
    }
    if constexpr (ntm) {
      gate(a, at, team, raw, WRITE_LOGIT, SECOND, x);
#pragma unroll
      for (int j = 0; j < EM; ++j) v[j] *= x[j];
    }
    team.put(record + Record::row(WRITE), v);
  }

  struct Sums {
    acc parameter[PARAMETERS > 0 ? PARAMETERS : 1][EM];
    ELMAN_FN void add(const Place& at, int i, const acc (&d)[EM]) {
#pragma unroll
      for (int j = 0; j < EM; ++j) parameter[i][j] += at.valid ? d[j] : acc(0);
    }
  };
  template <class Args>
  ELMAN_FN static void give(const Args& a, const Place& at, const Team& team, int vector, const acc (&d)[EM]) {
    if (at.valid) matrix_state::write_slice(part(a.d_projected, at, team, vector), d);
  }

  using Gradient = matrix_state::RecordGradient<Step>;
  template <class Args>
  ELMAN_FN static void finish(const Args& a, const Place& at, const Team& team, const Raw& raw, const acc* record,
                              const Gradient& gradient, Sums& sums) {
    acc d_v[EM];
    gradient.row(team, WRITE, d_v);
    if constexpr (rows > 1) finish_rows(a, at, team, raw, record, gradient, sums, d_v);
    if constexpr (input_gate) finish_input_gate(a, at, team, sums);
    acc d_q[EN], d_k[EN], d_read[EN];
    gradient.q(team, d_q);
    gradient.minus_k(team, d_k);
    if constexpr (columns > 0) gradient.column(team, READ, d_read);
#pragma unroll
    for (int j = 0; j < EN; ++j) d_k[j] = -d_k[j];
    if constexpr (low_rank) {
      give(a, at, team, VALUE, d_v);
      if (!at.valid) return;
      matrix_state::write_slice(key_part(a.d_keys, at, team, 0), d_q);
      matrix_state::write_slice(key_part(a.d_keys, at, team, 1), d_k);
      if constexpr (columns > 0) matrix_state::write_slice(key_part(a.d_keys, at, team, 2), d_read);
    } else {
      finish_keys(a, at, team, raw, record, sums, d_q, d_k, d_v, d_read);
    }
  }

  // The reader z k, the key's norm, and vectors that are one raw vector. Keys are as long as values here.
  template <class Args>
  ELMAN_FN static void finish_keys(const Args& a, const Place& at, const Team& team, const Raw& raw, const acc* record,
                                   Sums& sums, acc (&d_q)[EM], acc (&d_k)[EM], acc (&d_v)[EM], acc (&d_read)[EM]) {
    acc k[EM];
    team.get(k, record + Record::k());
    if constexpr (modulated) {
      acc z[EM];
      parameter(a, at, team, Z_BIAS, z);
#pragma unroll
      for (int j = 0; j < EM; ++j) {
        d_k[j] += (raw.x[Z][j] + z[j]) * d_read[j];
        d_read[j] *= k[j];
      }
      give(a, at, team, Z, d_read);
      sums.add(at, Z_BIAS, d_read);
    }
    team.unit_backward(d_k, k, record[Record::scalar(K_FACTOR)]);
#pragma unroll
    for (int j = 0; j < EM; ++j) d_k[j] += (QUERY == KEY ? d_q[j] : acc(0)) + (VALUE == KEY ? d_v[j] : acc(0));
    give(a, at, team, KEY, d_k);
    if constexpr (QUERY != KEY) give(a, at, team, QUERY, d_q);
    if constexpr (VALUE != KEY) give(a, at, team, VALUE, d_v);
  }

  // What belongs to rows besides the value; d_v is of what is written on entry, of the value on return.
  template <class Args>
  ELMAN_FN static void finish_rows(const Args& a, const Place& at, const Team& team, const Raw& raw, const acc* record,
                                   const Gradient& gradient, Sums& sums, acc (&d_v)[EM]) {
    acc d[EM], x[EM];
    gradient.row(team, EXTRA, d);
    if constexpr (ema || ntm || retrieved) team.get(x, record + Record::row(EXTRA));
#pragma unroll
    for (int j = 0; j < EM; ++j) {
      if (ema) d[j] -= raw.x[VALUE][j] * d_v[j];
      if (ema || ntm || retrieved) d[j] *= elman::sigmoid_slope(x[j]);
      if (ema) d_v[j] *= 1 - x[j];
    }
    sums.add(at, FIRST, d);
    if constexpr (ema || ntm || retrieved || energy) give(a, at, team, LOGIT, d);
    if constexpr (memory_gate) {
      gradient.row(team, MORE, d);
      sums.add(at, SECOND, d);
    }
    if constexpr (ntm) {
      gate(a, at, team, raw, WRITE_LOGIT, SECOND, x);
#pragma unroll
      for (int j = 0; j < EM; ++j) {
        d[j] = raw.x[VALUE][j] * d_v[j] * elman::sigmoid_slope(x[j]);
        d_v[j] *= x[j];
      }
      give(a, at, team, WRITE_LOGIT, d);
      sums.add(at, SECOND, d);
    }
  }

  // y = r silu(r), or r silu(gate) with the gate's logit from the input
  template <class Args> ELMAN_FN static void input_logit(const Args& a, const Place& at, const Team& team, acc (&x)[EM]) {
    const auto raw = matrix_state::read_slice<EM>(part(a.projected, at, team, GATE));
    parameter(a, at, team, GATE_BIAS, x);
#pragma unroll
    for (int j = 0; j < EM; ++j) x[j] += raw[j];
  }
  template <class Args> ELMAN_FN static void output(const Args& a, const Place& at, const Team& team, acc (&r)[EM]) {
    acc x[EM];
    if constexpr (coupled) {
      if (team.first())
        for (int i = 0; i < noted_numbers; ++i) numbers_of(a, at)[i] = matrix_state::noted<Step>(at.t)[i];
    }
    if constexpr (input_gate) input_logit(a, at, team, x);
#pragma unroll
    for (int j = 0; j < EM; ++j) r[j] *= elman::silu_for<scalar>(input_gate ? x[j] : r[j]);
  }
  template <class Args>
  ELMAN_FN static void output_backward(const Args& a, const Place& at, const Team& team, const acc (&r)[EM], acc (&d)[EM]) {
    acc x[EM];
    if constexpr (input_gate) input_logit(a, at, team, x);
#pragma unroll
    for (int j = 0; j < EM; ++j)
      if (input_gate) d[j] *= elman::silu_for<scalar>(x[j]);
      else d[j] *= elman::silu_for<scalar>(r[j]) * (2 + r[j] * elman::sigmoid_for<scalar>(-r[j]));
  }
  template <class Args> ELMAN_FN static void finish_input_gate(const Args& a, const Place& at, const Team& team, Sums& sums) {
    const auto d_y = matrix_state::read_slice<EM>(team.template part<EM>(at, a.d_y));
    acc r[EM], x[EM];
    matrix_state::read(r, team.template part<EM>(at, a.readout));
    input_logit(a, at, team, x);
#pragma unroll
    for (int j = 0; j < EM; ++j) x[j] = d_y[j] * r[j] * elman::silu_slope_for<scalar>(x[j]);
    give(a, at, team, GATE, x);
    sums.add(at, GATE_BIAS, x);
  }

  // Team i of a block has summed every so many steps of head i % heads, a part of each parameter in each of its lanes.
  template <class Plan, class Args, class SumOver>
  ELMAN_FN static void store_sums(const Args& a, int producer, int bh0, const Sums& sums, const SumOver& sum_over) {
    constexpr int speakers = Team::width * Plan::heads;
    const int bh = bh0 + producer / Team::width;
    const bool speaks = producer >= 0 && producer < speakers && bh < (int)(a.B * a.H);
#pragma unroll
    for (int i = 0; i < PARAMETERS; ++i)
#pragma unroll
      for (int j = 0; j < EM; ++j) {
        const acc total = sum_over(sums.parameter[i][j], producer, speakers, speaks ? Plan::teams / Plan::heads : 0);
        if (speaks) a.parameter_parts[(bh * PARAMETERS + i) * M + producer % Team::width * EM + j] = total;
      }
  }
};
}  // namespace e74
