#pragma once
// The backward pass of <elman/families/matrix_state.cuh>.
#include <elman/families/matrix_state/columns.cuh>

namespace elman::matrix_state {

// Shared memory, in accumulators; a chunk's arrays have `items` places.
template <class Step> struct BackwardShared {
  using A = Acc<typename Step::Scalar>;
  using Plan = matrix_state::Plan<Step, true>;
  using Tile = typename Plan::Tile;
  // A plan that reads ahead reads one step more than a chunk has, at either end, and never uses it.
  static constexpr unsigned stride = Record<Step>::stride + Plan::turned * Record<Step>::vectors * Step::N;
  static constexpr unsigned record_step = Plan::heads * stride, value_step = Plan::heads * Step::M;
  static constexpr unsigned history_step = Tile::R * Tile::C * Plan::consumers;
  static constexpr unsigned items = Plan::items, steps = Step::K + Plan::ahead;
  static constexpr unsigned values = steps * value_step, records = steps * record_step;
  // States: before each step, and after the last one unless it stays in registers; none that forward has kept.
  static constexpr unsigned places = keeps_every<Step>() ? 0 : Step::K + !Plan::joint;
  static constexpr unsigned stage = Plan::staged ? Tile::R * Tile::C * Plan::consumers : 0;  // a slot, by thread
  static constexpr unsigned partials = Step::global_history ? 0 : items * Tile::warps * Record<Step>::vectors * Tile::N;
  // Scalar gradients: one for so many lanes; for more where registers are few, or where who reads them holds the others up.
  static constexpr unsigned fold = Tile::lanes > 256 || Step::spread ? 8 : 2;
  static constexpr unsigned lines = Tile::lanes / fold, line = lines + 4;
  static constexpr unsigned rows = items * Step::M * Step::rows, scalars = items * Step::grad_scalars * line;
  // A chunk's states are in global memory where Step says so, unless there is room beside the rest and one block fills a multiprocessor's registers.
  static constexpr unsigned rest = 4 * records + record_step + 5 * values + 2 * (rows + scalars) + Plan::producers + stage;
  static constexpr bool far = Step::global_history && (Tile::N * Tile::M < 3000 || (rest + places * history_step) * sizeof(A) > 226 * 1024);
  static constexpr unsigned histories = far ? 0 : places * history_step;
  Carve carve;
  unsigned record = carve.take<A>(4 * records + record_step), d_readout = carve.take<A>(3 * values);
  unsigned kept = carve.take<A>(keeps_every<Step>() ? 0 : 2 * values);
  unsigned history = carve.take<A>(histories), partial = carve.take<A>(2 * partials), row = carve.take<A>(2 * rows);
  unsigned scalar = carve.take<A>(2 * scalars), sum = carve.take<A>(Plan::producers);
  unsigned staged = carve.take<A>(stage);
};

template <class Step, class Args>
ELMAN_KERNEL((Plan<Step, true>::threads)) backward_kernel(const Args a) {
  using A = Acc<typename Step::Scalar>;
  using Plan = matrix_state::Plan<Step, true>;
  using Tile = typename Plan::Tile;
  using Lane = matrix_state::Lane<Step, Plan>;
  using Shared = BackwardShared<Step>;
  constexpr int R = Tile::R, C = Tile::C, N = Tile::N, M = Tile::M, EM = Step::EM, K = Step::K, stride = Shared::stride;
  constexpr bool every = keeps_every<Step>();
  constexpr int heads = Plan::heads, warps = Tile::warps, W = pack_width<A>(R * C), vectors = Record<Step>::vectors;
  constexpr int64_t state = M * N;
  using Flat = A[R * C];
  static_assert(!Step::global_history || heads == 1);
  const Shared at;
  const int T = (int)a.T, H = (int)a.H, all = (int)a.B * H, bh0 = (int)block_x() * heads, chunks = ceil_div(T, K);
  const int thread = (int)thread_x(), helper = Plan::split ? thread - Plan::consumers : thread;
  const int producer = max_of(Plan::apart && helper >= Plan::producers ? helper - Plan::producers : helper, 0);
  const bool prepares = helper >= 0 && (!Plan::apart || helper < Plan::producers);
  const bool finishes = helper >= (Plan::apart ? Plan::producers : 0);
  A* records = shared<A>(at.record, 4 * at.records + at.record_step) + Plan::ahead * at.record_step;
  A* d_readouts = shared<A>(at.d_readout, 3 * at.values) + Plan::ahead * at.value_step;
  A* kept_rows = shared<A>(at.kept, every ? 0 : 2 * at.values) + Plan::ahead * at.value_step;
  A *row_grads = shared<A>(at.row, 2 * at.rows), *scalar_grads = shared<A>(at.scalar, 2 * at.scalars);
  A* histories = Shared::far ? a.history + (int64_t)bh0 * (K + 1) * state : shared<A>(at.history, at.histories);
  constexpr int partial_chunk = Step::global_history ? K * 16 * vectors * N : (int)Shared::partials;
  constexpr int partial_item = (Step::global_history ? 16 : warps) * vectors * N;
  A* partials = Step::global_history ? a.partial + (int64_t)bh0 * 2 * partial_chunk : shared<A>(at.partial, 2 * at.partials);

  const typename Step::Team team(producer);
  const int item0 = team.index % heads;
  Place place(bh0 + item0, all, T, H), numbers(bh0 + producer % heads, all, T, H);
  typename Step::Sums sums{};
  typename Step::Raw raw[Plan::passes];  // of the chunk to prepare, read a stage early
  typename Step::RawScalars raw_scalars;
  Slice<typename Step::Scalar, EM> d_y[Plan::passes];
  auto slot_of = [&](int pass) { return team.index / heads + pass * (Plan::teams / heads); };
  auto recall = [&](int chunk, auto& vectors, auto& scalars) {
#pragma unroll
    for (int p = 0; p < Plan::passes; ++p) {
      place.move_to(chunk * K + slot_of(p));
      vectors[p] = Step::load(a, place, team);
    }
    numbers.move_to(chunk * K + producer / heads);
    if (producer < Plan::items) scalars = Step::load_scalars(a, numbers);
  };
  auto fetch = [&](int chunk) {
    if (chunk < 0) return;
    recall(chunk, raw, raw_scalars);
#pragma unroll
    for (int p = 0; p < Plan::passes; ++p) {
      place.move_to(chunk * K + slot_of(p));
      d_y[p] = read_slice<EM>(team.template part<EM>(place, a.d_y));
    }
  };
  auto prepare = [&](int stage) {
    const int chunk = chunks - 1 - stage;
    if (chunk < 0) return;
    A* record = records + (stage & 3) * at.records;
    A* d_readout = d_readouts + (unsigned)stage % 3 * at.values;
    if (!Plan::split) fetch(chunk);
#pragma unroll
    for (int p = 0; p < Plan::passes; ++p) {
      if (!Plan::even && slot_of(p) >= K) continue;
      const int item = slot_of(p) * heads + item0;
      place.move_to(chunk * K + slot_of(p));
      Step::prepare(a, place, team, raw[p], record + item * stride);
      if constexpr (Plan::turned) turn_columns<Step, C>(team, record + item * stride);
      A d[EM];
#pragma unroll
      for (int j = 0; j < EM; ++j) d[j] = d_y[p][j];
      if constexpr (Step::needs_readout)
        if (place.valid) {
          A y[EM];
          read(y, team.template part<EM>(place, a.readout));
          Step::output_backward(a, place, team, y, d);
        }
      team.put(d_readout + item * M, d);
    }
    numbers.move_to(chunk * K + producer / heads);
    if (producer < Plan::items) Step::prepare_scalars(a, numbers, raw_scalars, record + producer * stride);
    if (Plan::split) fetch(chunk - 1);  // in flight over the barrier
  };
  auto finish = [&](int stage) {
    const int chunk = chunks + 2 - stage;
    if (chunk >= chunks) return;
    const unsigned half = (stage - 3) & 1;
    const A *record = records + ((stage - 3) & 3) * at.records, *partial = partials + half * partial_chunk;
    const A *row = row_grads + half * at.rows, *scalar = scalar_grads + half * at.scalars;
    typename Step::Raw again[Plan::passes];
    typename Step::RawScalars again_scalars;
    recall(chunk, again, again_scalars);
#pragma unroll
    for (int p = 0; p < Plan::passes; ++p) {
      if (!Plan::even && slot_of(p) >= K) continue;
      const int item = slot_of(p) * heads + item0;
      place.move_to(chunk * K + slot_of(p));
      const RecordGradient<Step> gradient{partial + item * partial_item, row + item * Step::rows * M};
      Step::finish(a, place, team, again[p], record + item * stride, gradient, sums);
    }
    numbers.move_to(chunk * K + producer / heads);
    if (Step::grad_scalars > 0 && numbers.valid && producer < Plan::items) {
      A total[max_of(Step::grad_scalars, 1)];
#pragma unroll
      for (int j = 0; j < Step::grad_scalars; ++j) {
        const A* from = scalar + (j * Plan::items + producer) * at.line;
        A four[4];
        read(four, from);
#pragma unroll
        for (unsigned i = 4; i < at.lines; i += 4) {
          A more[4];
          read(more, from + i);
          for (int l = 0; l < 4; ++l) four[l] += more[l];
        }
        total[j] = (four[0] + four[1]) + (four[2] + four[3]);
      }
      Step::finish_scalars(a, numbers, again_scalars, record + producer * stride, total, sums);
    }
  };

  const Lane mine(thread);
  const int own = bh0 + mine.head, bh = Tile::shared ? min_of(own, all - 1) : own;  // as in the forward pass
  using Pair = Columns<A, Tile, Plan::turned>;
  using Single = Columns<A, Tile, Plan::turned, 1>;
  bool owner, owner_single;
  const int warp0 = mine.head * partial_item + thread % Tile::lanes / 32 * vectors * N;
  const int partial0 = warp0 + Pair::place(mine.col0 + mine.half, owner);
  const int single0 = warp0 + 2 * N + Single::place(mine.col0 + mine.half, owner_single) - partial0;  // the first further column
  // The state while a chunk is replayed; the state after the step that is walked back; the gradient of that, or of the one before it after.
  A s[R][C] = {}, after[R][C] = {}, g[R][C];
  const A* slot = a.slots + ((int64_t)bh * chunks + chunks - 1) * state + mine.row0 * N + mine.col0;  // of the chunk to replay
  // The next chunk's slot is on its way while a chunk is replayed: not in registers, where it would hold one of a warp's six
  // scoreboards, on which other waits then wait too, but in shared memory, or in the L2 cache where its rows are not whole words.
  A* staged = shared<A>(at.staged, at.stage) + thread * C;
  auto fetch_slot = [&] {
#pragma unroll
    for (int r = 0; r < R; ++r)
      if constexpr (Plan::staged) copy16_async(staged + r * C * Plan::consumers, slot - state + r * N);
      else prefetch(slot - state + r * N);
    if (Plan::staged) copy_commit();
  };
  auto load_slot = [&] {
#pragma unroll
    for (int r = 0; r < R; ++r) mine.load_columns(s[r], slot + r * N);
  };
  auto take_slot = [&] {
    slot -= state;
    if (Plan::staged) copy_wait<0>();
#pragma unroll
    for (int r = 0; r < R; ++r) mine.load_columns(s[r], Plan::staged ? staged + r * C * Plan::consumers : slot + r * N);
  };

  // Step::every: the state before a step, from the end of the sequence on the last one; and what that step kept.
  auto state_at = [&](int t) { return t < T ? a.slots + ((int64_t)bh * T + t) * state : a.s_last + (int64_t)bh * state; };
  auto kept_at = [&](int t) { return mine.rows_at(bh, max_of(min_of(t, T - 1), 0), T, H); };

  // In stage n a consumer replays chunk n - 1, counted from the last, and walks chunk n - 2 back; in the first and last such stage one of the
  // two works on nothing, and its results are never used. A chunk that the sequence's end cuts short is replayed beyond, and walked back from
  // there with a gradient that is replaced at the last step.
  auto consume = [&](int stage) {
    const int replayed = stage - 1, walked = stage - 2;
    const unsigned half = stage & 1, turn3 = (unsigned)(stage + 1) % 3;
    if (replayed < 0 || replayed > chunks || bh >= all) return;
    const int beyond = walked == 0 ? chunks * K - T : 0, head_row = mine.head * M + mine.row0;
    const bool more = replayed + 1 < chunks;
    int t_state = (chunks - walked) * K, t_kept = t_state;  // the step after the chunk that is walked back
    if (!every && more) fetch_slot();
    if (every)
      for (int t = max_of(t_state - 2 * K, 0); t < min_of(t_state - K, T); ++t)
        for (int r = 0; r < R; ++r) prefetch(state_at(t) + (mine.row0 + r) * N + mine.col0);

    // Replay: the state before each step, and what the step keeps for its derivative. The pointers move along. A joint stage
    // stores states where the walk has just read one, so that their order turns around from chunk to chunk.
    const A* record = records + (replayed & 3) * at.records + mine.head * stride;
    A* kept_row = kept_rows + (1 - half) * at.values + head_row;
    const bool up = !Plan::joint || !half;
    const int turn = up ? (int)at.history_step : -(int)at.history_step;
    A* history = histories + thread * W + (up ? 0 : (K - 1) * at.history_step);
    typename Lane::Inputs next;
    auto replay = [&] {
      write(history, reinterpret_cast<const Flat&>(s), Plan::consumers);
      if (!Plan::ahead) mine.inputs(next, record);
      const typename Lane::Inputs in = next;
      record += at.record_step;
      if (Plan::ahead) mine.inputs(next, record);
      A kept[R];
      Step::forward(mine, s, in, kept);
      if (mine.first()) write(kept_row, kept);
      history += turn;
      kept_row += at.value_step;
    };

    // Walk back, and the pointers with it.
    const A* record_w = records + (walked & 3) * at.records + mine.head * stride + K * at.record_step;
    const A* kept_w = kept_rows + half * at.values + head_row + K * at.value_step;
    const A* d_readout = d_readouts + turn3 * at.values + head_row + K * at.value_step;
    A before[R][C], coming[R][C];
    const A* history_w = histories + thread * W + (K - 1) * at.history_step;  // unless joint
    // The state before the next step to walk back: joint, from where `replay` goes on, once the present step needs a state less.
    auto load_before = [&](A (&to)[R][C], bool last) {
      if constexpr (every) return mine.load_state(to, state_at(t_state));
      const A* from = !Plan::joint ? history_w : last ? history - turn : history;
      read(reinterpret_cast<Flat&>(to), from, Plan::consumers);
    };
    A* partial = partials + half * partial_chunk + K * heads * partial_item + partial0;
    A* row = row_grads + half * at.rows + (K * heads + mine.head) * Step::rows * M + mine.row0;
    A* scalar = scalar_grads + half * at.scalars + (K * heads + mine.head) * at.line + thread % Tile::lanes / (int)at.fold;
    typename Lane::Inputs next_w;
    A next_q[C], next_kept[R], next_dy[R];
    auto load_walk = [&] {
      record_w -= at.record_step;
      kept_w -= at.value_step;
      d_readout -= at.value_step;
      mine.inputs(next_w, next_q, record_w);
      if constexpr (every) read(next_kept, a.kept + kept_at(--t_kept));
      else read(next_kept, kept_w);
      read(next_dy, d_readout);
    };
    auto walk = [&](bool last, auto&& beside) {
      if (!Plan::ahead) {
        load_walk();
        load_before(before, false);
      }
      typename Lane::Inputs in = next_w;
      Gradients<Step, Plan> d;
      A q[C], kept[R], dy[R];
      copy(q, next_q);
      copy(kept, next_kept);
      copy(dy, next_dy);
      history_w -= last ? 0 : at.history_step;
      t_state -= last ? 0 : 1;
      if (Plan::ahead) load_walk();
      if (Plan::ahead && !Plan::joint) load_before(coming, last);
      beside();
      // dq = S'^T dy,  dS' += dy q^T
      d.columns.query(after, dy);
#pragma unroll
      for (int r = 0; r < R; ++r)
#pragma unroll
        for (int c = 0; c < C; ++c) g[r][c] += dy[r] * q[c];
      if constexpr (has_slope<Step, A, R, C>) Step::slope(after, g);
      else Step::backward(mine, before, after, in, kept, g, d);
      if (Plan::joint) load_before(coming, last);
#pragma unroll
      for (int r = 0; r < R; ++r) {
        copy(after[r], before[r]);
        if (Plan::ahead) copy(before[r], coming[r]);
      }
      if constexpr (has_slope<Step, A, R, C>) Step::backward(mine, after, in, kept, g, d);
      partial -= heads * partial_item;
      row -= heads * Step::rows * M;
      scalar -= heads * at.line;
      d.columns.store(partial, owner);
      if constexpr (vectors > 2) {
#pragma unroll
        for (int j = 0; j < vectors - 2; ++j) d.column[j].store(partial + single0 + j * N, owner_single);
      }
      if (mine.first()) {
#pragma unroll
        for (int j = 0; j < Step::rows; ++j) write(row + j * M, d.row[j]);
      }
#pragma unroll
      for (int j = 0; j < Step::grad_scalars; ++j) {
        const A sum = warp_sum<Shared::fold>(d.scalar[j]);
        if (thread % at.fold == 0) scalar[j * Plan::items * at.line] = sum;
      }
    };

    if (every) mine.load_state(after, state_at(t_state--));
    if (Plan::joint) mine.inputs(next, record);
    if (Plan::ahead) {
      load_walk();
      load_before(before, false);
    }
    if (!Plan::joint && !every) read(reinterpret_cast<Flat&>(after), histories + thread * W + K * at.history_step, Plan::consumers);
    auto beside = [&] {
      if (Plan::joint) replay();
    };
    auto start = [&] { mine.load_state(g, a.d_s_last + (int64_t)bh * state); };
    if (beyond > 0) {
#pragma unroll 1
      for (int i = 0; i < K; ++i) {
        if (i == beyond) start();
        walk(i == K - 1, beside);
      }
    } else {
      if (walked == 0) start();
#pragma unroll(Plan::unrolled)
      for (int i = 0; i < K; ++i) walk(i == K - 1, beside);
    }
    if constexpr (every) return;
    if (!Plan::joint) {
      load_slot();
      if (more) slot -= state;
      if (Plan::ahead) mine.inputs(next, record);
#pragma unroll(Plan::ahead ? 2 : 1)
      for (int t = 0; t < K; ++t) replay();
      write(history, reinterpret_cast<const Flat&>(s), Plan::consumers);
    } else {
#pragma unroll
      for (int r = 0; r < R; ++r) copy(after[r], s[r]);
      if (more) take_slot();
    }
  };
  auto begin = [&] {
    if (bh >= all) return;
    mine.load_state(g, a.d_s_last + (int64_t)bh * state);  // all there is to do for T = 0
    if (Plan::joint && chunks > 0) load_slot();
  };
  auto end = [&] {
    if (own < all) mine.store_state(a.d_s0 + (int64_t)bh * state, g);
  };

  const int stages = chunks > 0 ? chunks + 3 : 0;
  if constexpr (!Plan::split) {
    begin();
    for (int stage = 0; stage < stages; ++stage) {
      prepare(stage);
      finish(stage);
      consume(stage);
      Plan::end_stage();
    }
    end();
  } else if (thread < Plan::consumers) {
    begin();
    for (int stage = 0; stage < stages; ++stage) {
      consume(stage);
      Plan::end_stage();
    }
    end();
  } else if (prepares && finishes) {
    fetch(chunks - 1);
    for (int stage = 0; stage < stages; ++stage) {
      prepare(stage);
      finish(stage);
      Plan::end_stage();
    }
  } else if (prepares) {
    fetch(chunks - 1);
    for (int stage = 0; stage < stages; ++stage) {
      prepare(stage);
      Plan::end_stage();
    }
  } else {
    for (int stage = 0; stage < stages; ++stage) {
      finish(stage);
      Plan::end_stage();
    }
  }

  // Sum one number of each producer over `count` of them, `step` apart from `from` on, in that order. All threads call it together.
  A* summands = shared<A>(at.sum, Plan::producers);
  auto sum_over = [&](A x, int from, int step, int count) {
    sync_block();
    if (finishes) summands[producer] = x;
    sync_block();
    A sum = 0;
    if (finishes)
      for (int i = 0; i < count; ++i) sum += summands[from + i * step];
    return sum;
  };
  Step::template store_sums<Plan>(a, finishes ? producer : -1, bh0, sums, sum_over);
}
}  // namespace elman::matrix_state
