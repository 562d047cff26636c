#pragma once
// Recurrences with one matrix state S [M value rows x N key columns] per (batch, head): T dependent steps in one launch.
//
//   S[t] = step(S[t-1]; k[t], rows[t], scalars[t]),   y[t] = S[t] q[t],   o[t] = output(y[t])
//
// * One block per (batch, head). S lives in registers: a lane holds R rows x C columns (Tile). Rows are independent given the
//   key, so sums over keys are shuffles within a row's lanes; sums over rows occur in the backward pass only.
// * Time runs in chunks of K steps. Teams of lanes first turn the raw inputs of a chunk into records in shared memory
//   (activation, norm, decay, in fp32), then all lanes run its steps without a barrier, then teams write the results.
// * Forward keeps S before each chunk (`slots`). Backward, from the last chunk to the first, replays a chunk once from its slot,
//   keeps its K states, and walks them back. No float atomics, every sum in a fixed order.
//
// A variant supplies `Step<ELEMENTS>` (members below, all static) and args with: B, T, H, s0, y, s_last, slots, and in Backward d_y,
// d_s_last, d_s0, history and partial (both null unless Step::global_history). The two passes may use different ELEMENTS, the
// state elements of a lane: few hide latency better, many cost fewer shuffles and registers go up.
//   Scalar, Tile, K      storage type; Tile<N, M, ELEMENTS>; steps in a chunk
//   vectors, length, source   raw vectors of a step: their number, their lengths (multiples of 8), and where each begins
//   rows, scalars        vectors of length M and numbers in a record besides q and k; the first grad_rows and grad_scalars of
//                        them reach `forward` and get a gradient
//   needs_readout        output_backward reads y
//   prepare, prepare_scalars   the vectors of a record, by a team; its scalars, by one thread for each step of a chunk
//   forward, backward    one lane's part of the step, and its derivative
//   output, output_backward   what follows the readout, for one element, and its derivative
//   RawScalars, load_scalars  the raw numbers of one step, and reading them
//   Sums, finish, finish_scalars, store_sums  gradients of the raw inputs from those of the record; sums over time, and their store
#include <elman/elman.cuh>

namespace elman::matrix_state {

// How a state is spread over a block: KG lanes share a row, C = N / KG columns each; a lane holds R rows.
template <int N_, int M_, int ELEMENTS> struct Tile {
  static constexpr int N = N_, M = M_;
  static_assert(N % 8 == 0 && M % 8 == 0 && N <= 128 && N * M <= 128 * 128, "sizes outside what the tiles cover");

  static constexpr int key_lanes() {
    int lanes = 4;
    while (2 * lanes * 6 <= N) lanes *= 2;
    return lanes;
  }
  static constexpr int KG = key_lanes(), C = N / KG;
  static_assert(KG * C == N, "the lanes of a row must divide N");

  // As many rows as ELEMENTS state elements in a lane allow. Beyond 512 threads a block could not have the registers, so large
  // states take more.
  static constexpr int lane_rows() {
    const int unit = M * KG / 32;
    int rows = 1;
    for (int r = 2; r <= unit; ++r)
      if (unit % r == 0 && M % r == 0 && (r * C <= ELEMENTS || M / rows * KG > 512)) rows = r;
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

// Start copying the raw vectors of a chunk to `stage`; zeros past the end of the sequence.
template <class Step, bool BACKWARD, class Args>
ELMAN_FN void fetch(const Args& a, Place place, int64_t chunk, typename Step::Scalar* stage) {
  using R = Raw<Step, BACKWARD>;
#pragma unroll
  for (int v = 0; v < R::count; ++v) {
    const int pieces = R::length(v) / R::piece;
    for (int i = (int)thread_x(); i < Step::K * pieces; i += Step::Tile::threads) {
      const int slot = i / pieces, e = i % pieces * R::piece;
      typename Step::Scalar* to = stage + slot * R::stride + R::at(v) + e;
      place.t = chunk * Step::K + slot;
      if (place.t >= place.T) {
#pragma unroll
        for (int j = 0; j < R::piece; ++j) to[j] = typename Step::Scalar{};
      } else if constexpr (BACKWARD) {
        copy16_async(to, (v < Step::vectors ? Step::source(a, place, v) : a.d_y + place.head() * Step::Tile::M) + e);
      } else {
        copy16_async(to, Step::source(a, place, v) + e);
      }
    }
  }
  copy_commit();
}

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

// Shared memory of the two passes.
template <class Step> struct ForwardShared {
  using A = Acc<typename Step::Scalar>;
  static constexpr unsigned records = Step::K * Record<Step>::stride, readouts = Step::K * Step::Tile::M;
  Carve carve;
  unsigned stage = carve.take<typename Step::Scalar>(Raw<Step, false>::elements);
  unsigned record = carve.take<A>(records), readout = carve.take<A>(readouts);
};
template <class Step> struct BackwardShared {
  using A = Acc<typename Step::Scalar>;
  using Tile = typename Step::Tile;
  static constexpr unsigned K = Step::K, records = K * Record<Step>::stride, values = K * Tile::M;
  static constexpr unsigned histories = Step::global_history ? 0 : K * Tile::M * Tile::N;
  static constexpr unsigned partials = Step::global_history ? 0 : K * Tile::warps * 2 * Tile::N;
  static constexpr unsigned row_grads = values * Step::grad_rows, scalar_grads = K * Step::grad_scalars * Tile::threads;
  static constexpr unsigned stages = 2 * Raw<Step, true>::elements;
  Carve carve;
  unsigned stage = carve.take<typename Step::Scalar>(stages);
  unsigned record = carve.take<A>(records), d_readout = carve.take<A>(values), kept = carve.take<A>(values);
  unsigned readout = carve.take<A>(Step::needs_readout ? values : 0), history = carve.take<A>(histories);
  unsigned partial = carve.take<A>(partials), row = carve.take<A>(row_grads), scalar = carve.take<A>(scalar_grads);
  unsigned total = carve.take<A>(K * Step::grad_scalars), across = carve.take<A>(Tile::threads);
};

template <class Step, class Args>
ELMAN_KERNEL(Step::Tile::threads) forward_kernel(const Args a) {
  using A = Acc<typename Step::Scalar>;
  using Tile = typename Step::Tile;
  constexpr int R = Tile::R, C = Tile::C, M = Tile::M, K = Step::K, stride = Record<Step>::stride;
  constexpr int64_t state = Tile::M * Tile::N;
  const ForwardShared<Step> at;
  auto* stage = shared<typename Step::Scalar>(at.stage, Raw<Step, false>::elements);
  A *record = shared<A>(at.record, at.records), *readout = shared<A>(at.readout, at.readouts);
  const Lane<Step> mine;
  const Team<Step> team;
  const int64_t bh = block_x(), chunks = ceil_div<int64_t>(a.T, K);
  const int thread = (int)thread_x();
  Place place{bh / a.H, 0, bh % a.H, a.T, a.H, false};

  A s[R][C];
  mine.load_state(s, a.s0 + bh * state);
  typename Step::RawScalars raw_scalars{};
  auto fetch_chunk = [&](int64_t chunk) {
    fetch<Step, false>(a, place, chunk, stage);
    place.move_to(chunk * K + thread, thread < K);
    if (place.valid) raw_scalars = Step::load_scalars(a, place);
  };
  fetch_chunk(0);
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    mine.store_state(a.slots + (bh * chunks + chunk) * state, s);
    copy_wait<0>();
    sync_block();
#pragma unroll 1
    for (int slot = team.index; slot < K; slot += team.count) {
      place.move_to(chunk * K + slot, true);
      Step::prepare(a, place, team, stage + slot * Raw<Step, false>::stride, record + slot * stride);
    }
    if (thread < K) Step::prepare_scalars(a, place, raw_scalars, record + thread * stride);
    sync_block();
    if (chunk + 1 < chunks) fetch_chunk(chunk + 1);  // in flight during the steps below
    const int length = (int)min_of<int64_t>(K, a.T - chunk * K);
    Inputs<Step> in, next;
    A q[C], next_q[C];
    mine.inputs(next, next_q, record);
    for (int t = 0; t < length; ++t) {
      in = next;
      copy(q, next_q);
      mine.inputs(next, next_q, record + min_of(t + 1, K - 1) * stride);
      A y[R], kept[R];
      Step::forward(mine, s, in, kept);
#pragma unroll
      for (int r = 0; r < R; ++r) y[r] = mine.dot(s[r], q);
      if (mine.first()) write(readout + t * M + mine.row0, y);
    }
    sync_block();
#pragma unroll 1
    for (int slot = team.index; slot < length; slot += team.count) {
      place.move_to(chunk * K + slot, true);
      for (int e = team.element(0); e < M; e += team.width)
        store(a.y + place.head() * M + e, Step::output(record + slot * stride, e, readout[slot * M + e]));
    }
  }
  mine.store_state(a.s_last + bh * state, s);
}

// The gradient of one record, summed over the lanes that contributed; zero past the end of the sequence.
template <class Step> struct RecordGradient {
  using A = Acc<typename Step::Scalar>;
  using Tile = typename Step::Tile;
  const A *partial, *rows;  // of this step: [warps, 2 N], [grad_rows, M]
  bool valid;
  ELMAN_FN A column(int i) const {
    A sum = 0;
    if (valid)
#pragma unroll 4
      for (int w = 0; w < Tile::warps; ++w) sum += partial[w * 2 * Tile::N + i];
    return sum;
  }
  ELMAN_FN A q(int i) const { return column(i); }
  ELMAN_FN A k(int i) const { return column(Tile::N + i); }
  ELMAN_FN A row(int j, int i) const { return valid ? rows[j * Tile::M + i] : A(0); }
};

template <class Step, class Args>
ELMAN_KERNEL(Step::Tile::threads) backward_kernel(const Args a) {
  using A = Acc<typename Step::Scalar>;
  using Tile = typename Step::Tile;
  using Stage = Raw<Step, true>;
  constexpr int R = Tile::R, C = Tile::C, N = Tile::N, M = Tile::M, K = Step::K, stride = Record<Step>::stride;
  constexpr int threads = Tile::threads, warps = Tile::warps, W = pack_width(R * C);
  constexpr int64_t state = M * N;
  using Shared = BackwardShared<Step>;
  const Shared at;
  const int64_t bh = block_x(), chunks = ceil_div<int64_t>(a.T, K);
  const int thread = (int)thread_x();
  auto* stages = shared<typename Step::Scalar>(at.stage, at.stages);
  A *record = shared<A>(at.record, at.records), *d_readout = shared<A>(at.d_readout, at.values);
  A *kept_rows = shared<A>(at.kept, at.values), *row_grads = shared<A>(at.row, at.row_grads);
  A *scalar_grads = shared<A>(at.scalar, at.scalar_grads), *totals = shared<A>(at.total, K * Step::grad_scalars);
  A *across = shared<A>(at.across, threads), *readout = shared<A>(at.readout, Step::needs_readout ? at.values : 0);
  A* history = Step::global_history ? a.history + bh * K * state : shared<A>(at.history, at.histories);
  A* partial = Step::global_history ? a.partial + bh * K * 16 * 2 * N : shared<A>(at.partial, at.partials);
  const Lane<Step> mine;
  const Team<Step> team;
  Place place{bh / a.H, 0, bh % a.H, a.T, a.H, false};
  typename Step::Sums sums{};
  typename Step::RawScalars raw_scalars{}, next_scalars{};
  auto fetch_chunk = [&](int64_t chunk) {
    fetch<Step, true>(a, place, chunk, stages + chunk % 2 * Stage::elements);
    place.move_to(chunk * K + thread, thread < K);
    if (place.valid) next_scalars = Step::load_scalars(a, place);
  };
  A g[R][C];  // gradient of the state after the step at hand; before that step once it is walked back
  mine.load_state(g, a.d_s_last + bh * state);
  if (chunks > 0) fetch_chunk(chunks - 1);

  for (int64_t chunk = chunks - 1; chunk >= 0; --chunk) {
    const int length = (int)min_of<int64_t>(K, a.T - chunk * K);
    const auto* stage = stages + chunk % 2 * Stage::elements;
    A after[R][C];
    mine.load_state(after, a.slots + (bh * chunks + chunk) * state);
    raw_scalars = next_scalars;
    copy_wait<0>();
    sync_block();
#pragma unroll 1
    for (int slot = team.index; slot < K; slot += team.count) {
      const auto* raw = stage + slot * Stage::stride;
      place.move_to(chunk * K + slot, true);
      Step::prepare(a, place, team, raw, record + slot * stride);
      for (int e = team.element(0); e < M; e += team.width)
        d_readout[slot * M + e] = load(raw + Stage::at(Step::vectors) + e);
    }
    place.move_to(chunk * K + thread, thread < K);
    if (thread < K) Step::prepare_scalars(a, place, raw_scalars, record + thread * stride);
    sync_block();
    if (chunk > 0) fetch_chunk(chunk - 1);  // in flight until the next chunk begins

    // Replay: the state before each step, what the step keeps for its derivative, and the readout where it is needed.
    Inputs<Step> in, next;
    A q[C], next_q[C];
    mine.inputs(next, next_q, record);
    for (int t = 0; t < length; ++t) {
      write(history + (t * R * C * threads + thread * W), reinterpret_cast<const A(&)[R * C]>(after), threads);
      in = next;
      copy(q, next_q);
      mine.inputs(next, next_q, record + min_of(t + 1, K - 1) * stride);
      A kept[R];
      Step::forward(mine, after, in, kept);
      if (mine.first()) write(kept_rows + t * M + mine.row0, kept);
      if constexpr (Step::needs_readout) {
        A y[R];
#pragma unroll
        for (int r = 0; r < R; ++r) y[r] = mine.dot(after[r], q);
        if (mine.first()) write(readout + t * M + mine.row0, y);
      }
    }
    sync_block();

    if constexpr (Step::needs_readout) {
#pragma unroll 1
      for (int slot = team.index; slot < length; slot += team.count) {
        place.move_to(chunk * K + slot, true);
        for (int e = team.element(0); e < M; e += team.width) {
          A& d = d_readout[slot * M + e];
          d = Step::output_backward(a, place, record + slot * stride, e, readout[slot * M + e], d);
        }
      }
      sync_block();
    }

    // Walk back.
    for (int t = length - 1; t >= 0; --t) {
      A before[R][C], kept[R], dy[R], columns[2 * C];
      Inputs<Step> d{};
      read(reinterpret_cast<A(&)[R * C]>(before), history + (t * R * C * threads + thread * W), threads);
      mine.inputs(in, q, record + t * stride);
      read(kept, kept_rows + t * M + mine.row0);
      read(dy, d_readout + t * M + mine.row0);
#pragma unroll
      for (int c = 0; c < C; ++c) columns[c] = 0;
      // dq = S'^T dy,  dS' += dy q^T
#pragma unroll
      for (int r = 0; r < R; ++r)
#pragma unroll
        for (int c = 0; c < C; ++c) {
          columns[c] += after[r][c] * dy[r];
          g[r][c] += dy[r] * q[c];
        }
      Step::backward(mine, before, after, in, kept, g, d);
#pragma unroll
      for (int c = 0; c < C; ++c) columns[C + c] = d.k[c];
      int first = 0;
      bool owner = true;
      scatter_sums<Tile::KG, 2 * C>(columns, first, owner);
      if (owner) {
        A* to = partial + (t * warps + warp()) * 2 * N + mine.col0;
#pragma unroll
        for (int i = 0; i < kept_sums<Tile::KG, 2 * C>(); ++i) to[first + i < C ? first + i : N - C + first + i] = columns[i];
      }
      if (mine.first()) {
#pragma unroll
        for (int j = 0; j < Step::grad_rows; ++j) write(row_grads + (t * Step::grad_rows + j) * M + mine.row0, d.row[j]);
      }
#pragma unroll
      for (int j = 0; j < Step::grad_scalars; ++j) scalar_grads[(t * Step::grad_scalars + j) * threads + thread] = d.scalar[j];
#pragma unroll
      for (int r = 0; r < R; ++r) copy(after[r], before[r]);
    }
    sync_block();

#pragma unroll 1
    for (int slot = team.index; slot < K; slot += team.count) {
      place.move_to(chunk * K + slot, true);
      const RecordGradient<Step> gradient{partial + slot * warps * 2 * N, row_grads + slot * Step::grad_rows * M, place.valid};
      Step::finish(a, place, team, stage + slot * Stage::stride, record + slot * stride, gradient, sums);
#pragma unroll
      for (int j = 0; j < Step::grad_scalars; ++j) {
        A sum = 0;
        if (place.valid)
          for (int i = team.lane_; i < threads; i += team.width) sum += scalar_grads[(slot * Step::grad_scalars + j) * threads + i];
        sum = team.sum(sum);
        if (team.first()) totals[slot * Step::grad_scalars + j] = sum;
      }
    }
    if constexpr (Step::grad_scalars > 0) {
      sync_block();
      place.move_to(chunk * K + thread, thread < K);
      if (place.valid)
        Step::finish_scalars(a, place, raw_scalars, record + thread * stride, totals + thread * Step::grad_scalars, sums);
    }
  }
  mine.store_state(a.d_s0 + bh * state, g);

  // Sum one number of each thread over `count` threads, `step` apart from `from` on, in that order. All threads call it together.
  auto sum_over = [&](A x, int from, int step, int count) {
    sync_block();
    across[thread] = x;
    sync_block();
    A sum = 0;
    for (int i = 0; i < count; ++i) sum += across[from + i * step];
    return sum;
  };
  Step::store_sums(a, place, team, sums, sum_over);
}

// Launch both passes: one block per (batch, head).
template <class Step, class Args> Status forward(const Args& a, const char* name) {
  return launch(forward_kernel<Step, Args>, name, a.B * a.H, Step::Tile::threads, ForwardShared<Step>().carve.bytes, a.stream, a);
}
template <class Step, class Args> Status backward(const Args& a, const char* name) {
  return launch(backward_kernel<Step, Args>, name, a.B * a.H, Step::Tile::threads, BackwardShared<Step>().carve.bytes, a.stream, a);
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
