#pragma once
// Neighbouring elements in wide accesses, and the teams of lanes that prepare and finish the steps of
// <elman/families/matrix_state.cuh>.
#include <elman/elman.cuh>

namespace elman::matrix_state {

// W neighbouring elements in one access of at most 16 bytes.
template <class T, int W> struct alignas(W * sizeof(T) < 16 ? W * sizeof(T) : 16) Pack {
  T x[W];
};
template <class T> ELMAN_BOTH int pack_width(int count) {
  for (int w = 16 / (int)sizeof(T) < 4 ? 4 : 16 / (int)sizeof(T); w > 1; w /= 2)
    if (count % w == 0) return w;
  return 1;
}

template <int COUNT, class A> ELMAN_FN void read(A (&to)[COUNT], const A* from, int stride = 1) {
  constexpr int W = pack_width<A>(COUNT);
#pragma unroll
  for (int i = 0; i < COUNT / W; ++i) {
    const Pack<A, W> p = reinterpret_cast<const Pack<A, W>*>(from)[i * stride];
#pragma unroll
    for (int j = 0; j < W; ++j) to[i * W + j] = p.x[j];
  }
}
template <int COUNT, class A> ELMAN_FN void write(A* to, const A (&from)[COUNT], int stride = 1) {
  constexpr int W = pack_width<A>(COUNT);
#pragma unroll
  for (int i = 0; i < COUNT / W; ++i) {
    Pack<A, W> p;
#pragma unroll
    for (int j = 0; j < W; ++j) p.x[j] = from[i * W + j];
    reinterpret_cast<Pack<A, W>*>(to)[i * stride] = p;
  }
}
template <int COUNT, class A> ELMAN_FN void copy(A (&to)[COUNT], const A (&from)[COUNT]) {
#pragma unroll
  for (int i = 0; i < COUNT; ++i) to[i] = from[i];
}

// E neighbouring elements as they are stored; pairs of bf16 stay in one register.
template <class T, bool PAIRS> struct WordOf { using type = T; };
template <class T> struct WordOf<T, true> { using type = uint32_t; };
template <class T, int E> struct Slice {
  static constexpr bool pairs = is_bf16<T> && E % 2 == 0;
  using Word = typename WordOf<T, pairs>::type;
  static constexpr int words = pairs ? E / 2 : E;
  Word w[words];
  ELMAN_FN Acc<T> operator[](int i) const {
    if constexpr (pairs) {
      const Pair<float> both = unpack(w[i / 2]);
      return i % 2 ? both.y : both.x;
    } else {
      return load(w + i);
    }
  }
};

template <int E, class T> ELMAN_FN Slice<T, E> read_slice(const T* from) {
  Slice<T, E> s;
  read(s.w, reinterpret_cast<const typename Slice<T, E>::Word*>(from));
  return s;
}
template <int E, class A, class T> ELMAN_FN void write_slice(T* to, const A (&x)[E]) {
  using Word = typename Slice<T, E>::Word;
  Word w[Slice<T, E>::words];
#pragma unroll
  for (int i = 0; i < Slice<T, E>::words; ++i)
    if constexpr (Slice<T, E>::pairs) w[i] = pack(x[2 * i], x[2 * i + 1]);
    else store(w + i, x[i]);
  write(reinterpret_cast<Word*>(to), w);
}

// Which step of which head a team works on. Past the end of the sequence it is the last step, past the last head that head,
// and not `valid`: what is read there is finite, and nothing may be written.
struct Place {
  int b, t, h, T, H;
  bool head_valid, valid;
  ELMAN_FN Place(int bh, int heads, int T, int H)
      : b(min_of(bh, heads - 1) / H), t(0), h(min_of(bh, heads - 1) % H), T(T), H(H), head_valid(bh < heads), valid(false) {}
  ELMAN_FN void move_to(int step) {
    t = min_of(step, T - 1);
    valid = head_valid && step < T;
  }
  // Row of a tensor [B, T, ...], and of one [B, T, H].
  ELMAN_FN int step() const { return b * T + t; }
  ELMAN_FN int head() const { return step() * H + h; }
  // Element of a tensor [B, T, width]; in this order an address takes two instructions.
  template <class A> ELMAN_FN A* element(A* tensor, int width, unsigned column) const {
    auto* row = (char*)tensor + (int64_t)step() * (width * (int)sizeof(A));
    return (A*)(row + column * (unsigned)sizeof(A));
  }
};

// Lanes that work on one step of one head: each has an equal part of every vector, neighbouring elements. Eight, or sixteen
// where eight would not have the registers. Two or four for packed states, of whose vectors eight would have an element or two
// each: then the producers would issue as much as the consumers.
ELMAN_DIVISION int team_width(int N, int M, bool packed) {
  return packed ? N * M / 32 : N * M > 64 * 64 && N % 16 == 0 && M % 16 == 0 ? 16 : 8;
}
template <int N, int M, bool PACKED = false> struct Team {
  static constexpr int width = team_width(N, M, PACKED);
  int index, lane_;
  ELMAN_FN explicit Team(int producer) : index(producer / width), lane_(producer % width) {}
  ELMAN_FN bool first() const { return lane_ == 0; }
  // Sum over the team's lanes; the same bits in each.
  template <class A> ELMAN_FN A sum(A x) const { return warp_sum<width>(x); }

  // Where this lane's E elements of a head's vector begin in a tensor [B, T, H, vector], or from `column` on in one [B, T,
  // per_step].
  template <int E, class T> ELMAN_FN T* part(const Place& at, T* tensor) const {
    return part<E>(at, tensor, width * E * at.H, 0);
  }
  template <int E, class T> ELMAN_FN T* part(const Place& at, T* tensor, int per_step, int column) const {
    return at.element(tensor, per_step, column + at.h * (width * E) + lane_ * E);
  }
  // Its part of a vector: as numbers, and from numbers.
  template <int E, class A> ELMAN_FN void get(A (&x)[E], const A* vector) const { read(x, vector + lane_ * E); }
  template <int E, class A> ELMAN_FN void put(A* vector, const A (&x)[E]) const { write(vector + lane_ * E, x); }

  // x (|x|^2 + 1e-12)^(-1/2) over a vector: the factor, and the derivative
  // d_x = factor (d_unit - unit <unit, d_unit>), which needs no division by |x|.
  template <class T, int E, class A> ELMAN_FN A unit_factor(const A (&x)[E]) const {
    A total = 0;
#pragma unroll
    for (int j = 0; j < E; ++j) total += x[j] * x[j];
    return rsqrt_for<T>(sum(total) + A(1e-12));
  }
  template <int E, class A> ELMAN_FN void unit_backward(A (&d)[E], const A (&unit)[E], A factor) const {
    A total = 0;
#pragma unroll
    for (int j = 0; j < E; ++j) total += unit[j] * d[j];
    total = sum(total);
#pragma unroll
    for (int j = 0; j < E; ++j) d[j] = factor * (d[j] - unit[j] * total);
  }
};
}  // namespace elman::matrix_state
