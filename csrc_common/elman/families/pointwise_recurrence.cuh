#pragma once
// Recurrences without a product across channels: for each channel c
//   h[t, c] = update(h[t-1, c], in[t, c] + bias[c], vec[c]),   y[t, c] = readout(h[t, c], in[t, c] + bias[c], vec[c]).
// A variant supplies a Step, the one definition for both passes:
//   struct Step {
//     static constexpr int inputs, vectors;   // tensors [B, T, D], at least one, and vectors [D]
//     static constexpr bool biased;           // whether the inputs have biases
//     static constexpr bool gated;            // whether the readout depends on inputs or vectors
//     template <class S, class A>             // S is the storage type, A = Acc<S>; V = room(vectors)
//     static ELMAN_FN Term<A, inputs, V> update(A h, const A (&in)[inputs], const A (&vec)[V]);   // value and partial derivatives
//     ... readout(...) likewise; of it the passes use `value` and `h`, and where gated the rest
//   };
// Parts of Steps and common readouts are in pointwise_recurrence/steps.cuh.
// * Channels do not meet, so that the derivative of a step by the state is one number a channel: the backward pass forms it
//   ahead of the gradient, as the forward pass forms gates ahead of the state. What has to wait for the step before is little.
// * One launch a pass. A thread has CHANNELS neighbouring channels of [B, D], their states in registers, and walks over time.
//   Both passes move each byte once and are bound by memory, so what counts is how many bytes are on the way: inputs come by
//   asynchronous copies, stages of 8 steps ahead, FLIGHT KiB a warp (pointwise_recurrence/reader.cuh; docs/performance.md has
//   the sum); and how many of them are neighbours: the WARPS of a block begin a stage together, so that what they read and
//   write of a step is one piece of memory.
// * States are kept as h [B, T + 1, D] with h0 first, in Acc<S>; everything else that backward needs is computed again from the
//   inputs.
// * The gradient of a vector, biases included, is summed over time in a register, one partial sum for each batch row; torch
//   adds these. No atomics. Biases are the kernel's, since torch would read all of d_in again for their gradients.
// * C is `args::Constant`: CHANNELS, WARPS and FLIGHT. Any B and T of at least 1, any D that is a multiple of 8.
#include <elman/families/pointwise_recurrence/reader.cuh>
#include <elman/families/pointwise_recurrence/steps.cuh>

namespace elman::pointwise {

// I tensors [B, T, D], apart or side by side in one [B, T, I D]; `pitch` elements from a step to the next.
template <class E, int I> struct Rows {
  E* at[I];
  int pitch;
};
template <int I, class E> Rows<E, I> side_by_side(E* all, int64_t D) {
  Rows<E, I> rows{{}, (int)(I * D)};
  for (int i = 0; i < I; ++i) rows.at[i] = all + i * D;
  return rows;
}
template <class E, class... More> Rows<E, 1 + sizeof...(More)> apart(int64_t D, E* first, More*... more) {
  return {{first, more...}, (int)D};
}

// S is the storage type. Shapes as in binding.py: h [B, T + 1, D]; bias [I D], null for none; bias_part [B, I D], part one [B,
// D] for each vector.
template <class S, int I, int V> struct Forward {
  Rows<const S, I> in;
  const Acc<S>*bias, *vec[V], *h0;
  S* y;
  Acc<S> *h_last, *h;
  int64_t B, T, D;
};
template <class S, int I, int V> struct Backward {
  Rows<const S, I> in;
  const Acc<S>*bias, *vec[V], *h;
  const S* d_y;
  const Acc<S>* d_h_last;
  Rows<S, I> d_in;
  Acc<S>*bias_part, *part[V], *d_h0;
  int64_t B, T, D;
};

// Shared memory: of each warp a ring for each kind of tensor that is read.
template <class C, class S, int I> struct ForwardShared {
  static constexpr int depth = slots<C>(stage<C> * I * sizeof(S)), ring = depth * I * stage<C>;
  Carve carve;
  unsigned in = carve.template take<S>(C::WARPS * ring);
};
template <class C, class S, int I> struct BackwardShared {
  static constexpr int depth = slots<C>(stage<C> * ((I + 1) * sizeof(S) + sizeof(Acc<S>)));
  static constexpr int ring = depth * (I + 1) * stage<C>, states = depth * stage<C>;
  Carve carve;
  unsigned in = carve.template take<S>(C::WARPS * ring), h = carve.template take<Acc<S>>(C::WARPS * states);
};
// A warp's part of an array that has one of `count` elements for each.
template <class C, class E> ELMAN_FN E* of_warp(unsigned offset, int count) {
  return shared<E>(offset, C::WARPS * count) + (int)warp() * count;
}

// Walk over `total` steps in stages: fetch(slot, left) begins the copies of a stage, of which `left` steps exist;
// walk<whole>(slot, left) takes it, `whole` where all its steps and all the warp's channels exist.
template <class C, int depth, class Fetch, class Walk> ELMAN_FN void run(int total, bool full, const Fetch& fetch, const Walk& walk) {
  const auto begin = [&](int first, int slot) {
    if (first < total) fetch(slot, total - first);
    copy_commit();  // an empty one at the end, so that a wait counts stages
  };
  for (int s = 0; s < depth - 1; ++s) begin(s * steps, s);
  int slot = 0, free = depth - 1;
  for (int first = 0; first < total; first += steps) {
    copy_wait<depth - 2>();
    // All lanes' copies of this stage have come, and all lanes have read the one before, whose slot is filled now.
    if constexpr (C::WARPS > 1) sync_block();
    else sync_warp();
    begin(first + (depth - 1) * steps, free);
    const int left = total - first;
    if (full && left >= steps) walk.template operator()<true>(slot, steps);
    else walk.template operator()<false>(slot, left);
    free = slot;
    slot = slot + 1 == depth ? 0 : slot + 1;
  }
}

// What a thread knows of its channels: where they are, and biases and vectors there.
template <class C, class A, int I, int V> struct Channels {
  static constexpr int N = C::CHANNELS;
  Place at;
  bool full;  // whether the whole warp has channels
  A bias[N][I] = {}, vec[N][V] = {};

  ELMAN_FN Channels(const A* biases, const A* const (&vectors)[V], int B, int D)
      : at(first_channel<C>() + (int)lane() * N, B, D), full(first_channel<C>() + row<C> <= B * D) {
    if (!at.valid) return;
#pragma unroll
    for (int n = 0; n < N; ++n) {
#pragma unroll
      for (int i = 0; i < I; ++i)
        if (biases) bias[n][i] = biases[i * D + at.d + n];
#pragma unroll
      for (int j = 0; j < V; ++j)
        if (vectors[j]) vec[n][j] = vectors[j][at.d + n];
    }
  }
  // The first channel's element of time t in a tensor [B, rows, ...] of this pitch.
  ELMAN_FN int64_t cell(int64_t rows, int64_t t, int pitch) const { return (at.b * rows + t) * pitch + at.d; }
};

// The I inputs of step k of a stage, [I, steps, row] in shared memory, for each channel, with their biases where there are any.
template <bool biased, class S, class C, int N, int I>
ELMAN_FN void get_inputs(Acc<S> (&x)[N][I], const Acc<S> (&bias)[N][I], const S* slot, int k) {
#pragma unroll
  for (int i = 0; i < I; ++i) {
    Acc<S> of_input[N];
    get(of_input, slot + i * stage<C> + k * row<C> + (int)lane() * N);
#pragma unroll
    for (int n = 0; n < N; ++n) x[n][i] = biased ? of_input[n] + bias[n][i] : of_input[n];
  }
}

template <class Step, class C, class S, int I, int V> ELMAN_KERNEL(lanes * C::WARPS) forward_pass(const Forward<S, I, V> p) {
  using A = Acc<S>;
  using Shared = ForwardShared<C, S, I>;
  constexpr int N = C::CHANNELS;
  const int B = (int)p.B, T = (int)p.T, D = (int)p.D;
  const Channels<C, A, I, V> mine(p.bias, p.vec, B, D);
  S* const ring = of_warp<C, S>(Shared().in, Shared::ring);
  Reader<S, C, I> in(p.in.at, B, D, T, 0, p.in.pitch, 1);

  A h[N] = {};
  S* y = p.y + mine.cell(T, 0, D);
  A* kept = p.h + mine.cell(T + 1, 0, D);
  if (mine.at.valid) {
    get(h, p.h0 + mine.at.flat);
    put(kept, h);
  }
  kept += D;
  const auto fetch = [&](int slot, int left) { in.fetch(ring + slot * I * stage<C>, left); };
  const auto walk = [&]<bool whole>(int slot, int left) {
    const S* const from = ring + slot * I * stage<C>;
    A x[steps][N][I];
#pragma unroll
    for (int k = 0; k < steps; ++k) get_inputs<Step::biased, S, C>(x[k], mine.bias, from, k);
#pragma unroll
    for (int k = 0; k < steps; ++k) {
      if (!whole && k >= left) break;
      A out[N];
#pragma unroll
      for (int n = 0; n < N; ++n) {
        h[n] = Step::template update<S>(h[n], x[k][n], mine.vec[n]).value;
        out[n] = Step::template readout<S>(h[n], x[k][n], mine.vec[n]).value;
      }
      if (whole || mine.at.valid) {
        put(y + k * D, out);
        put(kept + k * D, h);
      }
    }
    y += (int64_t)steps * D;
    kept += (int64_t)steps * D;
  };
  run<C, Shared::depth>(T, mine.full, fetch, walk);
  if (mine.at.valid) put(p.h_last + mine.at.flat, h);
}

// With c the gradient of h[t] from later times:  d_h = c + d_y d readout / d h,   c = d_h d update / d h  for h[t-1],
// d_in = d_h d update / d in + d_y d readout / d in,   and so for vec, summed over t.
template <class Step, class C, class S, int I, int V> ELMAN_KERNEL(lanes * C::WARPS) backward_pass(const Backward<S, I, V> p) {
  using A = Acc<S>;
  using Shared = BackwardShared<C, S, I>;
  constexpr int N = C::CHANNELS, width = (I + 1) * stage<C>;
  const int B = (int)p.B, T = (int)p.T, D = (int)p.D;
  const Channels<C, A, I, V> mine(p.bias, p.vec, B, D);
  S* const ring = of_warp<C, S>(Shared().in, Shared::ring);
  A* const states = of_warp<C, A>(Shared().h, Shared::states);
  Reader<S, C, I> in(p.in.at, B, D, T, T - 1, p.in.pitch, -1);
  Reader<S, C, 1> d_y({p.d_y}, B, D, T, T - 1, D, -1);
  Reader<A, C, 1> former({p.h}, B, D, T + 1, T - 1, D, -1);  // h before each step

  A c[N] = {}, h[N] = {}, d_bias[N][I] = {}, d_vec[N][V] = {};
  if (mine.at.valid) {
    get(c, p.d_h_last + mine.at.flat);
    get(h, p.h + mine.cell(T + 1, T, D));
  }
  int64_t cell = mine.cell(T, T - 1, p.d_in.pitch);
  const auto fetch = [&](int slot, int left) {
    in.fetch(ring + slot * width, left);
    d_y.fetch(ring + slot * width + I * stage<C>, left);
    former.fetch(states + slot * stage<C>, left);
  };
  const auto walk = [&]<bool whole>(int slot, int left) {
    const S* const from = ring + slot * width;
    A x[steps][N][I], out[steps][N], before[steps][N];
#pragma unroll
    for (int k = 0; k < steps; ++k) {
      get_inputs<Step::biased, S, C>(x[k], mine.bias, from, k);
      get(out[k], from + I * stage<C> + k * row<C> + (int)lane() * N);
      get(before[k], states + slot * stage<C> + k * row<C> + (int)lane() * N);
    }
#pragma unroll
    for (int k = 0; k < steps; ++k) {
      if (!whole && k >= left) break;
      A d_in[I][N];
#pragma unroll
      for (int n = 0; n < N; ++n) {
        const auto read = Step::template readout<S>(h[n], x[k][n], mine.vec[n]);
        const auto step = Step::template update<S>(before[k][n], x[k][n], mine.vec[n]);
        const A d_out = out[k][n], d = c[n] + d_out * read.h;
        c[n] = d * step.h;
        h[n] = before[k][n];
#pragma unroll
        for (int i = 0; i < I; ++i) {
          d_in[i][n] = Step::gated ? d * step.in[i] + d_out * read.in[i] : d * step.in[i];
          if (Step::biased) d_bias[n][i] += d_in[i][n];
        }
#pragma unroll
        for (int j = 0; j < Step::vectors; ++j) d_vec[n][j] += Step::gated ? d * step.vec[j] + d_out * read.vec[j] : d * step.vec[j];
      }
      if (whole || mine.at.valid)
#pragma unroll
        for (int i = 0; i < I; ++i) put(p.d_in.at[i] + cell - k * p.d_in.pitch, d_in[i]);
    }
    cell -= (int64_t)steps * p.d_in.pitch;
  };
  run<C, Shared::depth>(T, mine.full, fetch, walk);
  if (!mine.at.valid) return;
  put(p.d_h0 + mine.at.flat, c);
#pragma unroll
  for (int n = 0; n < N; ++n) {
#pragma unroll
    for (int i = 0; i < I; ++i)
      if (Step::biased) p.bias_part[((int64_t)mine.at.b * I + i) * D + mine.at.d + n] = d_bias[n][i];
#pragma unroll
    for (int j = 0; j < Step::vectors; ++j) p.part[j][mine.at.flat + n] = d_vec[n][j];
  }
}

template <class C, class Tensors> Status check(const char* name, const Tensors& p) {
  if (p.T < 1 || p.B < 1) return refuse("%s: B=%lld and T=%lld must be at least 1", name, (long long)p.B, (long long)p.T);
  if (p.D < 1 || p.D % 8)
    return refuse("%s: D=%lld is not a multiple of 8, the channels of a 16-byte copy. Choose a width that is.", name, (long long)p.D);
  if (p.B * p.D > INT32_MAX - C::WARPS * row<C> || p.T > INT32_MAX - 64 * steps || p.D > INT32_MAX / 64)
    return refuse("%s: B=%lld, T=%lld or D=%lld is beyond 2^31 channels or steps", name, (long long)p.B, (long long)p.T, (long long)p.D);
  return 0;
}

template <class C, class Shared, class Tensors>
Status launch_pass(void (*kernel)(Tensors), const char* name, const Tensors& p, Stream stream) {
  ELMAN_TRY(check<C>(name, p));
  return launch(kernel, name, ceil_div<int64_t>(p.B * p.D, C::WARPS * row<C>), lanes * C::WARPS, Shared().carve.bytes, stream, p);
}

// `a` is the variant's args::Forward, with h0, y, h_last, h and, where Step::biased, bias by these names; `in` its inputs,
// `vec` its vectors; C is args::Constant.
template <class Step, class C, class Args, class S, int I, int V>
Status forward(const char* name, const Args& a, const Rows<const S, I>& in, const Acc<S>* const (&vec)[V]) {
  static_assert(I == Step::inputs && V == room(Step::vectors));
  Forward<S, I, V> p{in, nullptr, {}, a.h0, a.y, a.h_last, a.h, a.B, a.T, a.D};
  if constexpr (Step::biased) p.bias = a.bias;
  for (int j = 0; j < V; ++j) p.vec[j] = vec[j];
  return launch_pass<C, ForwardShared<C, S, I>>(forward_pass<Step, C, S, I, V>, name, p, a.stream);
}
template <class Step, class C, class Args, class S, int I>
Status forward(const char* name, const Args& a, const Rows<const S, I>& in) {
  return forward<Step, C, Args, S, I, 1>(name, a, in, {nullptr});
}

// `a` is the variant's args::Backward: the above, the gradients d_y, d_h_last and d_h0, and bias_part; `part` where each
// vector's partial sums go.
template <class Step, class C, class Args, class S, int I, int V>
Status backward(const char* name, const Args& a, const Rows<const S, I>& in, const Acc<S>* const (&vec)[V], const Rows<S, I>& d_in,
                Acc<S>* const (&part)[V]) {
  static_assert(I == Step::inputs && V == room(Step::vectors));
  Backward<S, I, V> p{in, nullptr, {}, a.h, a.d_y, a.d_h_last, d_in, nullptr, {}, a.d_h0, a.B, a.T, a.D};
  if constexpr (Step::biased) p.bias = a.bias, p.bias_part = a.bias_part;
  for (int j = 0; j < V; ++j) p.vec[j] = vec[j], p.part[j] = part[j];
  return launch_pass<C, BackwardShared<C, S, I>>(backward_pass<Step, C, S, I, V>, name, p, a.stream);
}
template <class Step, class C, class Args, class S, int I>
Status backward(const char* name, const Args& a, const Rows<const S, I>& in, const Rows<S, I>& d_in) {
  return backward<Step, C, Args, S, I, 1>(name, a, in, {nullptr}, d_in, {nullptr});
}
}  // namespace elman::pointwise
