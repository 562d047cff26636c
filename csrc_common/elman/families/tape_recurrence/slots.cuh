#pragma once
// A row's slots shared out to the 8 lanes that have the channels of one of its tiles, sums over such lanes, and the words in which blocks share
// what they add to a row's values.
#include <elman/families/dense_recurrence/fragment.cuh>
#include <elman/segment.cuh>

namespace elman::tape {
inline constexpr int lanes = 8;

template <class A> ELMAN_FN Pair<A> operator+(Pair<A> a, Pair<A> b) { return {a.x + b.x, a.y + b.y}; }
template <class A> ELMAN_FN Pair<A> operator-(Pair<A> a, Pair<A> b) { return {a.x - b.x, a.y - b.y}; }
template <class A> ELMAN_FN Pair<A> operator*(Pair<A> a, Pair<A> b) { return {a.x * b.x, a.y * b.y}; }
template <class A> ELMAN_FN Pair<A> operator*(A a, Pair<A> b) { return {a * b.x, a * b.y}; }
template <class A> ELMAN_FN A dot(Pair<A> a, Pair<A> b) { return a.x * b.x + a.y * b.y; }

// e^x, for what is stored as S: of the hardware where that is bf16, as math.cuh's functions of this kind.
template <class S> ELMAN_FN Acc<S> exp_for(Acc<S> x) {
  if constexpr (is_bf16<S>) return exp2_near(1.44269504f * x);
  else return exp_of(x);
}

// Sums over lanes. A chain waits for each shuffle, so where lanes differ in two bits or three all shuffles are begun at once; sums are the
// same, bit by bit, as of one bit after the other. Lanes that are to have the same sum have the same bits of it.
template <class A> ELMAN_FN A sum_of_four(A x, int bit, int other) {  // over lanes that differ in these bits
  const A y = shfl_xor(x, bit), z = shfl_xor(x, other), both = shfl_xor(x, bit | other);
  return (x + y) + (z + both);
}
template <class A> ELMAN_FN A sum_of_eight(A x) {  // neighbouring lanes
  A y[7];
#pragma unroll
  for (int i = 0; i < 7; ++i) y[i] = shfl_xor(x, i + 1);
  return ((x + y[0]) + (y[1] + y[2])) + ((y[3] + y[4]) + (y[5] + y[6]));
}

// One of two numbers, summed with that of the lane on the other side of `bit`: the lane with the bit gets the sum of `high`. And the same over
// lanes that differ in bit `other`, too, where it is not 0.
template <class A> ELMAN_FN A halved(A low, A high, int bit, int other = 0) {
  const bool upper = lane() & bit;
  const A keep = upper ? high : low, send = upper ? low : high, got = shfl_xor(send, bit);
  if (!other) return keep + got;
  const A y = shfl_xor(keep, other), z = shfl_xor(send, bit | other);
  return (keep + got) + (y + z);
}

// The sum of each of 8 values over 8 neighbouring lanes, and lanes that differ in bit `other`; lane l of 8 gets that of x[l].
template <class A> ELMAN_FN A scattered_sum(A (&x)[lanes], int other) {
#pragma unroll
  for (int half = lanes / 2; half > 1; half /= 2)
#pragma unroll
    for (int i = 0; i < half; ++i) x[i] = halved(x[i], x[i + half], half);
  return halved(x[0], x[1], 1, other);
}

// Lane l has slots l, l + 8, ...
template <class A, int N> struct Slots {
  static constexpr int count = (N + lanes - 1) / lanes;
  A own[count];

  static ELMAN_FN int slot(int j) { return j * lanes + (int)lane() % lanes; }
  static ELMAN_FN bool present(int j) { return N % lanes == 0 || slot(j) < N; }
  // Slot n's number, on every lane of the row.
  ELMAN_FN A at(int n) const { return shfl_within<lanes>(own[n / lanes], n % lanes); }
  ELMAN_FN A sum() const {
    A s = own[0];
#pragma unroll
    for (int j = 1; j < count; ++j) s += own[j];
    return sum_of_eight(s);
  }
  template <class From> ELMAN_FN void fill(From from) {
#pragma unroll
    for (int j = 0; j < count; ++j) own[j] = present(j) ? from(slot(j), j) : A(0);
  }
  // Whether a score, scale times a number, is so far from zero that its exponential needs a shift.
  ELMAN_FN bool far_by(A scale) const {
    A size = abs_of(own[0]);
#pragma unroll
    for (int j = 1; j < count; ++j) size = max_of(size, abs_of(own[j]));
    return !(scale * size < 30);
  }
  // From scores to e^score, or e^(score - m) with m the row's largest, which takes three shuffles to find.
  template <class S> ELMAN_FN void exponentials(bool shifted) {
    A most = 0;
    if (shifted) {
      most = own[0];
#pragma unroll
      for (int j = 1; j < count; ++j)
        if (present(j)) most = max_of(most, own[j]);
      if (!present(0)) most = A(-3e38);
      most = warp_max<lanes>(most);
    }
    fill([&](int, int j) { return exp_for<S>(own[j] - most); });
  }
};

template <class A> struct alignas(16) Quad {
  A x, y, z, w;
};

// Four neighbouring values of the exchange, and one of them.
template <class A> struct Four {
  Words part[sizeof(A) / 4];
};

template <class A> ELMAN_FN Four<A> load_four(const A* p) {
  Four<A> v;
#pragma unroll
  for (unsigned n = 0; n < sizeof(A) / 4; ++n) v.part[n] = load_words(p + 16 / sizeof(A) * n);
  return v;
}

template <class A> ELMAN_FN A element(const Four<A>& v, int i) {
  if constexpr (sizeof(A) == 4) return __builtin_bit_cast(float, v.part[0].w[i]);
  else {
    const uint32_t(&w)[4] = v.part[i / 2].w;
    return __builtin_bit_cast(double, (uint64_t)w[i % 2 * 2] | (uint64_t)w[i % 2 * 2 + 1] << 32);
  }
}

// The largest word of what was looked at, of a double the bits that both its halves have.
template <class A> ELMAN_FN uint32_t largest_of(const Words& p) {
  if constexpr (sizeof(A) == 8) return max_of(p.w[0] & p.w[1], p.w[2] & p.w[3]);
  else return max_of(max_of(p.w[0], p.w[1]), max_of(p.w[2], p.w[3]));
}
template <template <class> class V, class A> ELMAN_FN uint32_t largest(const V<A>& v) {
  uint32_t most = 0;
#pragma unroll
  for (const Words& p : v.part) most = max_of(most, largest_of<A>(p));
  return most;
}

template <class A> ELMAN_FN void publish_value(A* p, A x) {
  using Word = typename dense::WordOf<A>::type;
  publish_word(reinterpret_cast<Word*>(p), present(__builtin_bit_cast(Word, x)));
}
}  // namespace elman::tape
