#pragma once
// How the passes of <elman/families/matrix_state.cuh> spread over a block: the tile of a state, the roles of its threads,
// and what a lane of the state does.
#include <elman/families/matrix_state/vectors.cuh>

namespace elman::matrix_state {

// How a state is spread over lanes: KG lanes share a row, C = N / KG columns each; a lane holds R rows.
template <int N_, int M_, int R_, int C_> struct Tile {
  static constexpr int N = N_, M = M_, R = R_, C = C_, KG = N / C, lanes = M / R * KG, warps = lanes / 32;
  static_assert(KG * C == N && M % R == 0 && lanes % 32 == 0 && lanes <= 512, "a head takes whole warps");
};

// The tile of a pass, {rows, columns} of a lane: the fewest instructions an element, counted (reads of 16 neighbours meet in
// banks), at 8 elements a lane up to 1600 (latency hides best there, measured on an H200) and 16 beyond, or as many as 512
// lanes need.
struct Shape {
  int R, C;
};
ELMAN_BOTH int accesses(int count) { return count / pack_width<float>(count) * (count % 32 == 0 ? 4 : count % 16 == 0 ? 2 : 1); }
ELMAN_BOTH int instructions(int R, int C, int KG, bool backward) {
  int rounds = 0;
  while (1 << rounds < KG) ++rounds;
  if (!backward) return 2 * R * rounds + 2 * accesses(C) + accesses(R);
  return 4 * R * rounds + 8 * C * (32 - KG) / 32 + 3 * accesses(C) + 3 * accesses(R) + 2 * accesses(R * C);
}
ELMAN_BOTH Shape choose(int N, int M, bool backward) {
  const int least = (N * M + 511) / 512, usual = N * M <= 1600 ? 8 : 16, target = least > usual ? least : usual;
  Shape best{0, 0};
  int lowest = 0;
  for (int KG = 1; KG <= 32; KG *= 2)
    for (int R = 1; R <= M; ++R) {
      if (N % KG || M % R || M / R * KG % 32 || M / R * KG > 512) continue;
      const int C = N / KG, count = R * C, off = count > target ? count - target : target - count;
      const int cost = 1000 * instructions(R, C, KG, backward) / count + 4000 * off / target;
      if (best.R == 0 || cost < lowest) best = {R, C}, lowest = cost;
    }
  return best;
}

// A block of one pass: `heads` states, on `consumers` threads that step them, and `producers` that prepare a chunk ahead and
// write results a chunk behind. Where the state takes all registers, every thread does both.
template <class Step, bool BACKWARD> struct Plan {
  static constexpr int N = Step::N, M = Step::M;
  static_assert(N % 8 == 0 && M % 8 == 0 && N <= 128 && N * M <= 128 * 128, "sizes outside what the tiles cover");
  static constexpr Shape shape = choose(N, M, BACKWARD);
  using Tile = matrix_state::Tile<N, M, shape.R, shape.C>;
  static constexpr bool split = Tile::lanes <= 256;
  // A multiple of four warps, one for each scheduler of a multiprocessor, or an odd number, which shifts from block to block.
  static constexpr int heads = N > 64 || M > 64 ? 1 : Tile::warps == 1 ? 4 : Tile::warps <= 3 ? 2 : 1;
  static constexpr int consumers = heads * Tile::lanes;
  // Steps in a chunk; the forward pass takes several of the backward's at once where they are small.
  static constexpr int chunk = BACKWARD || Step::K >= 16 || M > 64 ? Step::K : 16 / Step::K * Step::K;
  static constexpr int together = 32 / Step::Team::width;  // teams of a warp
  static_assert(Step::K % together == 0, "the teams of a warp must all have a step, since they shuffle together");
  static constexpr int items = heads * chunk;
  static constexpr int producers = split ? min_of(items / together, BACKWARD ? 2 : 4) * 32 : consumers;
  static constexpr int threads = split ? consumers + producers : consumers;
  // The barrier between two stages, in which both roles meet.
  ELMAN_FN static void end_stage() { sync_roles<threads>(); }
  static constexpr int teams = producers / Step::Team::width, passes = ceil_div(items, teams);
  static constexpr bool even = passes * teams == items;  // every team has a step in every pass
  static_assert(teams % heads == 0 && items <= producers);
  // Backward: whether one instruction stream replays a chunk and walks another back, each in the shadow of the other's latencies.
  static constexpr bool joint = Tile::R * Tile::C <= 10, ahead = split && Tile::R * Tile::C <= 16;  // ahead: read a step early
  static constexpr int unrolled = joint ? 4 : ahead ? 2 : 1;
  // How many elements of a lane share one reciprocal: without, the passes wait for the special-function unit.
  static constexpr int share = 2;
};

// One step as a lane sees it: the key's columns, R entries of each row vector, the scalars. As gradients: of `k` and the
// scalars this lane's contribution, of the rows the whole sum.
template <class Step, class Tile> struct Inputs {
  using A = Acc<typename Step::Scalar>;
  A k[Tile::C], row[Step::rows][Tile::R], scalar[Step::grad_scalars > 0 ? Step::grad_scalars : 1];
};

// Where a record keeps its parts, in elements: q [N], k [N], rows [rows, M], scalars.
template <class Step> struct Record {
  static constexpr int N = Step::N, M = Step::M;
  static constexpr int stride = (2 * N + Step::rows * M + Step::scalars + 3) / 4 * 4;  // whole 16-byte words
  ELMAN_BOTH static int q() { return 0; }
  ELMAN_BOTH static int k() { return N; }
  ELMAN_BOTH static int row(int j) { return 2 * N + j * M; }
  ELMAN_BOTH static int scalar(int j) { return 2 * N + Step::rows * M + j; }
};

// A consumer's place in the states of its block.
template <class Step, class Plan> struct Lane {
  using A = Acc<typename Step::Scalar>;
  using Tile = typename Plan::Tile;
  using Inputs = matrix_state::Inputs<Step, Tile>;
  static constexpr int R = Tile::R, C = Tile::C, share = Plan::share;
  int head, key, row0, col0;
  ELMAN_FN explicit Lane(int thread)
      : head(thread / Tile::lanes), key(thread % Tile::KG), row0(thread % Tile::lanes / Tile::KG * R), col0(key * C) {}

  // Whether this lane speaks for its rows.
  ELMAN_FN bool first() const { return key == 0; }

  // Sum each row's value over lanes whose keys differ in bits below FROM and not below TO; the same bits in each of them.
  // Level by level over all rows, so that their shuffles overlap.
  template <int FROM = Tile::KG, int TO = 1> ELMAN_FN void row_sums(A (&x)[R]) const {
#pragma unroll
    for (int mask = FROM / 2; mask >= TO; mask /= 2) {
      A other[R];
#pragma unroll
      for (int r = 0; r < R; ++r) other[r] = shfl_xor(x[r], mask);
#pragma unroll
      for (int r = 0; r < R; ++r) x[r] += other[r];
    }
  }
  // This lane's part of the product of its rows with a vector over keys, and the whole.
  ELMAN_FN void part(A (&sum)[R], const A (&s)[R][C], const A (&x)[C]) const {
#pragma unroll
    for (int r = 0; r < R; ++r) {
      A even = 0, odd = 0;  // two chains, half the latency
#pragma unroll
      for (int c = 0; c < C; ++c) (c % 2 ? odd : even) += s[r][c] * x[c];
      sum[r] = even + odd;
    }
  }
  ELMAN_FN void product(A (&sum)[R], const A (&s)[R][C], const A (&x)[C]) const {
    part(sum, s, x);
    row_sums(sum);
  }
  ELMAN_FN void load_state(A (&s)[R][C], const A* state) const {
#pragma unroll
    for (int r = 0; r < R; ++r) read(s[r], state + (row0 + r) * Tile::N + col0);
  }
  ELMAN_FN void store_state(A* state, const A (&s)[R][C]) const {
#pragma unroll
    for (int r = 0; r < R; ++r) write(state + (row0 + r) * Tile::N + col0, s[r]);
  }
  ELMAN_FN void inputs(Inputs& in, A (&q)[C], const A* record) const {
    read(q, record + Record<Step>::q() + col0);
    inputs(in, record);
  }
  ELMAN_FN void inputs(Inputs& in, const A* record) const {
    read(in.k, record + Record<Step>::k() + col0);
#pragma unroll
    for (int j = 0; j < Step::rows; ++j) read(in.row[j], record + Record<Step>::row(j) + row0);
#pragma unroll
    for (int j = 0; j < Step::grad_scalars; ++j) in.scalar[j] = record[Record<Step>::scalar(j)];
  }
};

// Sum `COUNT` values over the lanes of a warp that hold different rows, halving at each level where the count is even. Where
// a level cannot halve, both lanes get the sum. A lane ends with `kept` sums; scattered_sums says which, and whether it is
// theirs to store.
template <int MASK, int COUNT> ELMAN_BOTH int kept_sums() {
  if constexpr (MASK >= 32) return COUNT;
  else return kept_sums<2 * MASK, COUNT % 2 ? COUNT : COUNT / 2>();
}
template <int MASK, int COUNT> ELMAN_FN void scattered_sums(int& first, bool& owner) {
  if constexpr (MASK < 32) {
    const bool upper = lane() & MASK;
    if (COUNT % 2 == 0) first += upper ? COUNT / 2 : 0;
    else owner = owner && !upper;
    scattered_sums<2 * MASK, COUNT % 2 ? COUNT : COUNT / 2>(first, owner);
  }
}
template <int MASK, int COUNT, class A, int TOTAL> ELMAN_FN void scatter_sums(A (&v)[TOTAL]) {
  if constexpr (MASK < 32) {
    if constexpr (COUNT % 2 == 0) {
      constexpr int half = COUNT / 2;
      const bool upper = lane() & MASK;
#pragma unroll
      for (int i = 0; i < half; ++i) {
        const A send = upper ? v[i] : v[i + half], keep = upper ? v[i + half] : v[i];
        v[i] = keep + shfl_xor(send, MASK);
      }
      scatter_sums<2 * MASK, half>(v);
    } else {
#pragma unroll
      for (int i = 0; i < COUNT; ++i) v[i] += shfl_xor(v[i], MASK);
      scatter_sums<2 * MASK, COUNT>(v);
    }
  }
}
}  // namespace elman::matrix_state
