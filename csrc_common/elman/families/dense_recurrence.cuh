#pragma once
// Recurrences with one dense product of the state in each step:
//   h[t] = phi(wx[t] + W h[t-1]),   y[t] = readout(h[t], gate[t]).
// A variant supplies a Step, the one definition of its elementwise part, for both passes:
//   struct Step {
//     static constexpr bool gated;                                     // whether the readout has a gate
//     template <class A> static ELMAN_FN A state(A pre);               // phi
//     template <class A> static ELMAN_FN A state_slope(A h);           // d phi / d pre, from h = phi(pre)
//     template <class A> static ELMAN_FN A readout(A h, A gate);       // gate is 0 where there is none
//     template <class A> static ELMAN_FN Pair<A> readout_slope(A h, A gate);   // d y / d h and d y / d gate
//   };
// Common parts are in dense_recurrence/steps.cuh.
// One cooperative launch runs a whole pass.
// * The batch is cut into tiles of 8 rows, shared out to groups of blocks; a group that has several (TURNS) takes turns. Each block of a
//   group owns TILES tiles of 16 rows of W (backward: of W^T), which stay in registers, the last SHARED of them in shared memory. Its
//   WARPS warps share the terms of the sum, CHUNKS times 32 each, and add their parts in a fixed order: two runs are equal bit by bit.
// * A step's order follows from what the other blocks wait for: after the barrier only the sums, the step's result and its publication;
//   stores and erasures while the others' results are on the way, loads for the next step after they have come.
//   Too early a look at the exchange costs a second one, so something is done before it: derivatives in the backward pass, the stores in the
//   forward pass, where turns have not given the others their time.
// * The blocks of a group exchange the operand of the product through a ring of slots in global memory, one slot a step, laid out as the
//   fragments of the product. A word there is its own ready flag (exchange.cuh), so that there is no barrier between blocks.
// * Use of a slot again: slot s - 1 is erased after the block's barrier of step s, when every block of the group has published slot s and
//   so has read all of slot s - 1. An erasure is ordered before the word's next value, and each reader's look at it, by one fence every
//   `fence_steps` steps in every thread: eraser, fence, publication, reader, fence, look. RING is at least twice that and four more.
// * Any D that is a multiple of 16 and fits C::WARPS * C::CHUNKS * 32, any B and T of at least 1. h is kept and carried in Acc<S>.
// * C is `args::Constant`: WARPS, CHUNKS, TILES, SHARED, TURNS, WHOLE, RING and DELAY, chosen by elmanctl/tiles.py from (B, D, device).
// * Rounding points in a bf16 build besides loads and stores: h as operand of W h (`h_operand`), and d_pre as operand of
//   W^T d_pre (`d_pre`), which is d_wx as stored. The gradient of W is one product over all T B rows of d_pre and of `former`, h[t-1] as
//   it entered the product.
#include <elman/families/dense_recurrence/fragment.cuh>
#include <elman/families/dense_recurrence/steps.cuh>

namespace elman::dense {
inline constexpr int tile = 16;  // channels of a tile: rows of W
inline constexpr int rows = 8;  // batch rows of a tile: columns of the product
inline constexpr int chunk = 32;  // terms that a warp multiplies at once
inline constexpr int fence_steps = 8;

// S is the storage type. Shapes as in binding.py; gate and d_gate are null where Step::gated is false.
template <class S> struct Forward {
  const S *wx, *W;
  const Acc<S>* h0;
  const S* gate;
  S* y;
  Acc<S> *h_last, *h;
  S* exchange;
  int64_t B, T, D;
};

template <class S> struct Backward {
  const S *W, *gate;
  const Acc<S>*h0, *h;
  const S* d_y;
  const Acc<S>* d_h_last;
  S *d_wx, *d_gate;
  Acc<S>* d_h0;
  S *former, *exchange;
  int64_t B, T, D;
};

template <class C> inline constexpr int threads = C::WARPS * 32;

template <class S, class C> struct Layout {
  static_assert(C::WARPS >= 2 * C::TILES, "one thread for each two channels and batch row of a block's tiles");
  static_assert(C::SHARED <= C::TILES && C::RING >= 2 * fence_steps + 4 && (C::RING & (C::RING - 1)) == 0);
  static constexpr unsigned kept = C::WARPS * C::CHUNKS * C::SHARED * 2 * 32;
  static constexpr unsigned part = C::WARPS * C::TILES * tile * rows;  // of one step; two steps are in flight
  Carve carve;
  unsigned matrix, parts;
  ELMAN_BOTH Layout() : matrix(carve.take<Eight<S>>(kept)), parts(carve.take<Acc<S>>(2 * part)) {}
};

// How the batch and W are shared out: groups of `blocks` blocks, each with C::TURNS tiles of the batch.
struct Division {
  int blocks, groups;
};

template <class C> Division divide(int64_t B, int64_t D) {
  return {(int)ceil_div<int64_t>(D, C::TILES * tile), (int)ceil_div<int64_t>(B, rows * C::TURNS)};
}

// The warp's part of the block's rows of M = W or W^T, kept for the whole launch.
template <class S, class C, bool transposed> struct Stationary {
  static constexpr int in_registers = C::TILES - C::SHARED;
  Eight<S> own[C::CHUNKS][in_registers > 0 ? in_registers : 1][2];
  Eight<S>* rest;

  ELMAN_FN void load(const S* W, int64_t D, int row, int k) {
    rest = shared<Eight<S>>(Layout<S, C>().matrix, Layout<S, C>::kept) + warp() * (C::CHUNKS * C::SHARED * 2 * 32) + lane();
#pragma unroll
    for (int c = 0; c < C::CHUNKS; ++c)
#pragma unroll
      for (int m = 0; m < C::TILES; ++m) {
        Eight<S> pair[2] = {};
        if (row + m * tile < D && k + c * chunk < D) load_rows<transposed>(pair, W, D, row + m * tile, k + c * chunk);
#pragma unroll
        for (int r = 0; r < 2; ++r)
          if (m < in_registers) own[c][m][r] = pair[r];
          else rest[((c * C::SHARED + m - in_registers) * 2 + r) * 32] = pair[r];
      }
  }

  ELMAN_FN void multiply(Acc<S> (&sum)[C::TILES][4], int c, const Eight<S>& v) const {
#pragma unroll
    for (int m = 0; m < C::TILES; ++m)
      if (m < in_registers) multiply_add<S>(sum[m], own[c][m], v);
      else {
        const Eight<S>* from = rest + (c * C::SHARED + m - in_registers) * 2 * 32;
        const Eight<S> pair[2] = {from[0], from[32]};
        multiply_add<S>(sum[m], pair, v);
      }
  }
};

// A step's place for one thread: two neighbouring channels of a batch row, if it has any. `cell` is where they are in [B, T, D] at
// time 0, `corner` in [B, D].
struct Place {
  int step;
  int64_t cell, corner;
  bool mine;
};

// Run `steps` steps. Pass says what a step does with the sums, for two channels of a batch row at a time:
//   void fetch(Place, Input&)                 loads for a step, begun one step ahead
//   Work prepare(Place, Input)                what can be computed before the sums are known
//   Pair value(Work, Pair sum)                the step's result, which the next step multiplies
//   void finish(Place, Work, Pair value)      stores
//   Pair first(Place)                         what step 0 multiplies
template <class S, class C, bool transposed, class Pass>
ELMAN_FN void run(const S* W, S* exchange, Division split, int B, int T, int D, int steps, const Pass& pass) {
  using A = Acc<S>;
  const Layout<S, C> layout;
  const int block = block_x() % split.blocks, group = block_x() / split.blocks;
  const int g = lane() / 4, q = lane() % 4;
  // Blocks begin at different chunks, so that they do not all load the same lines at once.
  const int k = (warp() + block) % C::WARPS * (C::CHUNKS * chunk) + 8 * q;
  Stationary<S, C, transposed> matrix;
  matrix.load(W, D, block * C::TILES * tile + 2 * g, k);

  // In the exchange: [slot][tile of the batch][D / 16][8 batch rows][16 channels].
  const unsigned tile_size = rows * D, slot_size = tile_size * ceil_div(B, rows);
  S* const ring = exchange + (int64_t)tile_size * group * C::TURNS;
  const S* const source = ring + (k / tile * rows + g) * tile + k % tile;
  const int chunks = max_of(0, min_of((int)C::CHUNKS, ceil_div(D - k, chunk)));

  // Thread 64 m + n sums the parts of tile m for the n-th pair of channels. Parts of a tile are stored as [place of the batch row][pair],
  // the place of row b being b / 4 + 2 (b % 4), and pairs exchanged across fours where b / 2 is odd: then neither the warps' stores
  // nor these loads meet in a bank of shared memory.
  const int n = thread_x() % 64, place = n / 8, b = place / 2 + place % 2 * 4, pair = n % 8 ^ (b / 2 % 2) * 4, m = thread_x() / 64;
  const int channel = (block * C::TILES + m) * tile + 2 * pair, row = group * C::TURNS * rows + b;
  S* const target = ring + (channel / tile * rows + b) * tile + channel % tile;
  const bool sums = m < C::TILES && channel < D;
  const int64_t cell = (int64_t)row * T * D + channel, corner = (int64_t)row * D + channel;
  constexpr unsigned half = Layout<S, C>::part;
  A* const parts = shared<A>(layout.parts, 2 * half);
  A* const write = parts + (warp() * C::TILES * rows + q / 2 + q % 2 * 4) * tile + (g ^ q % 2 * 4) * 2;
  const A* const read = parts + thread_x() * 2;

  const auto place_of = [&](int step, int turn) {
    const bool mine = sums && (C::WHOLE || row + turn * rows < B) && step < steps;
    return Place{step, cell + (int64_t)turn * rows * T * D, corner + turn * rows * D, mine};
  };
  const auto slot = [&](int step, int turn) { return (step & (C::RING - 1)) * slot_size + turn * tile_size; };
  using Input = typename Pass::Input;
  using Work = typename Pass::Work;
  Input next{};
  const auto fetch = [&](int step, int turn) {
    if (const Place at = place_of(step, turn); at.mine) pass.fetch(at, next);  // in place: a copy would wait for the loads
  };
  Work work{};
  Pair<A> value{};
  // All that the other blocks do not wait for, of a step that is done.
  const auto finish = [&](int step, int turn, const Work& work) {
    if (const Place at = place_of(step, turn); at.mine) {
      pass.finish(at, work, value);
      if (step > 0 && step - 1 + C::RING <= steps) erase(target + slot(step - 1, turn));
    }
    if (turn == 0 && step % fence_steps == 0) fence_words();
  };

  for (int turn = 0; turn < C::TURNS; ++turn)
    if (const Place at = place_of(0, turn); at.mine) publish(target + slot(0, turn), pass.first(at));
  fetch(0, 0);
  unsigned since = cycles();
  for (int step = 0; step < steps; ++step)
    for (int turn = 0; turn < C::TURNS; ++turn) {
      const Work before = work;
      const auto finish_former = [&] {
        if (turn > 0) finish(step, turn - 1, before);
        else if (step > 0) finish(step - 1, C::TURNS - 1, before);
      };
      constexpr bool stores_first = C::TURNS == 1 && !transposed;
      const Place at = place_of(step, turn);
      if (at.mine) work = pass.prepare(at, next);
      if (stores_first) finish_former();
      A sum[C::TILES][4] = {};
      const int mine = row - b + turn * rows + g < B ? chunks : 0;  // this lane's chunks
      const S* const from = source + slot(step, turn);
      Eight<S> v[C::CHUNKS];
      if (C::TURNS == 1) pause(since, C::DELAY);  // with more, other turns have filled the time
#pragma unroll
      for (int c = 0; c < C::CHUNKS; ++c) {
        if (!C::WHOLE) v[c] = {};
        if (C::WHOLE || c < mine) v[c] = load_exchanged(from + c * chunk * rows);
      }
      if (!stores_first) finish_former();
      for (unsigned tries = 0;;) {
        bool late = false;
#pragma unroll
        for (int c = 0; c < C::CHUNKS; ++c) late |= !complete(v[c]);
        if (!ballot(late)) break;
        await_words(tries);
#pragma unroll
        for (int c = 0; c < C::CHUNKS; ++c)
          if (!complete(v[c])) v[c] = load_exchanged(from + c * chunk * rows);
      }
      fetch(step + (turn + 1) / C::TURNS, (turn + 1) % C::TURNS);  // here: no wait for the exchange includes a wait for these
#pragma unroll
      for (int c = 0; c < C::CHUNKS; ++c) matrix.multiply(sum, c, v[c]);
      const unsigned now_half = (step * C::TURNS + turn) % 2 * half;
#pragma unroll
      for (int m = 0; m < C::TILES; ++m) {
        store2(write + now_half + m * tile * rows, sum[m][0], sum[m][2]);
        store2(write + now_half + (m * rows + 2) * tile, sum[m][1], sum[m][3]);
      }
      sync_block();
      since = cycles();
      if (at.mine) {
        Pair<A> total[2] = {load2(read + now_half), load2(read + now_half + half / C::WARPS)};
#pragma unroll
        for (int w = 2; w < C::WARPS; ++w) {
          const Pair<A> x = load2(read + now_half + w * (half / C::WARPS));
          total[w % 2].x += x.x;
          total[w % 2].y += x.y;
        }
        value = pass.value(work, {total[0].x + total[1].x, total[0].y + total[1].y});
        publish(target + slot(step + 1, turn), value);  // also of the last step: without a branch
      }
    }
  finish(steps - 1, C::TURNS - 1, work);
}

template <class Step, class S> struct ForwardPass {
  using A = Acc<S>;
  struct Input {
    Packed<S> wx, gate;
  };
  using Work = Input;
  Forward<S> p;
  int T, D;

  ELMAN_FN int64_t offset(const Place& at) const { return at.cell + (int64_t)at.step * D; }
  ELMAN_FN Pair<A> first(const Place& at) const { return load2(p.h0 + at.corner); }
  ELMAN_FN void fetch(const Place& at, Input& in) const {
    in.wx = load_packed(p.wx + offset(at));
    if constexpr (Step::gated) in.gate = load_packed(p.gate + offset(at));
  }
  ELMAN_FN Work prepare(const Place&, const Input& in) const { return in; }
  ELMAN_FN Pair<A> value(const Work& w, Pair<A> sum) const {
    const Pair<A> wx = unpacked(w.wx);
    return {Step::state(wx.x + sum.x), Step::state(wx.y + sum.y)};
  }
  ELMAN_FN void finish(const Place& at, const Work& w, Pair<A> h) const {
    store2(p.h + offset(at), h.x, h.y);
    const Pair<A> gate = unpacked(w.gate);
    store2(p.y + offset(at), Step::readout(h.x, gate.x), Step::readout(h.y, gate.y));
    if (at.step == T - 1) store2(p.h_last + at.corner, h.x, h.y);
  }
};

// Step s is time T - 1 - s. The state's gradient is what the readout gives, and W^T d_pre of the time after or, at the end, the gradient
// of the last state. Step T, time -1, leaves the gradient of h0.
template <class Step, class S> struct BackwardPass {
  using A = Acc<S>;
  struct Input {
    Packed<S> d_y, gate;
    Packed<A> h;
  };
  struct Work {
    Pair<A> d_h, slope;
    Packed<S> d_gate, h;
  };
  Backward<S> p;
  int T, D;

  ELMAN_FN int64_t offset(const Place& at) const { return at.cell + (int64_t)(T - 1 - at.step) * D; }
  ELMAN_FN Pair<A> first(const Place&) const { return {0, 0}; }  // nothing follows the last step
  ELMAN_FN void fetch(const Place& at, Input& in) const {
    in.h = load_packed(at.step < T ? p.h + offset(at) : p.h0 + at.corner);
    if (at.step == T) return;
    in.d_y = load_packed(p.d_y + offset(at));
    if constexpr (Step::gated) in.gate = load_packed(p.gate + offset(at));
  }
  ELMAN_FN Work prepare(const Place& at, const Input& in) const {
    const Pair<A> d_y = unpacked(in.d_y), gate = unpacked(in.gate), h = unpacked(in.h);
    if (at.step == T) return {{0, 0}, {1, 1}, {}, packed<S>(h)};
    const Pair<A> x = Step::readout_slope(h.x, gate.x), y = Step::readout_slope(h.y, gate.y);
    const Pair<A> last = at.step == 0 ? load2(p.d_h_last + at.corner) : Pair<A>{0, 0};
    return {{last.x + d_y.x * x.x, last.y + d_y.y * y.x},
            {Step::state_slope(h.x), Step::state_slope(h.y)},
            packed<S>({d_y.x * x.y, d_y.y * y.y}),
            packed<S>(h)};
  }
  ELMAN_FN Pair<A> value(const Work& w, Pair<A> sum) const { return {(w.d_h.x + sum.x) * w.slope.x, (w.d_h.y + sum.y) * w.slope.y}; }
  ELMAN_FN void finish(const Place& at, const Work& w, Pair<A> d) const {
    // h of this time is the former state of the next.
    if (at.step > 0) store_word(p.former + offset(at) + D, w.h);
    if (at.step == T) return store2(p.d_h0 + at.corner, d.x, d.y);
    store2(p.d_wx + offset(at), d.x, d.y);
    if constexpr (Step::gated) store_word(p.d_gate + offset(at), w.d_gate);
  }
};

template <class Step, class C, class S> ELMAN_KERNEL(threads<C>) forward_pass(Forward<S> p, Division split) {
  run<S, C, false>(p.W, p.exchange, split, (int)p.B, (int)p.T, (int)p.D, (int)p.T, ForwardPass<Step, S>{p, (int)p.T, (int)p.D});
}

template <class Step, class C, class S> ELMAN_KERNEL(threads<C>) backward_pass(Backward<S> p, Division split) {
  run<S, C, true>(p.W, p.exchange, split, (int)p.B, (int)p.T, (int)p.D, (int)p.T + 1, BackwardPass<Step, S>{p, (int)p.T, (int)p.D});
}

template <class C, class Tensors> Status check(const char* name, const Tensors& p) {
  if (p.T < 1 || p.B < 1) return refuse("%s: B=%lld and T=%lld must be at least 1", name, (long long)p.B, (long long)p.T);
  if (p.T > INT32_MAX - C::RING || ceil_div<int64_t>(p.B, rows) * rows * p.D > INT32_MAX / C::RING)
    return refuse("%s: B=%lld and T=%lld are beyond 2^31 steps or elements of the exchange", name, (long long)p.B, (long long)p.T);
  if (p.D < 1 || p.D % tile)
    return refuse("%s: D=%lld is not a multiple of %d, the kernel's tile. Choose a width that is.", name, (long long)p.D, tile);
  constexpr int widest = C::WARPS * C::CHUNKS * chunk;
  if (p.D > widest || (C::WHOLE && (p.D < widest || p.B % (rows * C::TURNS))))
    return refuse("%s: B=%lld, D=%lld in a build for other sizes, D up to %d", name, (long long)p.B, (long long)p.D, widest);
  if ((uintptr_t)p.W % 16 || (uintptr_t)p.exchange % 16) return refuse("%s: W and exchange must start at a multiple of 16 bytes", name);
  return 0;
}

template <class C, class S, class Tensors>
Status launch_pass(void (*kernel)(Tensors, Division), const char* name, const Tensors& p, int64_t steps, Stream stream) {
  ELMAN_TRY(check<C>(name, p));
  const Division split = divide<C>(p.B, p.D);
  const size_t slots = (size_t)min_of<int64_t>(C::RING, steps + 1);
  const size_t slot = (size_t)ceil_div<int64_t>(p.B, rows) * rows * p.D * sizeof(S);
  ELMAN_TRY(fill_async(p.exchange, 0xFF, slots * slot, stream));  // all words absent
  return launch_cooperative(kernel, name, (int64_t)split.groups * split.blocks, threads<C>, Layout<S, C>().carve.bytes, stream, p, split);
}

// `a` is the variant's args::Forward: wx, W, h0, y, h_last, h and exchange by these names. C is args::Constant.
template <class Step, class C, class Args, class S> Status forward(const char* name, const Args& a, const S* gate) {
  const Forward<S> p{a.wx, a.W, a.h0, gate, a.y, a.h_last, a.h, a.exchange, a.B, a.T, a.D};
  return launch_pass<C, S>(forward_pass<Step, C, S>, name, p, p.T, a.stream);
}
template <class Step, class C, class Args> Status forward(const char* name, const Args& a) {
  return forward<Step, C>(name, a, (decltype(a.wx))nullptr);
}

// `a` is the variant's args::Backward: the above, their gradients as d_wx, d_h0, d_y, d_h_last, and former.
template <class Step, class C, class Args, class S> Status backward(const char* name, const Args& a, const S* gate, S* d_gate) {
  const Backward<S> p{a.W, gate, a.h0, a.h, a.d_y, a.d_h_last, a.d_wx, d_gate, a.d_h0, a.former, a.exchange, a.B, a.T, a.D};
  return launch_pass<C, S>(backward_pass<Step, C, S>, name, p, p.T + 1, a.stream);
}
template <class Step, class C, class Args> Status backward(const char* name, const Args& a) {
  return backward<Step, C>(name, a, (decltype(a.W))nullptr, (decltype(a.d_wx))nullptr);
}
}  // namespace elman::dense
