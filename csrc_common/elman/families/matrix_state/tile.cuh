#pragma once
// How the passes of <elman/families/matrix_state.cuh> spread over a block: the tile of a state, the roles of its threads,
// and what a lane of the state does.
#include <elman/families/matrix_state/vectors.cuh>

namespace elman::matrix_state {

// How a state is spread over lanes: KG lanes share a row, C = N / KG columns each; a lane holds R rows. Of a warp a state has
// `span` lanes; `shared`: others have the rest of them.
template <int N_, int M_, int R_, int C_> struct Tile {
  static constexpr int N = N_, M = M_, R = R_, C = C_, KG = N / C, lanes = M / R * KG, warps = ceil_div(lanes, 32), span = min_of(lanes, 32);
  static constexpr bool shared = lanes < 32;
  static_assert(KG * C == N && M % R == 0 && lanes % span == 0 && 32 % span == 0 && lanes <= 512, "a head takes whole warps, or a warp whole heads");
  static_assert(KG <= span && (KG & (KG - 1)) == 0, "a row's lanes add up by halves, within a warp");
};

// The tile of a pass, {rows, columns} of a lane: the fewest instructions an element, counted (reads of 16 neighbours meet in
// banks), at 8 elements a lane up to 1600 (latency hides best there, measured on an H200) and 16 beyond, or as many as 512
// lanes need; at most 4 where states are spread. Packed states have 8, on fewer lanes than a warp's.
struct Shape {
  int R, C;
};
ELMAN_DIVISION int accesses(int count) { return count / pack_width<float>(count) * (count % 32 == 0 ? 4 : count % 16 == 0 ? 2 : 1); }
ELMAN_DIVISION int instructions(int R, int C, int KG, int span, bool backward) {
  int rounds = 0;
  while (1 << rounds < KG) ++rounds;
  if (!backward) return 2 * R * rounds + 2 * accesses(C) + accesses(R);
  return 4 * R * rounds + 8 * C * (span - KG) / span + 3 * accesses(C) + 3 * accesses(R) + 2 * accesses(R * C);
}
ELMAN_DIVISION Shape choose(int N, int M, bool backward, bool spread, bool packed = false) {
  const int least = (N * M + 511) / 512, usual = N * M > 1600 ? 16 : spread ? 4 : 8, target = least > usual ? least : usual;
  Shape best{0, 0};
  int lowest = 0;
  for (int KG = 1; KG <= 32; KG *= 2)
    for (int R = 1; R <= M; ++R) {
      const int lanes = M / R * KG, span = packed ? N * M / 8 : 32;
      if (N % KG || M % R || lanes % span || lanes > (packed ? span : 512) || (target == 4 && R * (N / KG) > 4)) continue;
      const int C = N / KG, count = R * C, off = count > target ? count - target : target - count;
      const int cost = 1000 * instructions(R, C, KG, span, backward) / count + 4000 * off / target;
      if (best.R == 0 || cost < lowest) best = {R, C}, lowest = cost;
    }
  return best;
}

// Whether the forward pass keeps every state, so that the backward pass computes none again.
template <class Step> ELMAN_BOTH bool keeps_every() {
  if constexpr (requires { Step::every; }) return Step::every;
  else return false;
}

// A block of one pass: `heads` states, on `consumers` threads that step them, and `producers` that prepare a chunk ahead and
// write results a chunk behind. Where the state takes all registers, every thread does both.
template <class Step, bool BACKWARD> struct Plan {
  static constexpr int N = Step::N, M = Step::M;
  static_assert(N % 8 == 0 && M % 8 == 0 && N <= 128 && N * M <= 128 * 128, "sizes outside what the tiles cover");
  static_assert(!(Step::spread && Step::packed) && (!Step::packed || N * M <= 128), "states are spread or packed, and only small ones packed");
  static constexpr Shape shape = choose(N, M, BACKWARD, Step::spread, Step::packed);
  using Tile = matrix_state::Tile<N, M, shape.R, shape.C>;
  static constexpr bool split = Tile::lanes <= 256;
  // A multiple of four warps, one for each scheduler of a multiprocessor, or an odd number, which shifts from block to block.
  // Half as many in an fp64 build, for shared memory. Packed ones fill one warp or two, with twice as many of producers.
  static constexpr int heads_of_a_warp = sizeof(Acc<typename Step::Scalar>) > 4 && !Tile::shared ? 2 : 4;
  static constexpr int heads = Step::spread || N > 64 || M > 64 ? 1 : Tile::warps == 1 ? heads_of_a_warp : Tile::warps <= 3 ? 2 : 1;
  static constexpr int consumers = heads * Tile::lanes;
  // Steps in a chunk; the forward pass takes several of the backward's at once where they are small and its producers few.
  static constexpr int chunk = BACKWARD || Tile::shared || Step::K >= 16 || M > 64 ? Step::K : 16 / Step::K * Step::K;
  static constexpr int together = 32 / Step::Team::width;  // teams of a warp
  static constexpr int items = heads * chunk;
  static constexpr int producers = split ? min_of(items / together, BACKWARD && !Tile::shared ? 2 : 4) * 32 : consumers;
  // Backward: other producers write results than prepare, where there is room.
  static constexpr bool apart = BACKWARD && split && Step::spread;
  static constexpr int threads = split ? consumers + (apart ? 2 : 1) * producers : consumers;
  // The barrier between two stages, in which both roles meet.
  ELMAN_FN static void end_stage() { sync_roles<threads>(); }
  static constexpr int teams = producers / Step::Team::width, passes = ceil_div(items, teams);
  static constexpr bool even = passes * teams == items;  // every team has a step in every pass
  static_assert(even || Step::K % together == 0, "the teams of a warp must all have a step, since they shuffle together");
  static_assert(teams % heads == 0 && items <= producers);
  // Backward: whether one instruction stream replays a chunk and walks another back, each in the shadow of the other's latencies.
  static constexpr bool joint = Tile::R * Tile::C <= 10 && !keeps_every<Step>(), ahead = split && Tile::R * Tile::C <= 16;  // ahead: read a step early
  static constexpr int unrolled = joint ? 4 : ahead ? 2 : 1;
  // How many elements of a lane share one reciprocal: without, the passes wait for the special-function unit.
  static constexpr int share = 2;
  // Backward, where shared memory has room for it beside two blocks: every second row lane has the halves of its columns
  // exchanged, so that sums over rows begin without selects; and the next slot is copied while a chunk is replayed.
  static constexpr bool turned = BACKWARD && joint && heads == 1 && N * M <= 1024 && Tile::KG < 32 && Tile::C % 2 == 0;
  static constexpr bool staged = BACKWARD && joint && N * M <= 1024 && Tile::C * sizeof(Acc<typename Step::Scalar>) == 16;
};

// How many vectors over keys a record has besides q and k.
template <class Step> ELMAN_BOTH int further_columns() {
  if constexpr (requires { Step::columns; }) return Step::columns;
  else return 0;
}
template <class Column, int COLUMNS> struct Further {
  Column column[COLUMNS];
};
template <class Column> struct Further<Column, 0> {};

// One step as a lane sees it: the key's columns, those of further vectors, R entries of each row vector, the scalars.
template <class Step, class Tile> struct Inputs : Further<Acc<typename Step::Scalar>[Tile::C], further_columns<Step>()> {
  using A = Acc<typename Step::Scalar>;
  A k[Tile::C], row[Step::rows][Tile::R], scalar[max_of(Step::read_scalars, 1)];
};

// Where a record keeps its parts, in elements: q [N], k [N], columns [columns, N], rows [rows, M], scalars.
template <class Step> struct Record {
  static constexpr int N = Step::N, M = Step::M, vectors = 2 + further_columns<Step>();
  // Whole 16-byte words; an odd number of them where the states of a warp read theirs side by side, from other banks then.
  static constexpr int words = (vectors * N + Step::rows * M + Step::scalars + 3) / 4, stride = 4 * (Step::packed ? words | 1 : words);
  ELMAN_BOTH static int q() { return 0; }
  ELMAN_BOTH static int k() { return N; }
  ELMAN_BOTH static int column(int j) { return (2 + j) * N; }
  ELMAN_BOTH static int row(int j) { return vectors * N + j * M; }
  ELMAN_BOTH static int scalar(int j) { return vectors * N + Step::rows * M + j; }
};

// Write a record's vectors over keys once more, after its end, with the halves of every C columns exchanged; by the team that wrote them.
template <class Step, int C, class A> ELMAN_FN void turn_columns(const typename Step::Team& team, A* record) {
  constexpr int E = Step::N / Step::Team::width, W = min_of(E, C / 2);
#pragma unroll
  for (int vector = 0; vector < Record<Step>::vectors; ++vector) {
    A x[E];
    team.get(x, record + vector * Step::N);
#pragma unroll
    for (int j = 0; j < E; j += W) {
      const int from = team.lane_ * E + j;
      A part[W];
#pragma unroll
      for (int i = 0; i < W; ++i) part[i] = x[j + i];
      write(record + Record<Step>::stride + vector * Step::N + from / C * C + (from % C + C / 2) % C, part);
    }
  }
}

// A consumer's place in the states of its block.
template <class Step, class Plan> struct Lane {
  using A = Acc<typename Step::Scalar>;
  using Tile = typename Plan::Tile;
  using Inputs = matrix_state::Inputs<Step, Tile>;
  static constexpr int R = Tile::R, C = Tile::C, share = Plan::share;
  int head, key, row0, col0, half;  // half: where in its columns a lane begins, for it goes on at their start
  ELMAN_FN explicit Lane(int thread)
      : head(thread / Tile::lanes), key(thread % Tile::KG), row0(thread % Tile::lanes / Tile::KG * R), col0(key * C),
        half(Plan::turned ? thread / Tile::KG % 2 * (C / 2) : 0) {}

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
      constexpr int chains = C > 4 ? 2 : 1;  // two take half the time, and one instruction more
      A some[chains] = {};
#pragma unroll
      for (int c = 0; c < C; ++c) some[c % chains] = c < chains ? s[r][c] * x[c] : some[c % chains] + s[r][c] * x[c];
      sum[r] = chains == 1 ? some[0] : some[0] + some[chains - 1];
    }
  }
  ELMAN_FN void product(A (&sum)[R], const A (&s)[R][C], const A (&x)[C]) const {
    part(sum, s, x);
    row_sums(sum);
  }
  // Where a lane's rows begin in a tensor [B, T, H, M], at a step of state bh.
  ELMAN_FN int64_t rows_at(int bh, int t, int T, int H) const {
    return (((int64_t)(bh / H) * T + t) * H + bh % H) * Tile::M + row0;
  }
  // A lane's columns of a row, and of a state.
  ELMAN_FN void load_columns(A (&x)[C], const A* from) const {
    constexpr int parts = Plan::turned ? 2 : 1;
    auto& part = reinterpret_cast<A(&)[parts][C / parts]>(x);
#pragma unroll
    for (int i = 0; i < parts; ++i) read(part[i], from + (i ? C / 2 - half : half));
  }
  ELMAN_FN void load_state(A (&s)[R][C], const A* state) const {
#pragma unroll
    for (int r = 0; r < R; ++r) load_columns(s[r], state + (row0 + r) * Tile::N + col0);
  }
  ELMAN_FN void store_state(A* state, const A (&s)[R][C]) const {
    constexpr int parts = Plan::turned ? 2 : 1;
#pragma unroll
    for (int r = 0; r < R; ++r)
#pragma unroll
      for (int i = 0; i < parts; ++i)
        write(state + (row0 + r) * Tile::N + col0 + (i ? C / 2 - half : half),
              reinterpret_cast<const A(&)[parts][C / parts]>(s[r])[i]);
  }
  // A record has its vectors over keys a second time, at its end, with the halves of each lane's columns exchanged.
  ELMAN_FN const A* columns(const A* record) const { return record + col0 + (half ? Record<Step>::stride : 0); }
  ELMAN_FN void inputs(Inputs& in, A (&q)[C], const A* record) const {
    read(q, columns(record) + Record<Step>::q());
    inputs(in, record);
  }
  ELMAN_FN void inputs(Inputs& in, const A* record) const {
    read(in.k, columns(record) + Record<Step>::k());
    if constexpr (further_columns<Step>() > 0) {
#pragma unroll
      for (int j = 0; j < further_columns<Step>(); ++j) read(in.column[j], columns(record) + Record<Step>::column(j));
    }
#pragma unroll
    for (int j = 0; j < Step::rows; ++j) read(in.row[j], record + Record<Step>::row(j) + row0);
#pragma unroll
    for (int j = 0; j < Step::read_scalars; ++j) in.scalar[j] = record[Record<Step>::scalar(j)];
  }
};
}  // namespace elman::matrix_state
