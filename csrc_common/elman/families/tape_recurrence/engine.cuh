#pragma once
// The engine of recurrences with a tape: one cooperative launch runs a pass whose steps have a dense product of the state and then sums over all
// channels of a row, `values` of them (scores of slots), which the next state needs.
// * Batch, matrix, groups of blocks and turns are divided as in dense_recurrence/engine.cuh, whose Phase has the addresses here. A step is
//     multiply   the operands of all blocks -> this block's sums of the product;
//     share      what the block's channels add to the row's values -> the other blocks;
//     gather     what all blocks share -> the row's values; from them the block makes its channels' next operand and publishes it.
//   The forward pass begins with multiply, the backward pass with share. So a step waits twice for the other blocks, and for each wait a word of
//   the exchange is its own ready flag (exchange.cuh): operands in the compute dtype, shared values in Acc<S>, each in a ring of slots.
// * Partial sums of a step: [tile of the batch][value][block][8 rows], so that the lanes of a warp take the blocks of a value side by side.
//   Values are summed in a fixed order: two runs are equal bit by bit.
// * Use of a slot again: a block publishes partial sums after the barrier behind which all of it has read the operands, and operands after
//   the barrier behind which it has read the partial sums. So behind the barrier of gather the operands of the step before have been
//   read by all, and behind that of multiply the partial sums of the gather before: there their owners erase them. Fences, and the length of
//   the ring, are as in dense_recurrence/engine.cuh: one thread publishes, erases and another looks at a word's place in all slots.
// * A thread that owns two channels of a row (`owner`, true for whole warps) has their part of the tape in shared memory, TAPES of them.
#include <elman/families/dense_recurrence/engine.cuh>

namespace elman::tape {
using namespace dense;

inline constexpr int lanes = 8;  // that have the channels of a row of a tile: they share the row's slots out, too

// What a thread publishes of its channels, OUT values each; the product's own phases do the rest here.
template <int OUT> struct Operand {
  struct Input {};
  using Work = Input;
  using Carry = Input;
  static constexpr int outputs = OUT;
  static constexpr bool partial = false;
};

template <class S, class C, class P, class Carry, int VALUES, int TAPES> struct TapeLayout {
  using A = Acc<S>;
  static_assert(C::WARPS >= 2 * P::tiles && C::RING >= 8 && (C::RING & (C::RING - 1)) == 0);
  static constexpr unsigned owners = 64 * P::tiles;
  static constexpr unsigned kept_size = C::WARPS * P::own_chunks * P::shared * 2 * 32, parts_size = part_of<C, P>;
  static constexpr unsigned sums_size = P::tiles * VALUES * rows, totals_size = 2 * VALUES * rows;
  static constexpr unsigned tape_size = TAPES * C::TURNS * C::N * owners, carry_size = C::TURNS > 1 ? C::TURNS * owners : 0;
  Carve carve;
  unsigned kept, parts, sums, totals, tapes, carries;
  ELMAN_BOTH TapeLayout()
      : kept(carve.take<Eight<S>>(kept_size)),
        parts(carve.take<A>(parts_size)),
        sums(carve.take<A>(sums_size)),
        totals(carve.take<A>(totals_size)),
        tapes(carve.take<Pair<A>>(tape_size)),
        carries(carve.take<Carry>(carry_size)) {}
};

// The sum of each of 8 values over 8 neighbouring lanes; lane l of them gets that of x[l].
template <class A> ELMAN_FN A scattered_sum(A (&x)[lanes]) {
#pragma unroll
  for (int half = lanes / 2; half > 0; half /= 2) {
    const bool upper = lane() & half;
#pragma unroll
    for (int i = 0; i < half; ++i) {
      const A keep = upper ? x[i + half] : x[i], send = upper ? x[i] : x[i + half];
      x[i] = keep + shfl_xor(send, half);
    }
  }
  return x[0];
}

// A row's slots shared out to its 8 lanes: lane l has slots l, l + 8, ...
template <class A, int N> struct Slots {
  static constexpr int count = (N + lanes - 1) / lanes;
  A own[count];

  static ELMAN_FN int slot(int j) { return j * lanes + (int)lane() % lanes; }
  static ELMAN_FN bool present(int j) { return N % lanes == 0 || slot(j) < N; }
  // Slot n's number, on every lane of the row.
  ELMAN_FN A at(int n) const { return shfl(own[n / lanes], (int)lane() / lanes * lanes + n % lanes); }
  ELMAN_FN A sum() const {
    A s = own[0];
#pragma unroll
    for (int j = 1; j < count; ++j) s += own[j];
    return warp_sum<lanes>(s);
  }
  template <class From> ELMAN_FN void fill(From from) {
#pragma unroll
    for (int j = 0; j < count; ++j) own[j] = present(j) ? from(slot(j), j) : A(0);
  }
  ELMAN_FN void softmax() {
    A most = own[0];
#pragma unroll
    for (int j = 1; j < count; ++j)
      if (present(j)) most = max_of(most, own[j]);
    if (!present(0)) most = A(-3e38);
    most = warp_max<lanes>(most);
#pragma unroll
    for (int j = 0; j < count; ++j) own[j] = present(j) ? exp_of(own[j] - most) : A(0);
    const A share = 1 / sum();
#pragma unroll
    for (int j = 0; j < count; ++j) own[j] *= share;
  }
};

template <class S, class C, class Carry, int OUT, bool transposed> struct Engine {
  using A = Acc<S>;
  static constexpr int N = C::N, values = transposed ? 2 * N : 2 * N + 1, tapes = transposed ? 2 : 1;
  using P = Product<C::CHUNKS, C::TILES, C::SHARED, transposed ? 1 : 2, transposed ? 2 : 1, C::WHOLE>;
  using At = TapeLayout<S, C, P, Carry, values, tapes>;
  const At layout;
  Phase<S, C, P, transposed, Operand<OUT>> phase;
  const int steps, blocks, block;
  A* const partials;
  A *const sums, *const totals;
  Pair<A>* const tape;
  Carry own{};
  Carry* const carries;
  int64_t slot_size, from;
  unsigned since;

  // `steps` of them; the ring's words are absent at first. `operand` is outside, since an object that knows its own address stays in memory.
  ELMAN_FN Engine(const Operand<OUT>& operand, const S* W, S* exchange, A* partials, Division split, int B, int D, int steps)
      : phase(operand, Matrix<S>{W, D, transposed ? 2 * D : D}, shared<Eight<S>>(layout.kept, At::kept_size), shared<A>(layout.parts, At::parts_size),
              exchange, Ring{(unsigned)(rows * OUT * D * ceil_div(B, rows)), 0, 0, 0}, split, B, 1, steps),
        steps(steps),
        blocks(split.blocks),
        block((int)block_x() % split.blocks),
        partials(partials),
        sums(shared<A>(layout.sums, At::sums_size)),
        totals(shared<A>(layout.totals, At::totals_size)),
        tape(shared<Pair<A>>(layout.tapes, At::tape_size) + thread_x()),
        carries(At::carry_size ? shared<Carry>(layout.carries, At::carry_size) + thread_x() : nullptr),
        slot_size((int64_t)ceil_div(B, rows) * values * blocks * rows),
        from((int64_t)(block_x() / split.blocks) * C::TURNS * values * blocks * rows),
        since(cycles()) {}

  ELMAN_FN bool owner() const { return phase.sums; }
  // Whether a turn has rows: the same for all blocks of a group.
  ELMAN_FN bool present(int turn) const { return P::full || phase.row - phase.b + turn * rows < phase.B; }
  ELMAN_FN int64_t row(int turn) const { return phase.row + turn * rows; }
  ELMAN_FN bool mine(int turn) const { return phase.sums && (P::full || row(turn) < phase.B); }
  ELMAN_FN int channel() const { return phase.channel; }
  // The block and tile that stores what belongs to a row.
  ELMAN_FN bool first_tile() const { return block == 0 && thread_x() < 64; }
  ELMAN_FN Carry& carry(int turn) {
    if constexpr (C::TURNS == 1) return own;
    else return carries[turn * (int)At::owners];
  }
  ELMAN_FN Pair<A>& slot_of(int which, int turn, int n) const { return tape[((which * C::TURNS + turn) * N + n) * (int)At::owners]; }

  // Slot `step` of the operands: publish what is in phase.value; and erase one that is to be used again.
  ELMAN_FN void publish_operands(int step, int turn) {
    if (mine(turn)) phase.publish_all(phase.target_of(step, turn));
  }
  ELMAN_FN void erase_operands(int step, int turn) {
    if (step < 0 || step + C::RING > steps || !mine(turn)) return;
#pragma unroll
    for (int i = 0; i < OUT; ++i) erase(phase.target_of(step, turn) + i * rows * phase.channels);
  }

  // This thread's sums of the product with the operands of slot `step`; ends behind a barrier of the block.
  ELMAN_FN void multiply(int step, int turn, Pair<A> (&result)[P::sums]) {
    A sum[P::row_tiles][4] = {};
    const int own_chunks = phase.row - phase.b + turn * rows + (int)lane() / 4 < phase.B ? phase.chunks : 0;
    const S* const operands = phase.source + phase.slot(step) + turn * (unsigned)(rows * phase.terms);
    Eight<S> v[P::chunks];
    if (C::TURNS == 1) pause(since, C::DELAY);
#pragma unroll
    for (int c = 0; c < P::chunks; ++c) {
      if (!P::full) v[c] = {};
      if (P::full || c < own_chunks) v[c] = load_exchanged(operands + c * chunk * rows);
    }
    for (unsigned tries = 0;;) {
      bool late = false;
#pragma unroll
      for (int c = 0; c < P::chunks; ++c) late |= !complete(v[c]);
      if (!ballot(late)) break;
      await_words(tries);
#pragma unroll
      for (int c = 0; c < P::chunks; ++c)
        if (!complete(v[c])) v[c] = load_exchanged(operands + c * chunk * rows);
    }
#pragma unroll
    for (int c = 0; c < P::chunks; ++c) phase.matrix.multiply(sum, c, v[c]);
#pragma unroll
    for (int m = 0; m < P::row_tiles; ++m) {
      store2(phase.write + m * tile * rows, sum[m][0], sum[m][2]);
      store2(phase.write + (m * rows + 2) * tile, sum[m][1], sum[m][3]);
    }
    sync_block();
    since = cycles();
#pragma unroll
    for (int s = 0; s < P::sums; ++s) {
      result[s] = {0, 0};
      if (!owner()) continue;
#pragma unroll
      for (int w = 0; w < C::WARPS; ++w) {
        const Pair<A> x = load2(phase.read + s * tile * rows + w * (int)(part_of<C, P> / C::WARPS));
        result[s].x += x.x, result[s].y += x.y;
      }
    }
  }

  // What the lane's tile adds to a value, which `give` has for share.
  ELMAN_FN void give(int value, A x) const { sums[((int)(thread_x() / 64) * values + value) * rows + phase.b] = x; }

  // Publish the block's part of each value into slot `step`, once its owners have given theirs; erase that of the step before.
  ELMAN_FN void share(int step, int turn) {
    sync_block();
    const int held = min_of((int)P::tiles, phase.channels / dense::tile - block * P::tiles);
    for (int i = (int)thread_x(); i < values * rows; i += threads<C>) {
      A x = sums[i];
      for (int m = 1; m < held; ++m) x += sums[m * values * rows + i];
      using Word = typename WordOf<A>::type;
      Word* const to = reinterpret_cast<Word*>(partial(step, turn, i / rows, block)) + i % rows;
      publish_word(to, dense_word(x));
      if (step > 0 && step - 1 + C::RING <= steps)
        erase_word(reinterpret_cast<Word*>(partial(step - 1, turn, i / rows, block)) + i % rows);
    }
  }

  // The values of all rows of the turn from slot `step`; ends behind a barrier of the block.
  ELMAN_FN void gather(int step, int turn) {
    constexpr int batch = min_of(3, ceil_div(values, C::WARPS));
    A* const to = totals + turn % 2 * (values * rows);
    if (C::TURNS == 1) pause(since, C::DELAY);
    for (int first = (int)warp(); first < values; first += batch * C::WARPS) {
      A total[batch][lanes] = {};
      for (int start = 0; start < blocks; start += 32) {
        const int p = start + (int)lane();
        Eight<A> v[batch];
        const auto wanted = [&](int j) { return p < blocks && first + j * C::WARPS < values; };
#pragma unroll
        for (int j = 0; j < batch; ++j) {
          v[j] = {};
          if (wanted(j)) v[j] = load_exchanged(partial(step, turn, first + j * C::WARPS, p));
        }
        for (unsigned tries = 0;;) {
          bool late = false;
#pragma unroll
          for (int j = 0; j < batch; ++j) late |= !complete(v[j]);
          if (!ballot(late)) break;
          await_words(tries);
#pragma unroll
          for (int j = 0; j < batch; ++j)
            if (!complete(v[j])) v[j] = load_exchanged(partial(step, turn, first + j * C::WARPS, p));
        }
#pragma unroll
        for (int j = 0; j < batch; ++j)
#pragma unroll
          for (int r = 0; r < rows; ++r) total[j][r] += element(v[j], r);
      }
#pragma unroll
      for (int j = 0; j < batch; ++j) {
        A x = scattered_sum(total[j]);
        x += shfl_xor(x, 8);
        x += shfl_xor(x, 16);
        if (first + j * C::WARPS < values && lane() < lanes) to[(first + j * C::WARPS) * rows + lane()] = x;
      }
    }
    sync_block();
    since = cycles();
  }
  // A value of this thread's row, after gather.
  ELMAN_FN A value(int v, int turn) const { return totals[(turn % 2 * values + v) * rows + phase.b]; }

  ELMAN_FN A* partial(int step, int turn, int value, int of_block) const {
    return partials + (step & (C::RING - 1)) * slot_size + from + (((int64_t)turn * values + value) * blocks + of_block) * rows;
  }
  static ELMAN_FN typename WordOf<A>::type dense_word(A x) { return elman::present(__builtin_bit_cast(typename WordOf<A>::type, x)); }
};
}  // namespace elman::tape
