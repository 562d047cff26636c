#pragma once
// The engine of recurrences with dense products of the state: one cooperative launch runs a whole pass of T steps.
// * A step has one product or two that follow each other (phases). A Pass says what a phase does with its sums (see Phase below).
// * The batch is cut into tiles of 8 rows, shared out to groups of blocks; a group that has several (TURNS) takes turns. Each block of a
//   group owns TILES tiles of 16 channels and for each SUMS rows of M = W or W^T, which stay in registers, the last SHARED units of them in
//   shared memory. Its WARPS warps share the terms of the sum, CHUNKS times 32 of each operand, and add their parts in a fixed order: two
//   runs are equal bit by bit.
// * A step's order follows from what the other blocks wait for: after the barrier only the sums, the step's result and its publication;
//   stores and erasures while the others' results are on the way, then the look at the exchange, and under way derivatives; loads for the
//   next step after it has succeeded. Too early a look costs a second one. Several turns give each other their time: there the look comes first.
// * The blocks of a group exchange the operands of the products through a ring of slots in global memory, one slot a step, laid out as the
//   fragments of the product. A word there is its own ready flag (exchange.cuh), so that there is no barrier between blocks.
// * Use of a slot again: a phase erases what it published into slot s - 1 after the block's barrier of step s. With one phase every block
//   of the group has then published slot s and so has read all of slot s - 1. With two, every block has published its part of what phase 0
//   multiplies in step s, or what phase 1 waits for was made from all of that: either way after it had read all of slot s - 1. An erasure is
//   ordered before the word's next value, and each reader's look at it, by one fence every `fence_steps<C>` steps in every thread: eraser,
//   fence, publication of the same word, reader, fence, look. RING is at least twice that and four more.
// * Any number of channels that is a multiple of 16 and fits the warps' chunks, any B and T of at least 1. States are carried in Acc<S>.
// * C is `args::Constant`: WARPS, TURNS, RING and DELAY here, and what the families make Products of, chosen by elmanctl/tiles.py.
#include <elman/families/dense_recurrence/fragment.cuh>

namespace elman::dense {
inline constexpr int tile = 16;  // channels of a tile: rows of W
inline constexpr int rows = 8;  // batch rows of a tile: columns of the product
inline constexpr int chunk = 32;  // terms that a warp multiplies at once

template <class C> inline constexpr int threads = C::WARPS * 32;
template <class C> inline constexpr int fence_steps = C::RING / 2 - 2;

// How a block keeps its part of M, SUMS rows for each channel and terms of OPERANDS values for each channel that it reads. A unit is what
// a warp keeps of a tile's rows for one operand; full where no warp, tile of the batch or turn is partly empty, which saves the tests.
template <int CHUNKS, int TILES, int SHARED, int SUMS, int OPERANDS, bool FULL> struct Product {
  static constexpr int own_chunks = CHUNKS, tiles = TILES, shared = SHARED, sums = SUMS, operands = OPERANDS;
  static constexpr int chunks = CHUNKS * OPERANDS, row_tiles = TILES * SUMS, kept = row_tiles * OPERANDS - SHARED;
  static constexpr bool full = FULL;
  static_assert(SHARED <= row_tiles * OPERANDS && (SUMS == 1 || OPERANDS == 1));
};

// M [sums * channels, terms] as a tensor: W itself, or W^T where transposed (one sum).
template <class S> struct Matrix {
  const S* W;
  int channels, terms;
};

struct NoProduct {
  static constexpr int own_chunks = 0, tiles = 0, shared = 0, row_tiles = 0;
};

template <class C, class P> constexpr unsigned part_of = C::WARPS * P::row_tiles * tile * rows;

// Shared memory of a block. A carry is what a thread keeps of its channels from step to step; of one turn it is in registers.
template <class S, class C, class Carry, class P, class Q = NoProduct> struct Layout {
  static_assert(C::WARPS >= 2 * P::tiles && C::WARPS >= 2 * Q::tiles, "one thread for each two channels and batch row of a block's tiles");
  static_assert(C::RING >= 8 && (C::RING & (C::RING - 1)) == 0);
  static constexpr unsigned kept_first = C::WARPS * P::own_chunks * P::shared * 2 * 32;
  static constexpr unsigned kept_second = C::WARPS * Q::own_chunks * Q::shared * 2 * 32;
  static constexpr unsigned half = part_of<C, P> > part_of<C, Q> ? part_of<C, P> : part_of<C, Q>;  // two parts are in flight
  static constexpr unsigned owners = 64 * (P::tiles > Q::tiles ? P::tiles : Q::tiles);  // threads that have channels
  static constexpr unsigned carried = __is_empty(Carry) || C::TURNS == 1 ? 0 : C::TURNS * owners;
  Carve carve;
  unsigned first, parts, second, carries;
  ELMAN_BOTH Layout()
      : first(carve.take<Eight<S>>(kept_first)),
        parts(carve.take<Acc<S>>(2 * half)),
        second(carve.take<Eight<S>>(kept_second)),
        carries(carve.take<Carry>(carried)) {}
};

// How the batch and W are shared out: groups of `blocks` blocks, each with C::TURNS tiles of the batch.
struct Division {
  int blocks, groups;
};

template <class C> Division divide(int64_t B, int64_t channels, int tiles) {
  return {(int)ceil_div<int64_t>(channels, tiles * tile), (int)ceil_div<int64_t>(B, rows * C::TURNS)};
}

// The warp's part of the block's rows of M, kept for the whole launch.
template <class S, class P, bool transposed> struct Stationary {
  Eight<S> own[P::chunks][P::row_tiles][2];  // those of units in registers
  Eight<S>* rest;

  static ELMAN_BOTH int unit(int c, int m) { return m * P::operands + c / P::own_chunks; }
  static ELMAN_BOTH int place(int c, int m) { return (c % P::own_chunks * P::shared + unit(c, m) - P::kept) * 2 * 32; }

  ELMAN_FN void load(const Matrix<S>& M, Eight<S>* shared_part, int row, int k) {
    rest = shared_part + warp() * (P::own_chunks * P::shared * 2 * 32) + lane();
    const int64_t width = transposed ? M.channels : M.terms;
#pragma unroll
    for (int c = 0; c < P::chunks; ++c)
#pragma unroll
      for (int m = 0; m < P::row_tiles; ++m) {
        const int from = row + m / P::sums * tile;
        Eight<S> pair[2] = {};
        if (from < M.channels && k + c * chunk < M.terms)
          load_rows<transposed>(pair, M.W, width, from + m % P::sums * M.channels, k + c * chunk);
#pragma unroll
        for (int r = 0; r < 2; ++r)
          if (unit(c, m) < P::kept) own[c][m][r] = pair[r];
          else rest[place(c, m) + r * 32] = pair[r];
      }
  }

  ELMAN_FN void multiply(Acc<S> (&sum)[P::row_tiles][4], int c, const Eight<S>& v) const {
#pragma unroll
    for (int m = 0; m < P::row_tiles; ++m)
      if (unit(c, m) < P::kept) multiply_add<S>(sum[m], own[c][m], v);
      else {
        const Eight<S>* from = rest + place(c, m);
        const Eight<S> pair[2] = {from[0], from[32]};
        multiply_add<S>(sum[m], pair, v);
      }
  }
};

// A step's place for one thread: two neighbouring channels of a batch row, if it has any. `cell` is where they are in [B, T, channels] at
// time 0, `corner` in [B, channels].
struct Place {
  int step;
  int64_t cell, corner;
  bool mine;
  int channel;
};

// Where a phase finds its operand and leaves its results: the ring, with slots of `slot_size`, in them `source` and `target` from these
// offsets on; what it writes is for the next step (ahead = 1) or the next phase (0).
struct Ring {
  unsigned slot_size, source, target;
  int ahead;
};

// One product of a step, and what is made of its sums. Pass says what, for two channels of a batch row at a time:
//   using Input, Work, Carry; static constexpr int outputs;    values of a channel that it publishes; Carry may be empty
//   void fetch(Place, Input&)                                  loads for a step, begun one step ahead
//   Work prepare(Place, Input, Carry)                          what can be computed before the sums are known
//   void value(Work&, Pair (&sum)[sums], Carry&, Pair (&out)[outputs])   the step's results, which the next product multiplies
//   void finish(Place, Work, Pair (&out)[outputs])             stores
//   void first(Place, Carry&, Pair (&out)[outputs])            of a step's last phase: what step 0 multiplies
template <class S, class C, class P, bool transposed, class Pass> struct Phase {
  using A = Acc<S>;
  using Carry = typename Pass::Carry;
  static constexpr unsigned half_part = part_of<C, P>;
  const Pass& pass;
  const Ring ring;
  const int B, T, steps, channels, terms;
  Stationary<S, P, transposed> matrix;
  unsigned target_tile;
  int chunks, b, row, channel;
  bool sums, active;
  const S* source;
  S* target;
  int64_t cell, corner;
  A *write;
  const A* read;
  typename Pass::Input next{};
  typename Pass::Work work{};
  Pair<A> value[Pass::outputs]{};

  ELMAN_FN Phase(const Pass& pass, const Matrix<S>& M, Eight<S>* kept, A* parts, S* exchange, Ring ring, Division split, int B, int T, int steps)
      : pass(pass), ring(ring), B(B), T(T), steps(steps), channels(M.channels), terms(M.terms) {
    const int block = block_x() % split.blocks, group = block_x() / split.blocks;
    const int g = lane() / 4, q = lane() % 4;
    // Blocks begin at different chunks, so that they do not all load the same lines at once.
    const int k = (warp() + block) % C::WARPS * (P::chunks * chunk) + 8 * q;
    active = block * P::tiles * tile < channels;
    matrix.load(M, kept, block * P::tiles * tile + 2 * g, k);

    // In the exchange: [slot][tile of the batch][terms / 16][8 batch rows][16 terms], sources of two phases after each other.
    source = exchange + ring.source + (int64_t)rows * terms * group * C::TURNS + (k / tile * rows + g) * tile + k % tile;
    chunks = max_of(0, min_of((int)P::chunks, ceil_div(terms - k, chunk)));

    // Thread 64 m + n sums the parts of tile m for the n-th pair of channels. Parts of a tile are stored as [place of the batch row][pair],
    // the place of row b being b / 4 + 2 (b % 4), and pairs exchanged across fours where b / 2 is odd: then neither the warps' stores
    // nor these loads meet in a bank of shared memory.
    const int n = thread_x() % 64, place = n / 8, m = thread_x() / 64;
    b = place / 2 + place % 2 * 4;
    const int pair = n % 8 ^ (b / 2 % 2) * 4;
    channel = (block * P::tiles + m) * tile + 2 * pair, row = group * C::TURNS * rows + b;
    target_tile = rows * Pass::outputs * channels;
    target = exchange + ring.target + (int64_t)target_tile * group * C::TURNS + (channel / tile * rows + b) * tile + channel % tile;
    sums = m < P::tiles && channel < channels;
    cell = (int64_t)row * T * channels + channel, corner = (int64_t)row * channels + channel;

    write = parts + (warp() * P::row_tiles * rows + q / 2 + q % 2 * 4) * tile + (g ^ q % 2 * 4) * 2;
    read = parts + (thread_x() + m * (P::sums - 1) * 64) * 2;
  }

  ELMAN_FN Place place_of(int step, int turn) const {
    const bool mine = sums && (P::full || row + turn * rows < B) && step < steps;
    return Place{step, cell + (int64_t)turn * rows * T * channels, corner + turn * rows * channels, mine, channel};
  }
  ELMAN_FN unsigned slot(int step) const { return (step & (C::RING - 1)) * ring.slot_size; }
  ELMAN_FN S* target_of(int step, int turn) const { return target + slot(step) + turn * target_tile; }
  ELMAN_FN void publish_all(S* to) {
#pragma unroll
    for (int i = 0; i < Pass::outputs; ++i) publish(to + i * rows * channels, value[i]);
  }

  ELMAN_FN void first(Carry& carry, int turn) {
    if (const Place at = place_of(0, turn); at.mine) {
      pass.first(at, carry, value);
      publish_all(target_of(0, turn));
    }
  }
  ELMAN_FN void fetch(int step, int turn) {
    if (const Place at = place_of(step, turn); at.mine) pass.fetch(at, next);  // in place: a copy would wait for the loads
  }
  // All that the other blocks do not wait for, of a step that is done.
  ELMAN_FN void finish(int step, int turn, const typename Pass::Work& done) {
    if (const Place at = place_of(step, turn); at.mine) {
      pass.finish(at, done, value);
      if (step > 0 && step - 1 + C::RING <= steps)
#pragma unroll
        for (int i = 0; i < Pass::outputs; ++i) erase(target_of(step - 1, turn) + i * rows * channels);
    }
    if (ring.ahead && turn == 0 && step % fence_steps<C> == 0) fence_words();
  }

  // One turn of one step. finish_other(done) finishes what came before the first turn; `half` is where the parts go.
  template <class Former> ELMAN_FN void run(int step, int turn, Carry& carry, unsigned half, unsigned& since, Former finish_other) {
    const typename Pass::Work before = work;
    const auto finish_former = [&] {
      if (turn > 0) finish(step, turn - 1, before);
      else finish_other(before);
    };
    if (Pass::partial && !active) {  // fewer channels than blocks
      finish_former();
      return sync_block();
    }
    constexpr bool alone = C::TURNS == 1;
    const Place at = place_of(step, turn);
    if (alone) finish_former();
    else if (at.mine) work = pass.prepare(at, next, carry);
    A sum[P::row_tiles][4] = {};
    const int g = lane() / 4;
    const int mine = row - b + turn * rows + g < B ? chunks : 0;  // this lane's chunks
    const S* const from = source + slot(step) + turn * (unsigned)(rows * terms);
    Eight<S> v[P::chunks];
    if (alone) pause(since, C::DELAY);
#pragma unroll
    for (int c = 0; c < P::chunks; ++c) {
      if (!P::full) v[c] = {};
      if (P::full || c < mine) v[c] = load_exchanged(from + c * chunk * rows);
    }
    if (!alone) finish_former();
    else if (at.mine) work = pass.prepare(at, next, carry);
    for (unsigned tries = 0;;) {
      bool late = false;
#pragma unroll
      for (int c = 0; c < P::chunks; ++c) late |= !complete(v[c]);
      if (!ballot(late)) break;
      await_words(tries);
#pragma unroll
      for (int c = 0; c < P::chunks; ++c)
        if (!complete(v[c])) v[c] = load_exchanged(from + c * chunk * rows);
    }
    fetch(step + (turn + 1) / C::TURNS, (turn + 1) % C::TURNS);  // here: no wait for the exchange includes a wait for these
#pragma unroll
    for (int c = 0; c < P::chunks; ++c) matrix.multiply(sum, c, v[c]);
#pragma unroll
    for (int m = 0; m < P::row_tiles; ++m) {
      store2(write + half + m * tile * rows, sum[m][0], sum[m][2]);
      store2(write + half + (m * rows + 2) * tile, sum[m][1], sum[m][3]);
    }
    sync_block();
    since = cycles();
    if (at.mine) {
      Pair<A> result[P::sums];
#pragma unroll
      for (int s = 0; s < P::sums; ++s) {
        const A* const part = read + half + s * tile * rows;
        Pair<A> total[2] = {load2(part), load2(part + half_part / C::WARPS)};
#pragma unroll
        for (int w = 2; w < C::WARPS; ++w) {
          const Pair<A> x = load2(part + w * (half_part / C::WARPS));
          total[w % 2].x += x.x;
          total[w % 2].y += x.y;
        }
        result[s] = {total[0].x + total[1].x, total[0].y + total[1].y};
      }
      pass.value(work, result, carry, value);
      publish_all(target_of(step + ring.ahead, turn));  // also of the last step: without a branch
    }
  }
};

// What a thread carries of its channels, by turn.
template <class C, class Carry> struct Carries {
  Carry own{};
  Carry* all;
  ELMAN_FN Carry& of(int turn) {
    if constexpr (C::TURNS == 1 || __is_empty(Carry)) return own;
    else return all[turn * stride];
  }
  int stride;
};

// Run `steps` steps of one product: h[t] from M h[t-1].
template <class S, class C, class P, bool transposed, class Pass>
ELMAN_FN void run(const Matrix<S>& M, S* exchange, Division split, int B, int T, int steps, const Pass& pass) {
  using Carry = typename Pass::Carry;
  using At = Layout<S, C, Carry, P>;
  const At layout;
  const unsigned tiles = ceil_div(B, rows);
  const Ring ring{rows * (unsigned)M.terms * tiles, 0, 0, 1};
  Phase<S, C, P, transposed, Pass> phase(pass, M, shared<Eight<S>>(layout.first, At::kept_first), shared<Acc<S>>(layout.parts, 2 * At::half),
                                         exchange, ring, split, B, T, steps);
  Carries<C, Carry> carry{{}, At::carried ? shared<Carry>(layout.carries, At::carried) + thread_x() : nullptr, (int)At::owners};
  for (int turn = 0; turn < C::TURNS; ++turn) phase.first(carry.of(turn), turn);
  phase.fetch(0, 0);
  unsigned since = cycles();
  for (int step = 0; step < steps; ++step)
    for (int turn = 0; turn < C::TURNS; ++turn)
      phase.run(step, turn, carry.of(turn), (step * C::TURNS + turn) % 2 * At::half, since, [&](const auto& before) {
        if (step > 0) phase.finish(step - 1, C::TURNS - 1, before);
      });
  phase.finish(steps - 1, C::TURNS - 1, phase.work);
}

// Run `steps` steps of two products, the second of what the first one gave: what phase 0 publishes phase 1 multiplies, and the other way
// round in the next step. Where both phases have carries they have the same channels.
template <class S, class C, class P, class Q, bool transposed, class First, class Second>
ELMAN_FN void run(const Matrix<S>& M, const Matrix<S>& N, S* exchange, Division split, int B, int T, int steps, const First& first, const Second& second) {
  using Carry = typename First::Carry;
  using At = Layout<S, C, Carry, P, Q>;
  const At layout;
  const unsigned padded = rows * ceil_div(B, rows), size = padded * (M.terms + N.terms);
  Acc<S>* const parts = shared<Acc<S>>(layout.parts, 2 * At::half);
  Phase<S, C, P, transposed, First> a(first, M, shared<Eight<S>>(layout.first, At::kept_first), parts, exchange,
                                      Ring{size, 0, padded * M.terms, 0}, split, B, T, steps);
  Phase<S, C, Q, transposed, Second> b(second, N, shared<Eight<S>>(layout.second, At::kept_second), parts, exchange,
                                       Ring{size, padded * M.terms, 0, 1}, split, B, T, steps);
  Carries<C, Carry> carry{{}, At::carried ? shared<Carry>(layout.carries, At::carried) + thread_x() : nullptr, (int)At::owners};
  for (int turn = 0; turn < C::TURNS; ++turn) b.first(carry.of(turn), turn);
  a.fetch(0, 0);
  b.fetch(0, 0);
  unsigned since = cycles();
  for (int step = 0; step < steps; ++step) {
    for (int turn = 0; turn < C::TURNS; ++turn)
      a.run(step, turn, carry.of(turn), turn % 2 * At::half, since, [&](const auto&) {
        if (step > 0) b.finish(step - 1, C::TURNS - 1, b.work);
      });
    for (int turn = 0; turn < C::TURNS; ++turn)
      b.run(step, turn, carry.of(turn), (C::TURNS + turn) % 2 * At::half, since, [&](const auto&) { a.finish(step, C::TURNS - 1, a.work); });
  }
  b.finish(steps - 1, C::TURNS - 1, b.work);
}

// Refuse sizes that a build cannot serve. `width` is that of the exchange: the terms of all products.
template <class C> Status check(const char* name, int64_t B, int64_t T, int64_t width) {
  if (T < 1 || B < 1) return refuse("%s: B=%lld and T=%lld must be at least 1", name, (long long)B, (long long)T);
  if (T > INT32_MAX - C::RING || ceil_div<int64_t>(B, rows) * rows * width > INT32_MAX / C::RING)
    return refuse("%s: B=%lld and T=%lld are beyond 2^31 steps or elements of the exchange", name, (long long)B, (long long)T);
  return 0;
}
template <class C, class P, class S> Status check(const char* name, const Matrix<S>& M, int64_t B) {
  if (M.channels < 1 || M.channels % tile)
    return refuse("%s: D=%d is not a multiple of %d, the kernel's tile. Choose a width that is.", name, M.channels, tile);
  constexpr int widest = C::WARPS * P::chunks * chunk;
  if (M.terms > widest || (P::full && (M.terms < widest || B % (rows * C::TURNS))))
    return refuse("%s: B=%lld, D=%d in a build for other sizes, D up to %d", name, (long long)B, M.terms / P::operands, widest / P::operands);
  if ((uintptr_t)M.W % 16) return refuse("%s: a matrix must start at a multiple of 16 bytes", name);
  return 0;
}

// Make the words of the exchange absent and launch a pass of `steps` steps.
template <class C, class S, class... P>
Status launch_pass(void (*kernel)(P...), const char* name, S* exchange, int64_t B, int64_t width, int64_t steps, Division split, unsigned bytes,
                   Stream stream, P... arguments) {
  if ((uintptr_t)exchange % 16) return refuse("%s: exchange must start at a multiple of 16 bytes", name);
  const size_t slots = (size_t)min_of<int64_t>(C::RING, steps + 1);
  ELMAN_TRY(fill_async(exchange, 0xFF, slots * (size_t)ceil_div<int64_t>(B, rows) * rows * width * sizeof(S), stream));
  return launch_cooperative(kernel, name, (int64_t)split.groups * split.blocks, threads<C>, bytes, stream, arguments...);
}
}  // namespace elman::dense
