#pragma once
// What a lane of E79 does in one step: its place in both states, its sums, and the step itself.
#include <elman/families/matrix_state.cuh>

#include "elman_args.h"

using namespace elman;

namespace e79 {
using args::acc;
using args::scalar;
using Constant = args::Constant;
using matrix_state::copy;
using matrix_state::Place;
using matrix_state::read;
using matrix_state::Slice;
using matrix_state::write;

constexpr int N = Constant::N, K = Constant::K;
constexpr int64_t state = N * N;
constexpr int vectors = Constant::VECTORS;
constexpr bool learned = Constant::LEARNED, projected = vectors == 6, biased = learned || projected;
constexpr bool global_history = Constant::GLOBAL_HISTORY;
constexpr matrix_state::Shape shape = matrix_state::choose(N, N, true, false);
using Tile = matrix_state::Tile<N, N, shape.R, shape.C>;
constexpr int R = Tile::R, C = Tile::C, KG = Tile::KG, lanes = Tile::lanes, warps = Tile::warps;
using Team = matrix_state::Team<N, N>;
constexpr int E = N / Team::width, teams = lanes / Team::width, passes = ceil_div(K, teams);
static_assert(K % (32 / Team::width) == 0, "the teams of a warp must all have a step, since they shuffle together");
struct Block {
  static constexpr int heads = 1, threads = lanes;
};

// Raw vectors of a step in `projected`: the biases only where they are projected. A record has them in the same order, then numbers.
enum { QUERY, KEY, VALUE, M_KEY, S_BIAS, M_BIAS };
constexpr int record_vectors = biased ? 6 : 4;
enum { KEY_FACTOR = record_vectors * N, M_KEY_FACTOR };
constexpr int stride = record_vectors * N + 4;
// What a replay keeps of a step for the walk back, [N] each: the gates of S and M by row and by column, and what is written into each.
enum { S_ROW, S_WRITE, M_ROW, M_WRITE, S_COLUMN, M_COLUMN, KEPT };
// What a walk gives of a step, [N] each: gradients of rows; of columns, summed over all rows; and sums over a warp's rows.
enum { D_VALUE, D_KEY_ROW, D_M_KEY_ROW, D_S_ROW, D_M_ROW, D_S_COLUMN, D_M_COLUMN, GIVEN };
enum { D_QUERY, D_KEY, D_M_KEY, SUMMED };

// A lane's place in the states.
struct Lane {
  int key, row0, col0, warp, column = 0;
  bool owner = true;
  ELMAN_FN explicit Lane(int thread) : key(thread % KG), row0(thread / KG * R), col0(key * C), warp(thread / 32) {
    matrix_state::scattered_sums<KG, C>(column, owner);
    column += col0;
  }
  ELMAN_FN bool speaks_for_rows() const { return key == 0; }
  ELMAN_FN bool speaks_for_columns() const { return row0 == 0; }

  // Sums over keys; the same bits in each lane of a row.
  template <int COUNT> ELMAN_FN static void row_sums(acc (&x)[COUNT]) {
#pragma unroll
    for (int mask = KG / 2; mask > 0; mask /= 2) {
      acc other[COUNT];
#pragma unroll
      for (int i = 0; i < COUNT; ++i) other[i] = shfl_xor(x[i], mask);
#pragma unroll
      for (int i = 0; i < COUNT; ++i) x[i] += other[i];
    }
  }
  // Sums over rows: a warp's to `sums` [warps, N], `stride` apart; and their sum over the warps, once all have written.
  ELMAN_FN void publish(acc (&x)[C], acc* sums, int stride = N) const {
    matrix_state::scatter_sums<KG, C>(x);
    if (owner) {
#pragma unroll
      for (int i = 0; i < matrix_state::kept_sums<KG, C>(); ++i) sums[warp * stride + column + i] = x[i];
    }
  }
  ELMAN_FN void collect(acc (&x)[C], const acc* sums) const {
    sync_block();
    read(x, sums + col0);
#pragma unroll
    for (int w = 1; w < warps; ++w) {
      acc more[C];
      read(more, sums + w * N + col0);
#pragma unroll
      for (int c = 0; c < C; ++c) x[c] += more[c];
    }
  }
  ELMAN_FN void columns(acc (&x)[C], const acc* vector) const { read(x, vector + col0); }
  ELMAN_FN void rows(acc (&x)[R], const acc* vector) const { read(x, vector + row0); }
  ELMAN_FN void load(acc (&x)[R][C], const acc* from) const {
#pragma unroll
    for (int r = 0; r < R; ++r) read(x[r], from + (row0 + r) * N + col0);
  }
  ELMAN_FN void store(acc* to, const acc (&x)[R][C]) const {
#pragma unroll
    for (int r = 0; r < R; ++r) write(to + (row0 + r) * N + col0, x[r]);
  }
};

// This lane's part of x y, over keys; and of x^T y, over rows, added.
ELMAN_FN void by_row(acc (&sum)[R], const acc (&x)[R][C], const acc (&y)[C]) {
#pragma unroll
  for (int r = 0; r < R; ++r) {
    sum[r] = 0;
#pragma unroll
    for (int c = 0; c < C; ++c) sum[r] += x[r][c] * y[c];
  }
}
ELMAN_FN void by_column(acc (&sum)[C], const acc (&x)[R][C], const acc (&y)[R]) {
#pragma unroll
  for (int r = 0; r < R; ++r)
#pragma unroll
    for (int c = 0; c < C; ++c) sum[c] += x[r][c] * y[r];
}
// x <- diag(row) x diag(column) + u k^T
ELMAN_FN void renew(acc (&x)[R][C], const acc (&row)[R], const acc (&column)[C], const acc (&u)[R], const acc (&k)[C]) {
#pragma unroll
  for (int r = 0; r < R; ++r)
#pragma unroll
    for (int c = 0; c < C; ++c) x[r][c] = row[r] * x[r][c] * column[c] + u[r] * k[c];
}
template <int COUNT> ELMAN_FN void gate(acc (&x)[COUNT], const acc (&bias)[COUNT]) {
#pragma unroll
  for (int i = 0; i < COUNT; ++i) x[i] = sigmoid_for<scalar>(x[i] + bias[i]);
}
template <int COUNT> ELMAN_FN void gate_backward(acc (&d)[COUNT], const acc (&open)[COUNT]) {
#pragma unroll
  for (int i = 0; i < COUNT; ++i) d[i] *= sigmoid_slope(open[i]);
}

// What a step finds: a, u, c and w of its equations in their rows, a' and c' in their columns.
struct Gates {
  acc s_row[R], s_write[R], m_row[R], m_write[R], s_column[C], m_column[C];
  ELMAN_FN void keep(const Lane& lane, acc* kept) const {
    if (lane.speaks_for_rows()) {
      write(kept + S_ROW * N + lane.row0, s_row);
      write(kept + S_WRITE * N + lane.row0, s_write);
      write(kept + M_ROW * N + lane.row0, m_row);
      write(kept + M_WRITE * N + lane.row0, m_write);
    }
    if (lane.speaks_for_columns()) {
      write(kept + S_COLUMN * N + lane.col0, s_column);
      write(kept + M_COLUMN * N + lane.col0, m_column);
    }
  }
  ELMAN_FN void take(const Lane& lane, const acc* kept) {
    lane.rows(s_row, kept + S_ROW * N);
    lane.rows(s_write, kept + S_WRITE * N);
    lane.rows(m_row, kept + M_ROW * N);
    lane.rows(m_write, kept + M_WRITE * N);
    lane.columns(s_column, kept + S_COLUMN * N);
    lane.columns(m_column, kept + M_COLUMN * N);
  }
};
// One step. S' = diag(a) S diag(a') + u k^T,  u = v - S k,  a = sigmoid(M k + b_S),  a' = sigmoid(M^T k + b_S);
// M' = diag(c) M diag(c') + w m^T,  w = u - M m,  c = sigmoid(S' m + b_M),  c' = sigmoid(S'^T m + b_M).
ELMAN_FN void step(const Lane& lane, acc (&s)[R][C], acc (&m)[R][C], const acc* record, acc* exchange, Gates& g) {
  acc k[C], m_key[C], k_row[R], m_key_row[R], s_bias[C] = {}, m_bias[C] = {}, s_bias_row[R] = {}, m_bias_row[R] = {};
  lane.columns(k, record + KEY * N);
  lane.columns(m_key, record + M_KEY * N);
  lane.rows(k_row, record + KEY * N);
  lane.rows(m_key_row, record + M_KEY * N);
  if (biased) {
    lane.columns(s_bias, record + S_BIAS * N);
    lane.columns(m_bias, record + M_BIAS * N);
    lane.rows(s_bias_row, record + S_BIAS * N);
    lane.rows(m_bias_row, record + M_BIAS * N);
  }
  acc column[C] = {}, row[3][R], value[R];
  by_column(column, m, k_row);
  lane.publish(column, exchange);
  by_row(row[0], m, k);
  by_row(row[1], s, k);
  by_row(row[2], m, m_key);
  Lane::row_sums(reinterpret_cast<acc(&)[3 * R]>(row));
  lane.rows(value, record + VALUE * N);
  copy(g.s_row, row[0]);
#pragma unroll
  for (int r = 0; r < R; ++r) g.s_write[r] = value[r] - row[1][r], g.m_write[r] = g.s_write[r] - row[2][r];
  lane.collect(g.s_column, exchange);
  gate(g.s_row, s_bias_row);
  gate(g.s_column, s_bias);
  renew(s, g.s_row, g.s_column, g.s_write, k);

  acc next[C] = {};
  by_column(next, s, m_key_row);
  lane.publish(next, exchange + warps * N);
  by_row(g.m_row, s, m_key);
  Lane::row_sums(g.m_row);
  lane.collect(g.m_column, exchange + warps * N);
  gate(g.m_row, m_bias_row);
  gate(g.m_column, m_bias);
  renew(m, g.m_row, g.m_column, g.m_write, m_key);
}
}  // namespace e79
