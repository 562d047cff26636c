#pragma once
// What the passes of <elman/families/matrix_state.cuh> are made of: how a state is spread over a block, what lies where in shared memory, and
// the two roles of a thread (a lane of the state, a member of a team that prepares and finishes steps).
#include <elman/elman.cuh>

namespace elman::matrix_state {

// How a state is spread over a block: KG lanes share a row, C = N / KG columns each; a lane holds R rows.
template <int N_, int M_> struct Tile {
  static constexpr int N = N_, M = M_;
  static_assert(N % 8 == 0 && M % 8 == 0 && N <= 128 && N * M <= 128 * 128, "sizes outside what the tiles cover");

  static constexpr int key_lanes() {
    int lanes = 4;
    while (2 * lanes * 6 <= N) lanes *= 2;
    return lanes;
  }
  static constexpr int KG = key_lanes(), C = N / KG;
  static_assert(KG * C == N, "the lanes of a row must divide N");

  // One row in a lane up to 40 x 40, which hides latency best (measured on an H200). Beyond, as many rows as 18 elements allow, which
  // costs fewer shuffles; and never more than 512 threads, which could not have the registers.
  static constexpr int lane_rows() {
    const int unit = M * KG / 32;
    int rows = 1;
    for (int r = 2; r <= unit; ++r)
      if (unit % r == 0 && M % r == 0 && ((N * M > 1600 && r * C <= 18) || M / rows * KG > 512)) rows = r;
    return rows;
  }
  static constexpr int R = lane_rows(), threads = M / R * KG, warps = threads / 32;
  static_assert(threads % 32 == 0 && warps <= 16, "a block has whole warps, at most 16");

  // A team prepares one step: enough lanes for a key vector.
  static constexpr int team_width = N <= 8 ? 8 : N <= 16 ? 16 : 32, teams = threads / team_width;
  static constexpr int team_keys = (N + team_width - 1) / team_width, team_values = (M + team_width - 1) / team_width;
};

// W neighbouring elements in one access.
template <class A, int W> struct alignas(W * sizeof(A) < 16 ? W * sizeof(A) : 16) Pack {
  A x[W];
};
ELMAN_BOTH int pack_width(int count) { return count % 4 == 0 ? 4 : count % 2 == 0 ? 2 : 1; }

template <int COUNT, class A> ELMAN_FN void read(A (&to)[COUNT], const A* from, int stride = 1) {
  constexpr int W = pack_width(COUNT);
#pragma unroll
  for (int i = 0; i < COUNT / W; ++i) {
    const Pack<A, W> p = reinterpret_cast<const Pack<A, W>*>(from)[i * stride];
#pragma unroll
    for (int j = 0; j < W; ++j) to[i * W + j] = p.x[j];
  }
}
template <int COUNT, class A> ELMAN_FN void write(A* to, const A (&from)[COUNT], int stride = 1) {
  constexpr int W = pack_width(COUNT);
#pragma unroll
  for (int i = 0; i < COUNT / W; ++i) {
    Pack<A, W> p;
#pragma unroll
    for (int j = 0; j < W; ++j) p.x[j] = from[i * W + j];
    reinterpret_cast<Pack<A, W>*>(to)[i * stride] = p;
  }
}

template <int COUNT, class A> ELMAN_FN void copy(A (&to)[COUNT], const A (&from)[COUNT]) {
#pragma unroll
  for (int i = 0; i < COUNT; ++i) to[i] = from[i];
}

// Where a record keeps its parts, in elements: q [N], k [N], rows [rows, M], scalars.
template <class Step> struct Record {
  static constexpr int N = Step::Tile::N, M = Step::Tile::M;
  static constexpr int stride = (2 * N + Step::rows * M + Step::scalars + 3) / 4 * 4;  // whole 16-byte words
  ELMAN_BOTH static int q(int i) { return i; }
  ELMAN_BOTH static int k(int i) { return N + i; }
  ELMAN_BOTH static int row(int j, int i) { return 2 * N + j * M + i; }
  ELMAN_BOTH static int scalar(int j) { return 2 * N + Step::rows * M + j; }
};

// Raw inputs as they lie in shared memory, in elements of Scalar: the vectors of a step one after the other, then in the backward
// pass the gradient of the output.
template <class Step, bool BACKWARD> struct Raw {
  using Scalar = typename Step::Scalar;
  static constexpr int piece = 16 / sizeof(Scalar), count = Step::vectors + BACKWARD;
  ELMAN_BOTH static int length(int v) { return v < Step::vectors ? Step::length(v) : Step::Tile::M; }
  ELMAN_BOTH static int at(int v) {
    int sum = 0;
    for (int i = 0; i < v; ++i) sum += length(i);
    return sum;
  }
  static constexpr int stride = at(count), elements = Step::K * stride;
};

// One step as a lane sees it: the key's columns, R entries of each row vector, the scalars. As gradients: of `k` and the scalars this
// lane's contribution, of the rows the whole sum.
template <class Step> struct Inputs {
  using A = Acc<typename Step::Scalar>;
  A k[Step::Tile::C], row[Step::grad_rows][Step::Tile::R], scalar[Step::grad_scalars > 0 ? Step::grad_scalars : 1];
};

// A thread's place in the state.
template <class Step> struct Lane {
  using A = Acc<typename Step::Scalar>;
  using Tile = typename Step::Tile;
  static constexpr int R = Tile::R, C = Tile::C;
  int key = (int)(lane() % Tile::KG), row0 = (int)(thread_x() / Tile::KG) * R, col0 = key * C;

  // Sum over the lanes of a row; the same bits in each of them.
  ELMAN_FN A row_sum(A x) const { return warp_sum<Tile::KG>(x); }
  // Whether this lane speaks for its rows.
  ELMAN_FN bool first() const { return key == 0; }

  ELMAN_FN A dot(const A (&a)[C], const A (&b)[C]) const {
    A sum = 0;
#pragma unroll
    for (int c = 0; c < C; ++c) sum += a[c] * b[c];
    return row_sum(sum);
  }
  ELMAN_FN void load_state(A (&s)[R][C], const A* state) const {
#pragma unroll
    for (int r = 0; r < R; ++r) read(s[r], state + (row0 + r) * Tile::N + col0);
  }
  ELMAN_FN void store_state(A* state, const A (&s)[R][C]) const {
#pragma unroll
    for (int r = 0; r < R; ++r) write(state + (row0 + r) * Tile::N + col0, s[r]);
  }
  ELMAN_FN void inputs(Inputs<Step>& in, A (&q)[C], const A* record) const {
    read(q, record + Record<Step>::q(col0));
    read(in.k, record + Record<Step>::k(col0));
#pragma unroll
    for (int j = 0; j < Step::grad_rows; ++j) read(in.row[j], record + Record<Step>::row(j, row0));
#pragma unroll
    for (int j = 0; j < Step::grad_scalars; ++j) in.scalar[j] = record[Record<Step>::scalar(j)];
  }
};

// Which step of which head a team works on; `valid` is false past the end of the sequence.
struct Place {
  int64_t b, t, h, T, H;
  bool valid;
  ELMAN_FN void move_to(int64_t step, bool mine) {
    t = step;
    valid = mine && step < T;
  }
  // Row of a tensor [B, T, ...], and of one [B, T, H, ...].
  ELMAN_FN int64_t step() const { return b * T + t; }
  ELMAN_FN int64_t head() const { return step() * H + h; }
};

template <class Step> struct Team {
  using A = Acc<typename Step::Scalar>;
  using Tile = typename Step::Tile;
  static constexpr int width = Tile::team_width, count = Tile::teams;
  static_assert(Step::K % (32 / width) == 0, "the teams of a warp must all have a step, since they shuffle together");
  int index = (int)thread_x() / width, lane_ = (int)thread_x() % width;

  // This lane's j-th element of a vector.
  ELMAN_FN int element(int j) const { return lane_ + j * width; }
  ELMAN_FN bool first() const { return lane_ == 0; }
  // Sum over the team's lanes; the same bits in each.
  ELMAN_FN A sum(A x) const { return warp_sum<width>(x); }
};

// Sum `COUNT` values over the lanes of a warp that hold different rows, halving at each level where the count is even: lane l ends
// with the sums number first .. first + kept. Where a level cannot halve, both lanes get the sum and one of them owns it.
template <int MASK, int COUNT> ELMAN_BOTH int kept_sums() {
  if constexpr (MASK >= 32) return COUNT;
  else return kept_sums<2 * MASK, COUNT % 2 ? COUNT : COUNT / 2>();
}
template <int MASK, int COUNT, class A, int TOTAL> ELMAN_FN void scatter_sums(A (&v)[TOTAL], int& first, bool& owner) {
  if constexpr (MASK < 32) {
    const bool upper = lane() & MASK;
    if constexpr (COUNT % 2 == 0) {
      constexpr int half = COUNT / 2;
#pragma unroll
      for (int i = 0; i < half; ++i) {
        const A send = upper ? v[i] : v[i + half], keep = upper ? v[i + half] : v[i];
        v[i] = keep + shfl_xor(send, MASK);
      }
      first += upper ? half : 0;
      scatter_sums<2 * MASK, half>(v, first, owner);
    } else {
#pragma unroll
      for (int i = 0; i < COUNT; ++i) v[i] += shfl_xor(v[i], MASK);
      owner = owner && !upper;
      scatter_sums<2 * MASK, COUNT>(v, first, owner);
    }
  }
}

// x (|x|^2 + 1e-12)^(-1/2) over a team's vector: the factor, and the derivative
// d_x = factor (d_unit - unit <unit, d_unit>), which needs no division by |x|.
template <class Team, class A, int E> ELMAN_FN A unit_factor(const Team& team, const A (&x)[E]) {
  A sum = 0;
#pragma unroll
  for (int j = 0; j < E; ++j) sum += x[j] * x[j];
  return rsqrt_of(team.sum(sum) + A(1e-12));
}
template <class Team, class A, int E> ELMAN_FN void unit_backward(const Team& team, A (&d)[E], const A (&unit)[E], A factor) {
  A sum = 0;
#pragma unroll
  for (int j = 0; j < E; ++j) sum += unit[j] * d[j];
  sum = team.sum(sum);
#pragma unroll
  for (int j = 0; j < E; ++j) d[j] = factor * (d[j] - unit[j] * sum);
}
}  // namespace elman::matrix_state
