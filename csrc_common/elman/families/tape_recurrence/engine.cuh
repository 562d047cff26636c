#pragma once
// The engine of recurrences with a tape: one cooperative launch runs a pass whose steps have a dense product of the state and then sums over all
// channels of a row, scores of slots, which the next state needs.
// * Batch, matrices, groups of blocks and turns are divided as in dense_recurrence/engine.cuh. W_h and W_w are two matrices [D, D]: `front` is the
//   one whose product is begun first, `rest` the other. A step waits twice for the other blocks:
//     product    the operands of all blocks -> this block's sums, and what its channels add to the row's values, which is published;
//     gather     what all blocks have published -> the row's values; from them come the block's next operands.
//   For each wait a word of the exchange is its own ready flag (exchange.cuh): operands in the compute dtype, shared values in Acc<S>, each in a
//   ring of slots, one slot a step. Between a barrier and a publication stands only what other blocks wait for. Stores come after it, then the
//   look at what others publish, and while that is on its way what neither waits for. The second barrier of a step stands behind the publication
//   of operands, so that warps without channels do not look before there is something to see.
// * A thread has two channels of a row, an `owner` (true for whole warps). A team is the lanes of a warp that have a row: 8 for each of `joint`
//   tiles, the largest power of two that divides TILES. So a team's part of a value is a sum over lanes, which they publish without a barrier,
//   and a warp gathers the values of its own rows alone. A team counts where its first tile has channels; the lanes of tiles beyond add zeros.
// * Where there are as many warps more as owners have, each of their threads is a thread's helper: it does what the owner need not do itself,
//   between barriers, with the owner's part of the tape. What one hands to the other goes through shared memory, behind the next barrier.
// * Two values of each slot are shared, eight slots to 16 words: [batch tile][place of the row][team][ceil(N / 8)][16]. Lane l of a row has slots
//   l, l + 8, ... Values are summed in a fixed order: two runs are equal bit by bit.
// * Use of a slot again: a warp gathers after all blocks have passed the barrier before they published, so that the operands of the step before
//   have been read by all; and behind the barrier of a product its operands have been published, so that the values of the gather before have been
//   read. There their owners erase them. One thread publishes and erases, and another looks at, a word's place in all slots: its next value comes
//   behind its erasure by itself, and that all readers look behind the erasure one thread of each block sees to (`order`). A fence in every thread,
//   as in dense_recurrence/engine.cuh, waits for that thread's stores.
// * DELAY is counted from a block's barrier; where other work comes first there is no pause. A thread has its channels' part of the tape in
//   shared memory, TAPES of them.
#include <elman/families/dense_recurrence/engine.cuh>
#include <elman/families/tape_recurrence/slots.cuh>
#include <elman/sync.cuh>

namespace elman::tape {
using namespace dense;

// Where there are as many warps more as have channels, each of those is the helper of one, with its rows, channels and part of the tape.
template <class C> inline constexpr bool helped = C::TURNS == 1 && C::WARPS >= 4 * C::TILES;

template <class S, class C, class Carry, int AREAS, int TAPES, int HANDED> struct TapeLayout {
  static_assert(C::WARPS >= 2 * C::TILES && C::RING >= 8 && (C::RING & (C::RING - 1)) == 0);
  static constexpr unsigned owners = 64 * C::TILES, area = C::WARPS * C::TILES * tile * rows;
  static constexpr unsigned kept_size = C::WARPS * C::CHUNKS * C::SHARED * 2 * 32, parts_size = AREAS * area;
  static constexpr unsigned tape_size = TAPES * C::TURNS * C::N * owners, carry_size = C::TURNS > 1 ? C::TURNS * owners : 0;
  static constexpr unsigned handed_size = helped<C> ? HANDED * owners : 0;
  Carve carve;
  unsigned kept, parts, tapes, carries, handed;
  ELMAN_BOTH TapeLayout()
      : kept(carve.take<Eight<S>>(kept_size)),
        parts(carve.take<Acc<S>>(parts_size)),
        tapes(carve.take<Pair<Acc<S>>>(tape_size)),
        carries(carve.take<Carry>(carry_size)),
        handed(carve.take<Pair<Acc<S>>>(handed_size)) {}
};

// Words before the shared values, of which a group's first one counts blocks. They begin as all values do, at the largest number.
inline constexpr int counter_stride = 32;
ELMAN_BOTH int64_t counters(int64_t B) { return counter_stride * ceil_div<int64_t>(B, rows); }

// The channels; of a full build a constant, which saves tests and addresses.
template <class C> ELMAN_FN int width(int64_t D) { return C::WHOLE ? C::WARPS * C::CHUNKS * chunk : (int)D; }

// Look again at what is absent of v, all lanes of a warp together, until nothing is. An absent word is the largest of all numbers. Between the
// first look and this the warp may have looked at other words, so that it looks once more before it waits.
template <int COUNT, class V, class Load> ELMAN_FN void settle(V (&v)[COUNT], Load load) {
  bool again = false;
  for (unsigned tries = 0;; again = true) {
    uint32_t most[2] = {};
#pragma unroll
    for (int c = 0; c < COUNT; ++c) most[c % 2] = max_of(most[c % 2], largest(v[c]));
    if (!ballot(max_of(most[0], most[1]) == ~0u)) return;
    if (again) await_words(tries);
#pragma unroll
    for (int c = 0; c < COUNT; ++c)
      if (largest(v[c]) == ~0u) v[c] = load(c);
  }
}

// OPERANDS of the product: one that both matrices multiply, or one each, whose products are summed. HANDED: pairs between owner and helper.
template <class S, class C, class Carry, int OPERANDS, int TAPES, int HANDED, bool transposed> struct Engine {
  using A = Acc<S>;
  static constexpr int N = C::N, octets = (N + lanes - 1) / lanes, words = 16 * octets;
  static constexpr int joint = C::TILES & -C::TILES, sets = C::TILES / joint, own_rows = 4 / joint;
  static_assert(joint <= 4, "a team is in one warp");
  static constexpr bool helped = tape::helped<C>;
  using P = Product<C::CHUNKS, C::TILES, C::SHARED, 3 - OPERANDS, OPERANDS, C::WHOLE>;  // of both matrices
  template <int SHARED> using One = Product<C::CHUNKS, C::TILES, SHARED, 1, 1, C::WHOLE>;
  // The product that no block waits for takes what is in shared memory: of one operand the second, of two the first, which comes early.
  static constexpr int hidden = C::SHARED < C::TILES ? C::SHARED : C::TILES;
  using Front = One<OPERANDS == 2 ? hidden : C::SHARED - hidden>;
  using Rest = One<C::SHARED - Front::shared>;
  using At = TapeLayout<S, C, Carry, 3 - OPERANDS, TAPES, HANDED>;
  using Sum = A[C::TILES][4];
  static constexpr bool full = C::WHOLE, even = full && C::WARPS * C::CHUNKS * chunk % (C::TILES * tile) == 0;  // of rows; and of channels
  const At layout;
  const int B, D, steps, teams;
  Stationary<S, Front, transposed> front;
  Stationary<S, Rest, transposed> rest;
  Eight<S> v[OPERANDS][C::CHUNKS];
  int chunks, reads, row0, channel;  // chunks of this lane, the batch row of its fragments; row and channel that it owns
  bool owner, helper, spare, first_team;  // spare: of the two the one that does what can wait
  int part;  // its tile among those of the team
  const S* source;
  S* target;
  A* write;
  const A* read;
  A *to, *from;  // the team's values, and those that the lane gathers
  unsigned* const counter;  // of the group
  const unsigned members;
  Pair<A>*const tape, *const between;
  Carry own{};
  Carry* const carries;
  unsigned operands_slot, since;
  int64_t values_slot;

  ELMAN_FN Engine(const S* W_front, const S* W_rest, S* exchange, A* partials, Division split, int B, int64_t channels, int steps)
      : B(B), D(width<C>(channels)), steps(steps), teams(ceil_div(D, joint * tile)),
        tape(shared<Pair<A>>(layout.tapes, At::tape_size) + (helped ? thread_x() % At::owners : thread_x())),
        between(At::handed_size ? shared<Pair<A>>(layout.handed, At::handed_size) + thread_x() % At::owners : nullptr),
        carries(At::carry_size ? shared<Carry>(layout.carries, At::carry_size) + thread_x() : nullptr),
        counter(reinterpret_cast<unsigned*>(partials + counter_stride * (block_x() / split.blocks))), members(split.blocks) {
    const int block = (int)block_x() % split.blocks, group = (int)block_x() / split.blocks, l = (int)lane();
    const int g = l / 4, q = l % 4;
    // Blocks begin at different chunks, so that they do not all load the same lines at once.
    const int k = ((int)warp() + block) % C::WARPS * (C::CHUNKS * chunk) + 8 * q;
    Eight<S>* const kept = shared<Eight<S>>(layout.kept, At::kept_size);
    front.load(Matrix<S>{W_front, D, D}, kept, block * C::TILES * tile + 2 * g, k);
    rest.load(Matrix<S>{W_rest, D, D}, kept + C::WARPS * C::CHUNKS * Front::shared * 2 * 32, block * C::TILES * tile + 2 * g, k);

    // In the exchange: [slot][tile of the batch][operand][terms / 16][8 batch rows][16 terms].
    S* const operands = exchange + (int64_t)rows * D * OPERANDS * group * C::TURNS;
    operands_slot = (unsigned)(rows * D * OPERANDS * ceil_div(B, rows));
    source = operands + (k / tile * rows + g) * tile + k % tile;
    chunks = max_of(0, min_of((int)C::CHUNKS, ceil_div(D - k, chunk)));
    reads = group * C::TURNS * rows + g;

    // A set of `joint` tiles belongs to 2 joint warps, each with `own_rows` places of batch rows. Parts of a tile are stored as in
    // dense_recurrence/engine.cuh: [place of the batch row][pair], the place of row b being b / 4 + 2 (b % 4), pairs exchanged across fours
    // where b / 2 is odd.
    const int x = (int)thread_x(), t = helped ? x % (int)At::owners : x, set = t / (64 * joint), first_place = t % (64 * joint) / 32 * own_rows;
    const int place = first_place + l / lanes % own_rows, b = place / 2 + place % 2 * 4;
    part = l / lanes / own_rows;
    const int m = set * joint + part, pair = l % lanes ^ (b / 2 % 2) * 4;
    channel = (block * C::TILES + m) * tile + 2 * pair, row0 = group * C::TURNS * rows + b;
    const bool some = even || (block * C::TILES + set * joint) * tile < D;
    owner = x < (int)At::owners && some;
    helper = helped && x >= (int)At::owners && x < 2 * (int)At::owners && some;
    spare = helped ? helper : owner;
    first_team = block == 0 && m == 0;
    target = operands + (channel / tile * rows + b) * tile + channel % tile;
    A* const parts = shared<A>(layout.parts, At::parts_size);
    write = parts + ((int)warp() * C::TILES * rows + q / 2 + q % 2 * 4) * tile + (g ^ q % 2 * 4) * 2;
    read = parts + ((m * rows + place) * lanes + l % lanes) * 2;

    A* const values = partials + counters(B) + (int64_t)group * C::TURNS * rows * teams * words;
    values_slot = (int64_t)ceil_div(B, rows) * rows * teams * words;
    const int slot = l % lanes;
    to = values + ((int64_t)place * teams + block * sets + set) * words + slot % 4 * 4 + slot / 4 + (joint > 1 ? 2 * part : 0);
    from = values + ((int64_t)first_place * teams + l / 4) * words + l % 4 * 4;
    since = cycles();
  }

  // Whether a turn has rows: the same for all blocks of a group.
  ELMAN_FN bool present(int turn) const { return full || row0 / (rows * C::TURNS) * (rows * C::TURNS) + turn * rows < B; }
  ELMAN_FN int64_t row(int turn) const { return row0 + turn * rows; }
  ELMAN_FN bool mine(int turn) const { return owner && held(turn); }
  // The same of an owner or its helper.
  ELMAN_FN bool held(int turn) const { return (even || channel < D) && in_batch(turn); }
  ELMAN_FN bool in_batch(int turn) const { return full || row(turn) < B; }
  // The lane that stores what belongs to a row and its slots.
  ELMAN_FN bool of_row(int turn) const { return first_team && held(turn); }
  ELMAN_FN Carry& carry(int turn) {
    if constexpr (C::TURNS == 1) return own;
    else return carries[turn * (int)At::owners];
  }
  ELMAN_FN Pair<A>& slot_of(int which, int turn, int n) const { return tape[((which * C::TURNS + turn) * N + n) * (int)At::owners]; }

  // Pair `which` of those that an owner and its helper hand to each other.
  ELMAN_FN Pair<A>& handed(int which) const { return between[which * (int)At::owners]; }

  // Four numbers of slot n of the row, among those that are handed from pair `which` on: 2 * octets pairs.
  ELMAN_FN Quad<A>& quad(int which, int n) const {
    const int x = (int)thread_x() % (int)At::owners;
    return reinterpret_cast<Quad<A>*>(between - x + which * (int)At::owners)[(x / 32 * own_rows + x / lanes % own_rows) * N + n];
  }

  // Operand `o` of slot `step`.
  ELMAN_FN S* operand(int step, int turn, int o) const {
    return target + (step & (C::RING - 1)) * operands_slot + (turn * OPERANDS + o) * rows * D;
  }
  ELMAN_FN void publish_operand(int step, int turn, int o, Pair<A> x) const {
    if (mine(turn)) publish(operand(step, turn, o), x);
  }
  ELMAN_FN void erase_operands(int step, int turn) const {
    if (step < 0 || step + C::RING > steps || !mine(turn)) return;
#pragma unroll
    for (int o = 0; o < OPERANDS; ++o) erase(operand(step, turn, o));
  }

  // Called before the barrier behind a step's gather. Every `lap` steps one thread counts its block, which by its last barrier has erased what it
  // erases of slots up to step - 2; `behind` steps later it waits until all blocks of the group are counted, and looks of its block at slots from
  // step + 1 on are behind that.
  static constexpr int lap = C::RING / 2, behind = C::RING / 4;
  static_assert(lap + behind + 2 <= C::RING);
  ELMAN_FN void order(int step) const {
    if (step < lap || thread_x() != threads<C> - 1) return;
    if (step % lap == 0) add_release(counter, 1u);
    if (step % lap == behind) wait_until_acquire(counter, members * (step / lap) - 1);
  }

  // Load operand `o` of slot `step`; and wait until it is there.
  ELMAN_FN const S* looked_at(int step, int turn, int o) const {
    return source + (step & (C::RING - 1)) * operands_slot + (turn * OPERANDS + o) * rows * D;
  }
  template <int o> ELMAN_FN void look(int step, int turn) {
    const S* const at = looked_at(step, turn, o);
    const int held = reads + turn * rows < B ? chunks : 0;
#pragma unroll
    for (int c = 0; c < C::CHUNKS; ++c) {
      if (!full) v[o][c] = {};
      if (full || c < held) v[o][c] = load_exchanged(at + c * chunk * rows);
    }
  }
  template <int o> ELMAN_FN void wait(int step, int turn) {
    const S* const at = looked_at(step, turn, o);
    settle(v[o], [&](int c) { return load_exchanged(at + c * chunk * rows); });
  }
  // Of few tiles every other chunk goes into sums of its own: the tensor cores would wait for each sum.
  template <class M> ELMAN_FN void multiply(const M& matrix, Sum& sum, int o) const {
    if constexpr (C::TILES > 2) {
#pragma unroll
      for (int c = 0; c < C::CHUNKS; ++c) matrix.multiply(sum, c, v[o][c]);
    } else {
      Sum odd = {};
#pragma unroll
      for (int c = 0; c < C::CHUNKS; ++c) matrix.multiply(c % 2 ? odd : sum, c, v[o][c]);
#pragma unroll
      for (int m = 0; m < C::TILES; ++m)
#pragma unroll
        for (int i = 0; i < 4; ++i) sum[m][i] += odd[m][i];
    }
  }

  // The warp's part of a product, and the sum of all parts, behind a barrier.
  ELMAN_FN void put(int area, const Sum& sum) const {
#pragma unroll
    for (int m = 0; m < C::TILES; ++m) {
      A* const at = write + area * (int)At::area + m * tile * rows;
      store2(at, sum[m][0], sum[m][2]);
      store2(at + 2 * tile, sum[m][1], sum[m][3]);
    }
  }
  ELMAN_FN Pair<A> take(int area) const {
    const A* const at = read + area * (int)At::area;
    Pair<A> total[2] = {load2(at), load2(at + At::area / C::WARPS)};
#pragma unroll
    for (int w = 2; w < C::WARPS; ++w) total[w % 2] = total[w % 2] + load2(at + w * (int)(At::area / C::WARPS));
    return total[0] + total[1];
  }

  // The sum over the team's channels of what each of its lanes has, on every lane.
  ELMAN_FN A team_sum(A x) const {
    if constexpr (joint == 1) return sum_of_eight(x);
    x = sum_of_four(sum_of_four(x, 1, 2), 4, 16);
    return joint == 4 ? x + shfl_xor(x, 8) : x;
  }
  // The same of 8 numbers; lane l of the row gets that of x[l].
  ELMAN_FN A team_sums(A (&x)[lanes]) const {
    const A sum = scattered_sum(x, joint >= 2 ? 16 : 0);
    return joint == 4 ? sum + shfl_xor(sum, 8) : sum;
  }

  // Publish the team's part of the two values of slots 8 j, ..., of each lane those of its slot; and erase them.
  ELMAN_FN A* values_of(int step, int turn, int j) const {
    return to + (step & (C::RING - 1)) * values_slot + (int64_t)turn * rows * teams * words + 16 * j;
  }
  ELMAN_FN void publish_values(int step, int turn, int j, A x, A y) const {
    A* const at = values_of(step, turn, j);
    if constexpr (joint == 1) publish_value(at, x), publish_value(at + 2, y);
    else if (part < 2) publish_value(at, part ? y : x);
  }
  ELMAN_FN void erase_values(int step, int turn) const {
    if (step < 0 || step + C::RING > steps) return;
#pragma unroll
    for (int j = 0; j < octets; ++j) {
      auto* const at = reinterpret_cast<typename WordOf<A>::type*>(values_of(step, turn, j));
      if (joint <= 2 || part < 2) erase_word(at);
      if (joint == 1) erase_word(at + 2);
    }
  }

  // Sum the values of the warp's rows over all teams, from slot `step`; under_way() runs once, while they are.
  template <class UnderWay> ELMAN_FN void gather(int step, int turn, Slots<A, N>& x, Slots<A, N>& y, UnderWay under_way) const {
    constexpr int loads = 8, deep = loads / own_rows;  // loads at a time, and of each row; a load has 8 teams' values
    // Where one round is all. The backward pass has no registers to spare: there the compiler gives up others that it then makes again.
    constexpr bool once = OPERANDS == 1 && full && C::WARPS * C::CHUNKS * chunk <= 8 * deep * joint * tile;
    const A* const at = from + (step & (C::RING - 1)) * values_slot + (int64_t)turn * rows * teams * words;
#pragma unroll
    for (int j = 0; j < octets; ++j) {
      A total[own_rows][4] = {};
      Four<A> got[loads];
      int start = 0;
      const auto load = [&](int c) {
        const int of_team = start + c / own_rows * 8;
        return of_team + (int)lane() / 4 < teams ? load_four(at + (c % own_rows * teams + of_team) * words + 16 * j) : Four<A>{};
      };
      const auto look = [&] {
#pragma unroll
        for (int c = 0; c < loads; ++c) got[c] = load(c);
      };
      look();
      if (j == 0) under_way(), sync_warp();  // or the compiler asks for what was looked at before it does the rest
      for (;;) {
        settle(got, load);
#pragma unroll
        for (int c = 0; c < loads; ++c)
#pragma unroll
          for (int i = 0; i < 4; ++i)
            if (once && c < own_rows) total[c][i] = element(got[c], i);
            else total[c % own_rows][i] += element(got[c], i);
        start += 8 * deep;
        if (once || start >= teams) break;
        look();
      }
      if constexpr (own_rows == 4) {
#pragma unroll
        for (int r = 0; r < 2; ++r)
#pragma unroll
          for (int i = 0; i < 4; ++i) total[r][i] = halved(total[r][i], total[r + 2][i], 16);
      }
      if constexpr (own_rows >= 2) {
#pragma unroll
        for (int i = 0; i < 4; ++i) total[0][i] = halved(total[0][i], total[1][i], 8);
      }
      x.own[j] = halved(total[0][0], total[0][1], 4, joint >= 2 ? 16 : 0);
      y.own[j] = halved(total[0][2], total[0][3], 4, joint >= 2 ? 16 : 0);
      if constexpr (joint == 4) x.own[j] += shfl_xor(x.own[j], 8), y.own[j] += shfl_xor(y.own[j], 8);
    }
  }
};
}  // namespace elman::tape
