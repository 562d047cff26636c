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
// A variant supplies `Step` (members below, all static) and args with: B, T, H, s0, y, s_last, slots, and in Backward d_y, d_s_last,
// d_s0, history and partial (both null unless Step::global_history).
//   Scalar, Tile, K      storage type; Tile<N, M>; steps in a chunk
//   vectors, length, source   raw vectors of a step: their number, their lengths (multiples of 8), and where each begins
//   rows, scalars        vectors of length M and numbers in a record besides q and k; the first grad_rows and grad_scalars of
//                        them reach `forward` and get a gradient
//   needs_readout        output_backward reads y
//   prepare, prepare_scalars   the vectors of a record, by a team; its scalars, by one thread for each step of a chunk
//   forward, backward    one lane's part of the step, and its derivative
//   output, output_backward   what follows the readout, for one element, and its derivative
//   RawScalars, load_scalars  the raw numbers of one step, and reading them
//   Sums, finish, finish_scalars, store_sums  gradients of the raw inputs from those of the record; sums over time, and their store
#include <elman/families/matrix_state/tile.cuh>

namespace elman::matrix_state {

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
  static constexpr unsigned lines = Tile::threads / Tile::KG;  // groups of lanes that share rows
  static constexpr unsigned row_grads = values * Step::grad_rows, scalar_grads = K * Step::grad_scalars * lines;
  static constexpr unsigned stages = 2 * Raw<Step, true>::elements;
  Carve carve;
  unsigned stage = carve.take<typename Step::Scalar>(stages);
  unsigned record = carve.take<A>(records), d_readout = carve.take<A>(values), kept = carve.take<A>(values);
  unsigned readout = carve.take<A>(Step::needs_readout ? values : 0), history = carve.take<A>(histories);
  unsigned partial = carve.take<A>(partials), row = carve.take<A>(row_grads), scalar = carve.take<A>(scalar_grads);
  unsigned total = carve.take<A>(K * Step::grad_scalars);
  static_assert(records >= Tile::threads, "the records' place serves for the last sums over threads");
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
  constexpr int threads = Tile::threads, lines = threads / Tile::KG, warps = Tile::warps, W = pack_width(R * C);
  constexpr int64_t state = M * N;
  using Shared = BackwardShared<Step>;
  const Shared at;
  const int64_t bh = block_x(), chunks = ceil_div<int64_t>(a.T, K);
  const int thread = (int)thread_x();
  auto* stages = shared<typename Step::Scalar>(at.stage, at.stages);
  A *record = shared<A>(at.record, at.records), *d_readout = shared<A>(at.d_readout, at.values);
  A *kept_rows = shared<A>(at.kept, at.values), *row_grads = shared<A>(at.row, at.row_grads);
  A *scalar_grads = shared<A>(at.scalar, at.scalar_grads), *totals = shared<A>(at.total, K * Step::grad_scalars);
  A* readout = shared<A>(at.readout, Step::needs_readout ? at.values : 0);
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
      for (int j = 0; j < Step::grad_scalars; ++j) {
        const A sum = mine.row_sum(d.scalar[j]);
        if (mine.first()) scalar_grads[(t * Step::grad_scalars + j) * lines + thread / Tile::KG] = sum;
      }
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
          for (int i = team.lane_; i < lines; i += team.width) sum += scalar_grads[(slot * Step::grad_scalars + j) * lines + i];
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
    record[thread] = x;
    sync_block();
    A sum = 0;
    for (int i = 0; i < count; ++i) sum += record[from + i * step];
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
}  // namespace elman::matrix_state
