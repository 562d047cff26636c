#pragma once
// How a warp of the pointwise family reads tensors over time: ahead of their use, through a ring in shared memory.
#include <elman/elman.cuh>

namespace elman::pointwise {
inline constexpr int lanes = 32;  // of a warp, which copies for itself
inline constexpr int steps = 8;  // of a stage: what is copied at once

// Channels of a warp, counted over [B, D], and the first of them.
template <class C> inline constexpr int row = lanes * C::CHANNELS;
template <class C> ELMAN_FN int first_channel() { return ((int)block_x() * C::WARPS + (int)warp()) * row<C>; }
// Elements of a stage of one tensor.
template <class C> inline constexpr int stage = steps * row<C>;

// Slots of a ring whose stages have `bytes`: the one that is read, and enough others to keep C::FLIGHT KiB on the way.
template <class C> ELMAN_BOTH int slots(int bytes) { return 1 + max_of(1, ceil_div(C::FLIGHT * 1024, bytes)); }

// Where a channel is: the batch row b and the channel d of it.
struct Place {
  int flat, b, d;
  bool valid;
  ELMAN_FN Place(int flat, int B, int D) : flat(flat), b(flat / D), d(flat % D), valid(flat < B * D) {}
};

// N tensors [B, rows, ...] of E, alike but for where they begin, read step by step from time `first` on, `every` elements from
// a step to the next (negative: backwards). Each lane copies one chunk of 16 bytes of some steps of a stage; a chunk is
// channels of one batch row, since D is a multiple of 8.
template <class E, class C, int N> struct Reader {
  static constexpr int width = 16 / (int)sizeof(E), chunks = row<C> / width, together = lanes / chunks, copies = steps / together;
  static_assert(chunks <= lanes && copies * together == steps && width <= 8);
  const E* from[N];
  int step, every, place;

  ELMAN_FN Reader(const E* const (&tensors)[N], int B, int D, int64_t rows, int64_t first, int pitch, int direction) {
    const int chunk = (int)lane() % chunks, mine = (int)lane() / chunks;
    const Place at(first_channel<C>() + chunk * width, B, D);
    every = direction * pitch;
    const int64_t offset = (at.b * rows + first) * pitch + at.d + (int64_t)mine * every;
#pragma unroll
    for (int i = 0; i < N; ++i) from[i] = tensors[i] + offset;
    step = at.valid ? mine : INT32_MAX / 2;  // a chunk past the last channel is never due
    place = mine * row<C> + chunk * width;
  }
  // Begin to copy a stage, of which `left` steps exist, to its slot [N, steps, row].
  ELMAN_FN void fetch(E* slot, int left) {
#pragma unroll
    for (int i = 0; i < N; ++i) {
#pragma unroll
      for (int j = 0; j < copies; ++j)
        if (step + j * together < left)
          copy16_async(slot + i * stage<C> + place + j * together * row<C>, from[i] + (int64_t)j * together * every);
      from[i] += (int64_t)steps * every;
    }
  }
};

// One or two neighbouring channels in one access.
template <class E, int N> ELMAN_FN void get(Acc<E> (&x)[N], const E* from) {
  if constexpr (N == 2) {
    const Pair<Acc<E>> both = load2(from);
    x[0] = both.x, x[1] = both.y;
  } else {
    x[0] = load(from);
  }
}
template <class E, int N> ELMAN_FN void put(E* to, const Acc<E> (&x)[N]) {
  if constexpr (N == 2) store2(to, x[0], x[1]);
  else store(to, x[0]);
}
}  // namespace elman::pointwise
