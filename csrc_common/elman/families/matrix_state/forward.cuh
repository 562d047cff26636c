#pragma once
// The forward pass of <elman/families/matrix_state.cuh>.
#include <elman/families/matrix_state/tile.cuh>

namespace elman::matrix_state {

// Partial readouts are summed by the producers: over as many lanes of a row as this, at this distance (no bank conflicts).
template <class Tile> struct Readouts {
  static constexpr int parts = Tile::lanes > 256 ? 1 : min_of(Tile::KG, 4), unit = max_of(32 / parts, 4);
  static constexpr int stride = parts == 1 ? Tile::M : (ceil_div(Tile::M, unit) | 1) * unit;
};

// Shared memory, in accumulators; a chunk's arrays have `items` places.
template <class Step> struct ForwardShared {
  using A = Acc<typename Step::Scalar>;
  using Plan = matrix_state::Plan<Step, false>;
  using Parts = Readouts<typename Plan::Tile>;
  // A plan that reads ahead reads one step more than a chunk has, and never uses it.
  static constexpr unsigned records = (Plan::items + Plan::ahead * Plan::heads) * Record<Step>::stride;
  static constexpr unsigned readouts = Plan::items * Parts::parts * Parts::stride;
  Carve carve;
  unsigned record = carve.take<A>(2 * records), readout = carve.take<A>(2 * readouts);
};

template <class Step, class Args>
ELMAN_KERNEL((Plan<Step, false>::threads)) forward_kernel(const Args a) {
  using A = Acc<typename Step::Scalar>;
  using Plan = matrix_state::Plan<Step, false>;
  using Tile = typename Plan::Tile;
  using Lane = matrix_state::Lane<Step, Plan>;
  using Parts = Readouts<Tile>;
  constexpr int R = Tile::R, C = Tile::C, M = Tile::M, EM = Step::EM, K = Step::K, stride = Record<Step>::stride;
  constexpr int heads = Plan::heads;
  constexpr bool every = keeps_every<Step>();
  constexpr int64_t state = M * Tile::N;
  const ForwardShared<Step> at;
  A *records = shared<A>(at.record, 2 * at.records), *readouts = shared<A>(at.readout, 2 * at.readouts);
  const int T = (int)a.T, H = (int)a.H, all = (int)a.B * H, bh0 = (int)block_x() * heads, chunks = ceil_div(T, Plan::chunk);
  const int thread = (int)thread_x(), producer = max_of(Plan::split ? thread - Plan::consumers : thread, 0);

  const typename Step::Team team(producer);
  const int item0 = team.index % heads;
  Place place(bh0 + item0, all, T, H), numbers(bh0 + producer % heads, all, T, H);
  typename Step::Raw raw[Plan::passes];
  typename Step::RawScalars raw_scalars;
  auto slot_of = [&](int pass) { return team.index / heads + pass * (Plan::teams / heads); };
  auto fetch = [&](int chunk) {
#pragma unroll
    for (int p = 0; p < Plan::passes; ++p) {
      place.move_to(chunk * Plan::chunk + slot_of(p));
      raw[p] = Step::load(a, place, team);
    }
    numbers.move_to(chunk * Plan::chunk + producer / heads);
    if (producer < Plan::items) raw_scalars = Step::load_scalars(a, numbers);
  };
  auto produce = [&](int stage) {
    if (stage < chunks) {
      A* record = records + stage % 2 * at.records;
      if (!Plan::split) fetch(stage);
#pragma unroll
      for (int p = 0; p < Plan::passes; ++p)
        if (Plan::even || slot_of(p) < Plan::chunk) {
          place.move_to(stage * Plan::chunk + slot_of(p));
          Step::prepare(a, place, team, raw[p], record + (slot_of(p) * heads + item0) * stride);
        }
      numbers.move_to(stage * Plan::chunk + producer / heads);
      if (producer < Plan::items) Step::prepare_scalars(a, numbers, raw_scalars, record + producer * stride);
      if (Plan::split && stage + 1 < chunks) fetch(stage + 1);  // in flight over the barrier
    }
    if (stage < 2) return;
    const A* readout = readouts + stage % 2 * at.readouts;
#pragma unroll
    for (int p = 0; p < Plan::passes; ++p) {
      if (!Plan::even && slot_of(p) >= Plan::chunk) continue;
      place.move_to((stage - 2) * Plan::chunk + slot_of(p));
      const A* part = readout + (slot_of(p) * heads + item0) * Parts::parts * Parts::stride;
      A y[EM];
      team.get(y, part);
#pragma unroll
      for (int i = 1; i < Parts::parts; ++i) {
        A more[EM];
        team.get(more, part + i * Parts::stride);
#pragma unroll
        for (int j = 0; j < EM; ++j) y[j] += more[j];
      }
      if (!place.valid) continue;
      if constexpr (Step::needs_readout) write(team.template part<EM>(place, a.readout), y);
      Step::output(a, place, team, y);
      write_slice(team.template part<EM>(place, a.y), y);
    }
  };

  // Where states share a warp, lanes past the last state repeat that one, since all shuffle together, and store nothing.
  const Lane mine(thread);
  const int own = bh0 + mine.head, bh = Tile::shared ? min_of(own, all - 1) : own;
  const bool stores = !Tile::shared || own < all;
  A* slot = a.slots + (int64_t)bh * (every ? T : ceil_div(T, K)) * state;
  A s[R][C];
  auto consume = [&](int chunk) {
    if (chunk < 0 || chunk >= chunks || bh >= all) return;
    const A* record = records + chunk % 2 * at.records + mine.head * stride;
    A* readout = readouts + chunk % 2 * at.readouts + (mine.head * Parts::parts + mine.key) * Parts::stride + mine.row0;
    const int length = min_of(Plan::chunk, T - chunk * Plan::chunk);
    typename Lane::Inputs in, next;
    A q[C], next_q[C];
    if (Plan::ahead) mine.inputs(next, next_q, record);
#pragma unroll(Plan::ahead ? 8 : 1)
    for (int t = 0; t < length; ++t) {
      if (every || t % K == 0) {
        if (stores) mine.store_state(slot, s);
        slot += state;
      }
      if (!Plan::ahead) mine.inputs(next, next_q, record + t * heads * stride);
      in = next;
      copy(q, next_q);
      if (Plan::ahead) mine.inputs(next, next_q, record + (t + 1) * heads * stride);
      A y[R], kept[R];
      Step::forward(mine, s, in, kept);
      if constexpr (every) {
        if (mine.first() && stores) write(a.kept + mine.rows_at(bh, chunk * Plan::chunk + t, T, H), kept);
      }
      mine.part(y, s, q);
      mine.template row_sums<Tile::KG, Parts::parts>(y);
      if (Parts::parts == Tile::KG || mine.key < Parts::parts) write(readout + t * heads * Parts::parts * Parts::stride, y);
    }
  };
  auto begin = [&] {
    if (bh < all) mine.load_state(s, a.s0 + (int64_t)bh * state);
  };
  auto end = [&] {
    if (bh < all && stores) mine.store_state(a.s_last + (int64_t)bh * state, s);
  };

  if constexpr (!Plan::split) {
    begin();
    for (int stage = 0; stage < chunks + 2; ++stage) {
      produce(stage);
      consume(stage - 1);
      Plan::end_stage();
    }
    end();
  } else if (thread < Plan::consumers) {
    begin();
    for (int stage = 0; stage < chunks + 2; ++stage) {
      consume(stage - 1);
      Plan::end_stage();
    }
    end();
  } else {
    fetch(0);
    for (int stage = 0; stage < chunks + 2; ++stage) {
      produce(stage);
      Plan::end_stage();
    }
  }
}
}  // namespace elman::matrix_state
