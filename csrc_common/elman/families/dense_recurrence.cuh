#pragma once
// Recurrences with one dense product of the state in each step:
//   h[t] = phi(wx[t] + W h[t-1]),   y[t] = readout(h[t], gate[t]).
// A variant supplies a Step, the one definition of its elementwise part, for both passes:
//   struct Step {
//     template <class A> static ELMAN_FN A state(A pre);               // phi
//     template <class A> static ELMAN_FN A state_slope(A h);           // d phi / d pre, from h = phi(pre)
//     template <class A> static ELMAN_FN A readout(A h, A gate);       // gate is 0 where there is none
//     template <class A> static ELMAN_FN Pair<A> readout_slope(A h, A gate);   // d y / d h and d y / d gate
//   };
// * Plain structure: one launch a time step, so it needs no cooperative launch and is captured into a CUDA graph as it stands.
// * A block owns 16 channels by 16 batch rows of the step's product. Its warps share the terms of the sum, 16 at a time, and
//   add their parts in a fixed order: two runs are equal bit by bit.
// * Any D that is a multiple of 16, any B and T of at least 1. h is kept and carried in Acc<S>.
// * Rounding points in a bf16 build besides loads and stores: h as operand of W h (`h_operand`), and d_pre as operand of
//   W^T d_pre (`d_pre`), which is d_wx as stored. The gradient of W is one product over all T B rows of d_pre and the former.
#include <elman/elman.cuh>

namespace elman::dense {
inline constexpr int tile = 16;  // channels, batch rows and terms of one tile
inline constexpr int stride = tile + 1;  // of a tile in shared memory: columns fall into different banks
inline constexpr int warps = 4;

// S is the storage type. Shapes as in binding.py; gate and d_gate are null where the readout has none.
template <class S> struct Forward {
  const S *wx, *W;
  const Acc<S>* h0;
  const S* gate;
  S* y;
  Acc<S> *h_last, *h;
  int64_t B, T, D;
};

template <class S> struct Backward {
  const S *W, *gate;
  const Acc<S>* h;
  const S* d_y;
  const Acc<S>* d_h_last;
  S *d_wx, *d_gate;
  Acc<S>* d_h0;
  int64_t B, T, D;
};

template <class A> struct Layout {
  Carve carve;
  unsigned matrix, vectors, parts;
  ELMAN_BOTH Layout()
      : matrix(carve.take<A>(warps * tile * stride)),
        vectors(carve.take<A>(warps * tile * stride)),
        parts(carve.take<A>(warps * tile * tile)) {}
};

// The block's place: its first channel and batch row.
struct Place {
  int64_t channel, row;
  ELMAN_FN explicit Place(int64_t D) {
    const int64_t tiles = D / tile;
    channel = block_x() % tiles * tile;
    row = block_x() / tiles * tile;
  }
};

// Leave in `parts` each warp's share of out[b][i] = sum_k M[i][k] v[b][k], where M is W or, transposed, W^T, over the first
// `terms` values of k (D or none); then wait for all warps.
// `vector(b, k)` is element k of batch row b, rounded to the operand's type.
template <class S, bool transposed, class Vector>
ELMAN_FN void multiply(const S* W, int64_t B, int64_t D, int64_t terms, const Place& at, const Vector& vector) {
  using A = Acc<S>;
  const Layout<A> layout;
  A* matrix = shared<A>(layout.matrix, warps * tile * stride) + warp() * tile * stride;
  A* vectors = shared<A>(layout.vectors, warps * tile * stride) + warp() * tile * stride;
  A* parts = shared<A>(layout.parts, warps * tile * tile) + warp() * tile * tile;
  const int i0 = lane() % 8 * 2, b0 = lane() / 8 * 4;  // a lane sums 2 channels by 4 rows
  A sum[2][4] = {};
  for (int64_t k0 = (int64_t)warp() * tile; k0 < terms; k0 += warps * tile) {
#pragma unroll
    for (int n = 0; n < tile * tile / 32; ++n) {
      const int slow = n * 2 + lane() / 16, fast = lane() % 16;  // neighbouring lanes read neighbouring addresses
      const int k = transposed ? slow : fast, i = transposed ? fast : slow;
      matrix[k * stride + i] = transposed ? load(W + (k0 + k) * D + at.channel + i) : load(W + (at.channel + i) * D + k0 + k);
      vectors[fast * stride + slow] = at.row + slow < B ? vector(at.row + slow, k0 + fast) : A(0);
    }
    sync_warp();
#pragma unroll
    for (int k = 0; k < tile; ++k)
#pragma unroll
      for (int i = 0; i < 2; ++i)
#pragma unroll
        for (int b = 0; b < 4; ++b) sum[i][b] += matrix[k * stride + i0 + i] * vectors[k * stride + b0 + b];
    sync_warp();
  }
#pragma unroll
  for (int i = 0; i < 2; ++i)
#pragma unroll
    for (int b = 0; b < 4; ++b) parts[(b0 + b) * tile + i0 + i] = sum[i][b];
  sync_block();
}

// Call element(b, i, sum) for every output of the block's tile that lies inside the tensor.
template <class A, class Element> ELMAN_FN void each_output(int64_t B, const Place& at, const Element& element) {
  const A* parts = shared<A>(Layout<A>().parts, warps * tile * tile);
  for (int n = thread_x(); n < tile * tile; n += warps * 32) {
    if (at.row + n / tile >= B) continue;
    A sum = 0;
#pragma unroll
    for (int w = 0; w < warps; ++w) sum += parts[w * tile * tile + n];
    element(at.row + n / tile, at.channel + n % tile, sum);
  }
}

template <class Step, class S> ELMAN_KERNEL(warps * 32) forward_step(Forward<S> p, int64_t t) {
  using A = Acc<S>;
  const Place at(p.D);
  const A* from = t ? p.h + (t - 1) * p.D : p.h0;  // the former state, row b at b * skip
  const int64_t skip = t ? p.T * p.D : p.D;
  multiply<S, false>(p.W, p.B, p.D, p.D, at, [=](int64_t b, int64_t k) { return rounded<S>(from[b * skip + k]); });
  each_output<A>(p.B, at, [=](int64_t b, int64_t i, A sum) {
    const int64_t n = (b * p.T + t) * p.D + i;
    const A h = Step::state(load(p.wx + n) + sum);
    p.h[n] = h;
    store(p.y + n, Step::readout(h, p.gate ? load(p.gate + n) : A(0)));
    if (t == p.T - 1) p.h_last[b * p.D + i] = h;
  });
}

// The state's gradient at t: what the readout gives, and W^T d_pre[t+1] or, at the end, the gradient of the last state.
// Step -1 leaves the gradient of h0.
template <class Step, class S> ELMAN_KERNEL(warps * 32) backward_step(Backward<S> p, int64_t t) {
  using A = Acc<S>;
  const Place at(p.D);
  const S* next = p.d_wx + (t + 1) * p.D;
  const bool last = t == p.T - 1;
  multiply<S, true>(p.W, p.B, p.D, last ? 0 : p.D, at, [=](int64_t b, int64_t k) { return load(next + b * p.T * p.D + k); });
  each_output<A>(p.B, at, [=](int64_t b, int64_t i, A sum) {
    if (t < 0) {
      p.d_h0[b * p.D + i] = sum;
      return;
    }
    const int64_t n = (b * p.T + t) * p.D + i;
    const A h = p.h[n], d_y = load(p.d_y + n);
    const Pair<A> slope = Step::readout_slope(h, p.gate ? load(p.gate + n) : A(0));
    const A d_h = (last ? p.d_h_last[b * p.D + i] : sum) + d_y * slope.x;
    store(p.d_wx + n, d_h * Step::state_slope(h));
    if (p.d_gate) store(p.d_gate + n, d_y * slope.y);
  });
}

template <class Tensors> Status check(const char* name, const Tensors& p) {
  if (p.T < 1 || p.B < 1) return refuse("%s: B=%lld and T=%lld must be at least 1", name, (long long)p.B, (long long)p.T);
  if (p.D < 1 || p.D % tile)
    return refuse("%s: D=%lld is not a multiple of %d, the kernel's tile. Choose a width that is.", name, (long long)p.D, tile);
  return 0;
}

// Blocks of one step.
inline int64_t blocks(int64_t B, int64_t D) { return D / tile * ceil_div<int64_t>(B, tile); }

template <class Step, class S> Status forward(const char* name, const Forward<S>& p, Stream stream) {
  ELMAN_TRY(check(name, p));
  for (int64_t t = 0; t < p.T; ++t)
    ELMAN_TRY(launch(forward_step<Step, S>, name, blocks(p.B, p.D), warps * 32, Layout<Acc<S>>().carve.bytes, stream, p, t));
  return 0;
}

template <class Step, class S> Status backward(const char* name, const Backward<S>& p, Stream stream) {
  ELMAN_TRY(check(name, p));
  for (int64_t t = p.T - 1; t >= -1; --t)
    ELMAN_TRY(launch(backward_step<Step, S>, name, blocks(p.B, p.D), warps * 32, Layout<Acc<S>>().carve.bytes, stream, p, t));
  return 0;
}
}  // namespace elman::dense
