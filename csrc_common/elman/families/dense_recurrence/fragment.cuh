#pragma once
// Eight neighbouring elements as one lane holds them, and a warp's product of 16 rows by 8 columns over 32 terms on such fragments.
// * Lane 4 g + q holds terms 8 q to 8 q + 7 of the 32: of rows 2 g and 2 g + 1 of the left operand, of column g of the right one.
//   All three are neighbours in memory. (An mma takes other terms from a lane, but any order does that both operands share.)
// * It sums into d[0], d[1]: row 2 g, columns 2 q and 2 q + 1; d[2], d[3]: row 2 g + 1.
// * bf16 uses the tensor cores. float and double pass the right operand around the warp: slow, and the same terms in the same lanes.
#include <elman/elman.cuh>
#include <elman/stream.cuh>

namespace elman::dense {
template <class S> struct Eight {
  Words part[sizeof(S) / 2];
};

template <class S> ELMAN_FN Acc<S> element(const Eight<S>& v, int i) {
  static_assert(!is_bf16<S>);
  if constexpr (sizeof(S) == 4) return __builtin_bit_cast(float, v.part[i / 4].w[i % 4]);
  else {
    const uint32_t(&w)[4] = v.part[i / 2].w;
    return __builtin_bit_cast(double, (uint64_t)w[i % 2 * 2] | (uint64_t)w[i % 2 * 2 + 1] << 32);
  }
}

template <class S> ELMAN_FN void multiply_add(Acc<S> (&d)[4], const Eight<S> (&a)[2], const Eight<S>& b) {
  if constexpr (is_bf16<S>) {
    const uint32_t(&x)[4] = a[0].part[0].w, (&y)[4] = a[1].part[0].w, (&z)[4] = b.part[0].w;
    mma_m16n8k16_bf16(d, {x[0], y[0], x[1], y[1]}, {z[0], z[1]});
    mma_m16n8k16_bf16(d, {x[2], y[2], x[3], y[3]}, {z[2], z[3]});
  } else {
    const int q = lane() % 4;
#pragma unroll 1
    for (int p = 0; p < 4; ++p) {  // columns 2 p and 2 p + 1; not unrolled, for the sake of the compiler's time
      Acc<S> sum[4] = {};
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const Acc<S> x = shfl(element(b, i), 8 * p + q), y = shfl(element(b, i), 8 * p + 4 + q);
        sum[0] += element(a[0], i) * x;
        sum[1] += element(a[0], i) * y;
        sum[2] += element(a[1], i) * x;
        sum[3] += element(a[1], i) * y;
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        sum[i] = warp_sum<4>(sum[i]);
        if (q == p) d[i] += sum[i];
      }
    }
  }
}

// Elements [row][k..k+7] and [row + 1][k..k+7] of M, which is W or W^T; W is [D, D].
template <bool transposed, class S> ELMAN_FN void load_rows(Eight<S> (&to)[2], const S* W, int64_t D, int64_t row, int64_t k) {
  if constexpr (!transposed) {
#pragma unroll
    for (int r = 0; r < 2; ++r)
#pragma unroll
      for (unsigned n = 0; n < sizeof(S) / 2; ++n) to[r].part[n] = load_word<Words>(W + (row + r) * D + k + 16 / sizeof(S) * n);
  } else if constexpr (is_bf16<S>) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint32_t x = load_bits(W + (k + 2 * i) * D + row), y = load_bits(W + (k + 2 * i + 1) * D + row);
      to[0].part[0].w[i] = (x & 0xffffu) | y << 16;
      to[1].part[0].w[i] = x >> 16 | (y & 0xffff0000u);
    }
  } else {
    constexpr int words = sizeof(S) / 4;  // of an element
#pragma unroll
    for (int r = 0; r < 2; ++r)
#pragma unroll
      for (int i = 0; i < 8; ++i)
#pragma unroll
        for (int n = 0; n < words; ++n)
          to[r].part[(i * words + n) / 4].w[(i * words + n) % 4] = reinterpret_cast<const uint32_t*>(W + (k + i) * D + row + r)[n];
  }
}

// Two neighbouring elements as they are in memory: a value that waits in a register for a later step waits in this form.
template <class S> struct PackedOf { using type = uint32_t; };
template <> struct PackedOf<float> { using type = Word2f; };
template <> struct PackedOf<double> { using type = Word2d; };
template <class S> using Packed = typename PackedOf<S>::type;

template <class S> ELMAN_FN Packed<S> load_packed(const S* p) { return load_streamed(p); }  // read once in a pass
ELMAN_FN Pair<float> unpacked(uint32_t w) { return unpack(w); }
ELMAN_FN Pair<float> unpacked(Word2f w) { return {w.x, w.y}; }
ELMAN_FN Pair<double> unpacked(Word2d w) { return {w.x, w.y}; }

template <class S> ELMAN_FN Packed<S> packed(Pair<Acc<S>> v) {
  if constexpr (is_bf16<S>) return pack(v.x, v.y);
  else return {v.x, v.y};
}

template <class S> struct WordOf { using type = uint32_t; };
template <> struct WordOf<double> { using type = uint64_t; };

// The exchange: elements whose words are absent until published (exchange.cuh). bf16 travel in pairs.
template <class S> ELMAN_FN Eight<S> load_exchanged(const S* p) {
  Eight<S> v;
#pragma unroll
  for (unsigned n = 0; n < sizeof(S) / 2; ++n) v.part[n] = load_words(p + 16 / sizeof(S) * n);
  return v;
}

template <class S> ELMAN_FN bool complete(const Eight<S>& v) {
  constexpr uint32_t absent = ~0u;
  bool found = false;
#pragma unroll
  for (const Words& p : v.part)
    if constexpr (sizeof(S) == 8) found |= (p.w[0] & p.w[1]) == absent || (p.w[2] & p.w[3]) == absent;
    else found |= max_of(max_of(p.w[0], p.w[1]), max_of(p.w[2], p.w[3])) == absent;
  return !found;
}

template <class S> ELMAN_FN void publish(S* p, Pair<Acc<S>> v) {
  if constexpr (is_bf16<S>) publish_word(reinterpret_cast<uint32_t*>(p), pack(v.x, v.y));
  else {
    using Word = typename WordOf<S>::type;
    publish_word(reinterpret_cast<Word*>(p), present(__builtin_bit_cast(Word, v.x)));
    publish_word(reinterpret_cast<Word*>(p + 1), present(__builtin_bit_cast(Word, v.y)));
  }
}

template <class S> ELMAN_FN void erase(S* p) {
  if constexpr (is_bf16<S>) erase_word(reinterpret_cast<uint32_t*>(p));
  else {
    using Word = typename WordOf<S>::type;
    erase_word(reinterpret_cast<Word*>(p));
    erase_word(reinterpret_cast<Word*>(p + 1));
  }
}
}  // namespace elman::dense
