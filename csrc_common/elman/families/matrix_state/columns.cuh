#pragma once
// Sums over the rows of a state, in the backward pass: q's and k's gradients are products of a state, or its gradient, with a
// vector over rows.
#include <elman/families/matrix_state/tile.cuh>

namespace elman::matrix_state {

// Sum `COUNT` values over the lanes of a warp that hold different rows, halving at each level where the count is even. Where
// a level cannot halve, both lanes get the sum. A lane ends with `kept` sums; scattered_sums says which, and whether it is
// theirs to store. SPAN: lanes of a warp that add up, where not all do.
template <int MASK, int COUNT, int SPAN = 32> ELMAN_BOTH int kept_sums() {
  if constexpr (MASK >= SPAN) return COUNT;
  else return kept_sums<2 * MASK, COUNT % 2 ? COUNT : COUNT / 2, SPAN>();
}
template <int MASK, int COUNT, int SPAN = 32> ELMAN_FN void scattered_sums(int& first, bool& owner) {
  if constexpr (MASK < SPAN) {
    const bool upper = lane() & MASK;
    if (COUNT % 2 == 0) first += upper ? COUNT / 2 : 0;
    else owner = owner && !upper;
    scattered_sums<2 * MASK, COUNT % 2 ? COUNT : COUNT / 2, SPAN>(first, owner);
  }
}
template <int MASK, int COUNT, int SPAN = 32, class A, int TOTAL> ELMAN_FN void scatter_sums(A (&v)[TOTAL]) {
  if constexpr (MASK < SPAN) {
    if constexpr (COUNT % 2 == 0) {
      constexpr int half = COUNT / 2;
      const bool upper = lane() & MASK;
#pragma unroll
      for (int i = 0; i < half; ++i) {
        const A send = upper ? v[i] : v[i + half], keep = upper ? v[i + half] : v[i];
        v[i] = keep + shfl_xor(send, MASK);
      }
      scatter_sums<2 * MASK, half, SPAN>(v);
    } else {
#pragma unroll
      for (int i = 0; i < COUNT; ++i) v[i] += shfl_xor(v[i], MASK);
      scatter_sums<2 * MASK, COUNT, SPAN>(v);
    }
  }
}

// The gradients of a step's q and, negated, of k, as a part [2, N] of each warp that the state has, or of its lanes of a warp: x^T y is added to one of them, with x [R][C] of a
// lane's state and y [R]. Each lane sums its rows, and the lanes of a key share out the rest.
// With VECTORS = 1 the same of one further vector.
template <class A, class Tile, bool TURNED, int VECTORS = 2> struct Columns {
  // Turned, v is the first half of each vector's columns, then the second ones, which belong to a neighbour.
  static constexpr int R = Tile::R, C = Tile::C, N = Tile::N, part = TURNED ? C / 2 : C;
  static constexpr int first_level = TURNED ? 2 * Tile::KG : Tile::KG, count = VECTORS * part;
  static constexpr int kept = kept_sums<first_level, count, Tile::span>();
  static_assert(kept <= part || kept == count, "what a lane keeps is of one vector, or all of both");
  A v[VECTORS * C] = {};

  ELMAN_FN void query(const A (&x)[R][C], const A (&y)[R]) { add<0>(x, y); }
  ELMAN_FN void minus_key(const A (&x)[R][C], const A (&y)[R]) { add<part>(x, y); }
  ELMAN_FN void further(const A (&x)[R][C], const A (&y)[R]) { add<0>(x, y); }

  // Where a lane's sums go in the warp's part, and whether they are its to store; its columns begin at `column`.
  ELMAN_FN static int place(int column, bool& owner) {
    int first = 0;
    owner = true;
    scattered_sums<first_level, count, Tile::span>(first, owner);
    return column + first / part * N + first % part;
  }
  ELMAN_FN void store(A* to, bool owner) {
    if constexpr (TURNED) {
#pragma unroll
      for (int i = 0; i < count; ++i) v[i] += shfl_xor(v[count + i], Tile::KG);
    }
    scatter_sums<first_level, count, Tile::span>(v);
    if (!owner) return;
#pragma unroll
    for (int i = 0; i < kept; ++i) to[i / part * N + i % part] = v[i];
  }

 private:
  template <int AT> ELMAN_FN void add(const A (&x)[R][C], const A (&y)[R]) {
#pragma unroll
    for (int r = 0; r < R; ++r)
#pragma unroll
      for (int c = 0; c < C; ++c) v[c / part * count + AT + c % part] += x[r][c] * y[r];
  }
};

// Whether a Step gives the derivative of its nonlinearity by itself, after which it needs the state before the step only.
template <class Step, class A, int R, int C>
inline constexpr bool has_slope = requires(const A (&after)[R][C], A (&g)[R][C]) { Step::slope(after, g); };

// The gradients of a step that a lane has: of q, k and further vectors its warp's sums, of the row vectors the whole, of the scalars its part.
template <class Step, class Plan>
struct Gradients : Further<Columns<Acc<typename Step::Scalar>, typename Plan::Tile, Plan::turned, 1>, further_columns<Step>()> {
  using A = Acc<typename Step::Scalar>;
  Columns<A, typename Plan::Tile, Plan::turned> columns;
  A row[Step::rows][Plan::Tile::R], scalar[max_of(Step::grad_scalars, 1)] = {};
};

// The gradient of one record, summed over the warps that contributed, for a team's part.
template <class Step> struct RecordGradient {
  using A = Acc<typename Step::Scalar>;
  using Tile = typename Plan<Step, true>::Tile;
  const A *partial, *rows;  // of this step: [warps, vectors N], [rows, M]
  template <int E> ELMAN_FN void columns(const typename Step::Team& team, A (&d)[E], int from) const {
    team.get(d, partial + from);
#pragma unroll(E < 8 ? Tile::warps : 1)
    for (int w = 1; w < Tile::warps; ++w) {
      A more[E];
      team.get(more, partial + w * Record<Step>::vectors * Tile::N + from);
#pragma unroll
      for (int j = 0; j < E; ++j) d[j] += more[j];
    }
  }
  template <int E> ELMAN_FN void q(const typename Step::Team& team, A (&d)[E]) const { columns(team, d, 0); }
  template <int E> ELMAN_FN void minus_k(const typename Step::Team& team, A (&d)[E]) const { columns(team, d, Tile::N); }
  template <int E> ELMAN_FN void column(const typename Step::Team& team, int j, A (&d)[E]) const {
    columns(team, d, (2 + j) * Tile::N);
  }
  template <int E> ELMAN_FN void row(const typename Step::Team& team, int j, A (&d)[E]) const { team.get(d, rows + j * Tile::M); }
};
}  // namespace elman::matrix_state
