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

// Halving: of COUNT values that lanes apart by MASK and by less each have a part of, half go to either lane where the count is even, and
// all to both where it is odd. So many whole sums a lane ends with.
template <int MASK, int COUNT> ELMAN_BOTH int kept_sums() {
  if constexpr (MASK == 0) return COUNT;
  else return kept_sums<MASK / 2, COUNT % 2 ? COUNT : COUNT / 2>();
}
// Shuffles of that, and of the same over the lanes of a warp that are MASK apart and by more.
ELMAN_DIVISION int shuffles(int mask, int count) {
  int total = 0;
  for (; mask > 0; mask /= 2) total += count = count % 2 ? count : count / 2;
  return total;
}
// The tile of both states: a step of both passes has some five sums of rows to one of columns, and as many vectors over rows as over
// columns. 16 elements a lane where a state has more than 1600, else 8, as in the matrix family.
ELMAN_DIVISION matrix_state::Shape choose() {
  matrix_state::Shape best{0, 0};
  int lowest = 0;
  for (int KG = 1; KG <= 32; KG *= 2)
    for (int R = 1; R <= N; ++R) {
      if (N % KG || N % R || N / R * KG % 32 || N / R * KG > 512 || R * (N / KG) > 18) continue;
      const int C = N / KG, count = R * C, target = N > 40 ? 16 : 8, off = count > target ? count - target : target - count;
      const int reads = 4 * (matrix_state::accesses(R) + matrix_state::accesses(C));
      const int cost = 1000 * (5 * shuffles(KG / 2, R) + 2 * shuffles(16 / KG, C) + reads) / count + 3000 * off / target;
      if (best.R == 0 || cost < lowest) best = {R, C}, lowest = cost;
    }
  return best;
}
constexpr matrix_state::Shape shape = choose();
using Tile = matrix_state::Tile<N, N, shape.R, shape.C>;
constexpr int R = Tile::R, C = Tile::C, KG = Tile::KG, lanes = Tile::lanes, warps = Tile::warps;
// Rows whose sums a lane ends with. Columns that a warp adds up over all groups of rows: HELPERS lanes, SIDE apart, to each.
constexpr int OWN = kept_sums<KG / 2, R>(), PER_WARP = N / warps, groups = N / R;
ELMAN_BOTH int power_of_two(int at_least) { return at_least <= 1 ? 1 : 2 * power_of_two((at_least + 1) / 2); }
constexpr int SIDE = power_of_two(PER_WARP), HELPERS = 32 / SIDE;
static_assert(N % warps == 0 && SIDE <= 32, "each warp adds up as many columns");
using Team = matrix_state::Team<N, N>;
constexpr int E = N / Team::width, teams = lanes / Team::width;
static_assert(K % (32 / Team::width) == 0, "the teams of a warp must all have a step, since they shuffle together, and the same vector");
struct Block {
  static constexpr int heads = 1, threads = lanes;
};

// Raw vectors of a step in `projected`: the biases only where they are projected. A record has them in the same order, then numbers.
enum { QUERY, KEY, VALUE, M_KEY, S_BIAS, M_BIAS };
enum { KEY_FACTOR = vectors * N, M_KEY_FACTOR };
constexpr int record_size = vectors * N + 4;
// What a step finds, [N] each: the gates of S and M by row and what is written into each, then the gates by column.
enum { S_ROW, S_WRITE, M_ROW, M_WRITE, S_COLUMN, M_COLUMN, KEPT };
// What a walk gives of a step, [N] each: gradients of rows; of columns, summed over all rows; and sums over a warp's rows.
enum { D_VALUE, D_WRITE, D_KEY_ROW, D_M_KEY_ROW, D_S_ROW, D_M_ROW, D_S_COLUMN, D_M_COLUMN, GIVEN };
enum { D_QUERY, D_KEY, D_M_KEY, SUMMED };
// Sums over the rows of each lane, [groups, pitch]: the helpers of a column read from different banks.
constexpr int pitch = N % 32 ? N : N + min_of(SIDE, 16), exchanged = groups * pitch;

// A lane's place in the states.
struct Lane {
  int key, group, row0, col0, warp;
  int row, column, helper, added;  // the first of its OWN rows, and of the columns it publishes; the column that it adds up, as which helper
  bool owns = true, publishes = true, adds;
  ELMAN_FN explicit Lane(int thread)
      : key(thread % KG), group(thread / KG), row0(group * R), col0(key * C), warp(thread / 32), row(row0), column(col0),
        helper(thread % 32 / SIDE), added(warp * PER_WARP + min_of(thread % SIDE, PER_WARP - 1)), adds(thread % 32 < PER_WARP) {
    matrix_state::scattered_sums<KG, C>(column, publishes);
    own_rows<KG / 2, R>();
  }
  template <int MASK, int COUNT> ELMAN_FN void own_rows() {
    if constexpr (MASK > 0) {
      const bool upper = key & MASK;
      if (COUNT % 2 == 0) row += upper ? COUNT / 2 : 0;
      else owns = owns && !upper;
      own_rows<MASK / 2, COUNT % 2 ? COUNT : COUNT / 2>();
    }
  }

  // Sums over keys: of all rows' parts to the whole ones of a lane's OWN rows, level by level over all vectors, so that their shuffles
  // overlap.
  template <int MASK = KG / 2, int COUNT = R, int VECTORS> ELMAN_FN void row_sums(acc (&x)[VECTORS][R]) const {
    if constexpr (MASK > 0) {
      constexpr int rest = COUNT % 2 ? COUNT : COUNT / 2;
      const bool upper = key & MASK;
      acc other[VECTORS][rest];
#pragma unroll
      for (int v = 0; v < VECTORS; ++v)
#pragma unroll
        for (int i = 0; i < rest; ++i) {
          const acc low = x[v][i], high = x[v][i + COUNT - rest];
          other[v][i] = shfl_xor(upper ? low : high, MASK);
          x[v][i] = upper ? high : low;
        }
#pragma unroll
      for (int v = 0; v < VECTORS; ++v)
#pragma unroll
        for (int i = 0; i < rest; ++i) x[v][i] += other[v][i];
      row_sums<MASK / 2, rest>(x);
    }
  }
  // Sums over rows: a warp's to `sums` [warps, .., N], with the next one `stride` on.
  ELMAN_FN void publish(acc (&x)[C], acc* sums, int stride) const {
    matrix_state::scatter_sums<KG, C>(x);
    if (publishes) {
#pragma unroll
      for (int i = 0; i < matrix_state::kept_sums<KG, C>(); ++i) sums[warp * stride + column + i] = x[i];
    }
  }
  // A lane's to `exchange`; and, once all have written, a helper's part of those of its column, and all of them.
  ELMAN_FN void give(const acc (&x)[C], acc* exchange) const { write(exchange + group * pitch + col0, x); }
  ELMAN_FN acc part_of_column(const acc* exchange) const {
    acc x = 0;
#pragma unroll
    for (int i = 0; i < ceil_div(groups, HELPERS); ++i) {
      const int g = helper + i * HELPERS;
      const acc more = exchange[min_of(g, groups - 1) * pitch + added];
      x += groups % HELPERS == 0 || g < groups ? more : acc(0);
    }
    return x;
  }
  ELMAN_FN static acc column_sum(acc x) {
#pragma unroll
    for (int mask = SIDE; mask < 32; mask *= 2) x += shfl_xor(x, mask);
    return x;
  }
  // What a lane found for its own rows and its added column: for all lanes, after a barrier.
  ELMAN_FN void tell_rows(acc* vector, const acc* x) const {
    if (owns) {
#pragma unroll
      for (int i = 0; i < OWN; ++i) vector[row + i] = x[i];
    }
  }
  ELMAN_FN void tell_column(acc* vector, acc x) const {
    if (adds) vector[added] = x;
  }
  ELMAN_FN void columns(acc (&x)[C], const acc* vector) const { read(x, vector + col0); }
  ELMAN_FN void rows(acc (&x)[R], const acc* vector) const { read(x, vector + row0); }
  ELMAN_FN void own(acc (&x)[OWN], const acc* vector) const {
#pragma unroll
    for (int i = 0; i < OWN; ++i) x[i] = vector[row + i];
  }
  // A lane's part of a state. Unsigned, for a signed sum keeps nvcc from seeing that rows are aligned: it then stores word by word.
  ELMAN_FN unsigned place() const { return (unsigned)(row0 * N + col0); }
  ELMAN_FN void load(acc (&x)[R][C], const acc* from) const {
#pragma unroll
    for (int r = 0; r < R; ++r) read(x[r], from + place() + r * N);
  }
  ELMAN_FN void store(acc* to, const acc (&x)[R][C]) const {
#pragma unroll
    for (int r = 0; r < R; ++r) write(to + place() + r * N, x[r]);
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
template <int COUNT> ELMAN_FN void gate_backward(acc* d, const acc (&open)[COUNT]) {
#pragma unroll
  for (int i = 0; i < COUNT; ++i) d[i] *= sigmoid_slope(open[i]);
}

// The gates' biases of S and M, for a lane's own rows and its added columns.
struct Biases {
  acc row[2][OWN] = {}, column[2] = {};
  ELMAN_FN void take(const Lane& lane, const acc* of_s, const acc* of_m) {
    lane.own(row[0], of_s);
    lane.own(row[1], of_m);
    column[0] = of_s[lane.added];
    column[1] = of_m[lane.added];
  }
};
// A lane's part of a step's key, read a step early.
struct Key {
  acc column[C], row[R];
  ELMAN_FN void take(const Lane& lane, const acc* record) {
    lane.columns(column, record + KEY * N);
    lane.rows(row, record + KEY * N);
  }
};
// One step. S' = diag(a) S diag(a') + u k^T,  u = v - S k,  a = sigmoid(M k + b_S),  a' = sigmoid(M^T k + b_S);
// M' = diag(c) M diag(c') + w m^T,  w = u - M m,  c = sigmoid(S' m + b_M),  c' = sigmoid(S'^T m + b_M).
// a, u, c, w, a' and c' are left in `found`. The key is that of `record`, and then of `following`. What a pass does besides, nobody waits
// for: `before`, with both states as they were, and `between`, with S' and M, run while sums are on their way.
template <class Before, class Between>
ELMAN_FN void step(const Lane& lane, acc (&s)[R][C], acc (&m)[R][C], Key& key, const acc* record, const acc* following, Biases bias,
                   acc* exchange, acc* found, Before before, Between between) {
  acc m_key[C], m_key_row[R], value[OWN];
  lane.columns(m_key, record + M_KEY * N);
  lane.rows(m_key_row, record + M_KEY * N);
  lane.own(value, record + VALUE * N);
  if (projected) bias.take(lane, record + S_BIAS * N, record + M_BIAS * N);

  acc of_rows[C] = {}, row[3][R];
  by_column(of_rows, m, key.row);
  lane.give(of_rows, exchange);
  by_row(row[0], m, key.column);
  by_row(row[1], s, key.column);
  by_row(row[2], m, m_key);
  sync_block();
  acc of_column = lane.part_of_column(exchange);
  lane.row_sums(row);
  before();
  of_column = Lane::column_sum(of_column);
  acc open[OWN], u[OWN], w[OWN];
#pragma unroll
  for (int i = 0; i < OWN; ++i) open[i] = row[0][i], u[i] = value[i] - row[1][i], w[i] = u[i] - row[2][i];
  gate(open, bias.row[0]);
  of_column = sigmoid_for<scalar>(of_column + bias.column[0]);
  lane.tell_rows(found + S_ROW * N, open);
  lane.tell_rows(found + S_WRITE * N, u);
  lane.tell_rows(found + M_WRITE * N, w);
  lane.tell_column(found + S_COLUMN * N, of_column);
  sync_block();
  acc by_rows[R], by_columns[C], written[R];
  lane.rows(by_rows, found + S_ROW * N);
  lane.rows(written, found + S_WRITE * N);
  lane.columns(by_columns, found + S_COLUMN * N);
  renew(s, by_rows, by_columns, written, key.column);
  key.take(lane, following);

  acc next[C] = {}, ahead[1][R];
  by_column(next, s, m_key_row);
  lane.give(next, exchange);
  by_row(ahead[0], s, m_key);
  sync_block();
  of_column = lane.part_of_column(exchange);
  lane.row_sums(ahead);
  between();
  of_column = Lane::column_sum(of_column);
#pragma unroll
  for (int i = 0; i < OWN; ++i) open[i] = ahead[0][i];
  gate(open, bias.row[1]);
  of_column = sigmoid_for<scalar>(of_column + bias.column[1]);
  lane.tell_rows(found + M_ROW * N, open);
  lane.tell_column(found + M_COLUMN * N, of_column);
  sync_block();
  lane.rows(by_rows, found + M_ROW * N);
  lane.rows(written, found + M_WRITE * N);
  lane.columns(by_columns, found + M_COLUMN * N);
  renew(m, by_rows, by_columns, written, m_key);
}
}  // namespace e79
