#pragma once
// The mathematics of E74 on a diagonal state [M]: README.md, equations 2 to 6, but for what one step waits for of the one before,
// which is made small here and walked through in walk.cuh. A team of lanes has a step; each lane has E neighbouring elements.
#include <elman/families/matrix_state/vectors.cuh>

#include "form.cuh"

namespace e74 {
namespace vectors = elman::matrix_state;  // neighbouring elements in wide accesses

// WIDTH lanes, the same again in each such group of a warp, that have a vector among them: each E neighbouring elements, or none,
// which are zeros to it.
template <int WIDTH> struct Lanes {
  static constexpr int elements(int M) {
    int each = elman::ceil_div(M, WIDTH);
    while (M % each) ++each;
    return each;
  }
  static constexpr int W = WIDTH, M = args::Constant::M, E = elements(M), used = M / E;
  static_assert(32 % W == 0 && used <= W, "a warp has whole groups");
  using Slice = vectors::Slice<scalar, E>;
  const int first = (int)elman::lane() % W * E;
  const bool mine = used == W || (int)elman::lane() % W < used;
  ELMAN_FN void get(acc (&x)[E], const acc* vector) const {
    if (mine) {
      vectors::read(x, vector + first);
    } else {
#pragma unroll
      for (int j = 0; j < E; ++j) x[j] = 0;
    }
  }
  ELMAN_FN Slice slice(const scalar* vector) const {
    Slice s{};
    if (mine) s = vectors::read_slice<E>(vector + first);
    return s;
  }
  ELMAN_FN void put(acc* vector, const acc (&x)[E]) const {
    if (mine) vectors::write(vector + first, x);
  }
  ELMAN_FN void put_rounded(scalar* vector, const acc (&x)[E]) const {
    if (mine) vectors::write_slice(vector + first, x);
  }
  // Where the groups of a warp have the same.
  ELMAN_FN void put_once(acc* vector, const acc (&x)[E]) const {
    if ((int)elman::lane() < used) vectors::write(vector + first, x);
  }
};

// A block works on the steps of a chunk side by side: its workers are a team for each. With teams of eight lanes a sum over a
// vector takes three shuffles, for four steps at once; binding.py chooses chunks so that a lane has at most four elements.
inline constexpr int workers = 256;

struct Diagonal : Form, Lanes<workers / args::Constant::K> {
  static constexpr int some = PARAMETERS > 0 ? PARAMETERS : 1;
  struct Raw {
    Slice x[VECTORS];
  };
  // A step, as far as its derivative needs it. `extra` is what the update or the memory gate has first: a decay, an erase gate, a
  // scale, a write gate, that one's logit (energy), or gamma.
  struct Step {
    acc q[E], k[E], v[E], z[E], reader[E], extra[E], write[E], delta[E], weight[E], u[E], theta[E], after[E], d_r[E], factor;
    Norm by;
  };

  int64_t T, H, bh, b, h;
  acc parameter[some][E] = {};
  template <class Args>
  ELMAN_FN explicit Diagonal(const Args& a)
      : T(a.T), H(a.H), bh(elman::block_x()), b(bh / a.H), h(bh % a.H) {
    for (int i = 0; i < PARAMETERS; ++i) get(parameter[i], a.parameters + (h * PARAMETERS + i) * M);
  }
  ELMAN_FN static acc sum(const acc (&x)[E]) {
    acc total = 0;
#pragma unroll
    for (int j = 0; j < E; ++j) total += x[j];
    return elman::warp_sum<W>(total);
  }
  template <class A> ELMAN_FN A* vector(A* projected, int64_t t, int i) const {
    return projected + (((b * T + t) * VECTORS + i) * H + h) * M;
  }
  template <class A> ELMAN_FN A* output(A* y, int64_t t) const { return y + ((b * T + t) * H + h) * M; }
  template <class A> ELMAN_FN A* state(A* states, int64_t t) const { return states + (bh * (T + 1) + t) * M; }
  // Past either end of the sequence it is the step there: what is read is finite, and nothing may be written.
  ELMAN_FN int64_t inside(int64_t t) const { return elman::max_of(elman::min_of(t, T - 1), int64_t(0)); }
  template <class Args> ELMAN_FN Raw load(const Args& a, int64_t t) const {
    Raw raw;
#pragma unroll
    for (int i = 0; i < VECTORS; ++i) raw.x[i] = slice(vector(a.projected, t, i));
    return raw;
  }

  static constexpr bool has_logit = ema || ntm || retrieved || energy, has_extra = keeps || ntm || residual || weighs;
  // What a step has of its raw vectors alone, after which no step needs the raw ones but for the readout's gate.
  ELMAN_FN void prepare(Step& now, const Raw& raw) const {
    acc square[E];
#pragma unroll
    for (int j = 0; j < E; ++j) {
      now.q[j] = raw.x[QUERY][j], now.k[j] = raw.x[KEY][j], now.v[j] = raw.x[VALUE][j];
      square[j] = now.k[j] * now.k[j];
    }
    now.factor = elman::rsqrt_for<scalar>(sum(square) + acc(1e-12));
#pragma unroll
    for (int j = 0; j < E; ++j) {
      now.k[j] *= now.factor;
      now.z[j] = modulated ? raw.x[modulated ? Z : 0][j] + parameter[Z_BIAS][j] : acc(1);
      now.reader[j] = now.z[j] * now.k[j];
      now.extra[j] = parameter[has_extra ? FIRST : 0][j];
      if (has_logit) now.extra[j] += raw.x[has_logit ? LOGIT : 0][j];
      if (has_logit && !energy) now.extra[j] = elman::sigmoid_for<scalar>(now.extra[j]);
      now.write[j] = raw.x[ntm ? WRITE_LOGIT : 0][j] + parameter[ntm ? SECOND : 0][j];
      if (ntm) now.write[j] = elman::sigmoid_for<scalar>(now.write[j]);
      now.weight[j] = retrieved ? now.extra[j] : ema ? 1 - now.extra[j] : ntm ? now.write[j] : acc(1);
    }
  }
  ELMAN_FN static acc keep(const Step& now, int j) {
    return keeps ? now.extra[j] : ntm ? 1 - now.extra[j] * now.k[j] : acc(1);
  }

  // What a forward step does with the former state s: P = SLOPE s + WRITE, that is keep s + w k (v - s reader). Without its keep
  // that is the argument of a residual's tanh, and what a memory gate weighs; the energy gate needs the error by itself. What goes
  // into a tanh has that one's scale already.
  enum { SLOPE, WRITE };
  enum { READER, ENERGY_VALUE, ENERGY_LOGIT, ENERGY_KEY };
  static constexpr bool affine = !(residual || memory_gate || energy);
  static constexpr int links = energy ? 4 : 2, result = energy ? ENERGY_VALUE : WRITE;  // the state takes the place of `result`
  static constexpr acc scale = tanh ? elman::tanh_scale<scalar> : acc(1), inner = residual ? elman::tanh_scale<scalar> : scale;
  ELMAN_FN static void link(acc (&x)[links][E], const Step& now) {
#pragma unroll
    for (int j = 0; j < E; ++j) {
      if (energy) {
        x[READER][j] = now.reader[j], x[ENERGY_VALUE][j] = now.v[j];
        x[energy ? ENERGY_LOGIT : 0][j] = now.extra[j], x[energy ? ENERGY_KEY : 0][j] = scale * now.k[j];
      } else {
        const acc along = inner * now.weight[j] * now.k[j];
        x[SLOPE][j] = (affine ? inner * keep(now, j) : acc(0)) - (reads ? along * now.reader[j] : acc(0));
        x[WRITE][j] = along * now.v[j];
      }
    }
  }

  ELMAN_FN acc readout_logit(const Raw& raw, acc r, int j) const {
    return input_gate ? raw.x[GATE][j] + parameter[input_gate ? GATE_BIAS : 0][j] : r;
  }
  ELMAN_FN void readout(acc (&y)[E], const Raw& raw, const acc (&after)[E]) const {
#pragma unroll
    for (int j = 0; j < E; ++j) {
      const acc r = after[j] * raw.x[QUERY][j];
      y[j] = r * elman::silu_for<scalar>(readout_logit(raw, r, j));
    }
  }

  // The rest of a prepared step, of the states before and after it: u = w (v - s reader), or what is written otherwise; theta =
  // tanh(u k); the factors of P's norm.
  ELMAN_FN void replay(Step& now, const acc (&s)[E]) const {
    acc square[E];
#pragma unroll
    for (int j = 0; j < E; ++j) {
      now.delta[j] = reads ? now.v[j] - s[j] * now.reader[j] : now.v[j];
      square[j] = now.delta[j] * now.delta[j];
    }
    const acc mean = energy ? sum(square) / M : acc(0);
#pragma unroll
    for (int j = 0; j < E; ++j) {
      if (energy) now.weight[j] = elman::sigmoid_for<scalar>(now.extra[j] + mean);
      if (memory_gate) now.weight[j] = share(now.extra[j] * s[j] + parameter[memory_gate ? SECOND : 0][j]);
      now.u[j] = now.weight[j] * now.delta[j];
      now.theta[j] = elman::tanh_scale<scalar> * now.u[j] * now.k[j];
    }
    if (residual) elman::tanh_each<scalar, 1>(now.theta);
#pragma unroll
    for (int j = 0; j < E; ++j) {
      const acc p = keep(now, j) * s[j] + (residual ? now.extra[j] * now.theta[j] : now.u[j] * now.k[j]);
      square[j] = p * p;
    }
    now.by = normed ? norm(sum(square), M) : Norm{1, 0};
  }

  // What a backward step does with the gradient c of the state after it: G = c + GIFT, and for each number of the whole state
  // (first the norm's, then the energy gate's) c = FACTOR G - MINUS <G, ALONG>; without any, c = FACTOR G.
  enum { GIFT, FACTOR, MINUS, ALONG };
  static constexpr int numbers = normed + energy, back_links = numbers ? 1 + 3 * numbers : 2;
  ELMAN_FN void link_back(acc (&x)[back_links][E], Step& now, const Raw& raw, const Slice& d_y, bool valid) const {
    constexpr int last = numbers > 1 ? 3 : 0;  // what the energy gate's are beside those of a norm
#pragma unroll
    for (int j = 0; j < E; ++j) {
      const acc r = now.after[j] * now.q[j], logit = readout_logit(raw, r, j);
      now.d_r[j] = valid ? d_y[j] * elman::silu_for<scalar>(logit) : acc(0);
      if (!input_gate) now.d_r[j] *= 2 + r * elman::sigmoid_for<scalar>(-r);
      x[GIFT][j] = now.d_r[j] * now.q[j];
      // dP/ds but for the energy gate's mean, and dS'/dP but for the norm's sum.
      acc slope = keep(now, j);
      const acc written = residual ? now.extra[j] * elman::tanh_slope(now.theta[j]) : acc(1);
      if (reads) slope -= written * now.k[j] * now.weight[j] * now.reader[j];
      if (memory_gate) slope += now.k[j] * now.delta[j] * share_slope(now.weight[j]) * now.extra[j];
      const acc bound = tanh ? elman::tanh_slope(now.after[j]) : acc(1), whole = numbers > 1 ? acc(1) : slope;
      x[FACTOR][j] = whole * (normed ? now.by.factor : bound);
      if (normed) x[numbers ? MINUS : 0][j] = whole * now.by.pull * now.after[j], x[numbers ? ALONG : 0][j] = now.after[j];
      if (energy) {
        if (normed) x[numbers > 1 ? FACTOR + 3 : 0][j] = slope;
        x[numbers ? MINUS + last : 0][j] = acc(2) / M * now.delta[j] * now.reader[j];
        x[numbers ? ALONG + last : 0][j] = bound * now.k[j] * now.delta[j] * elman::sigmoid_slope(now.weight[j]);
      }
      // A step past the end leaves the gradient as it is.
#pragma unroll
      for (int i = FACTOR; i < back_links; ++i)
        if (!valid) x[i][j] = i % 3 == FACTOR ? acc(1) : acc(0);
    }
  }

  // From G = dL/dS': the gradients of raw vectors, and those of the parameters added.
  ELMAN_FN void finish(const Step& now, const Raw& raw, const Slice& d_y, const acc (&s)[E], const acc (&G)[E],
                       acc (&d)[VECTORS][E], acc (&d_parameter)[some][E], bool valid) const {
    acc A[E], d_k[E], d_weight[E], d_logit[E], part[E];
#pragma unroll
    for (int j = 0; j < E; ++j) {
      if (input_gate) {
        const acc r = now.after[j] * now.q[j];
        d[GATE][j] = valid ? d_y[j] * r * elman::silu_slope_for<scalar>(readout_logit(raw, r, j)) : acc(0);
        d_parameter[input_gate ? GATE_BIAS : 0][j] += d[GATE][j];
      }
      A[j] = tanh ? G[j] * elman::tanh_slope(now.after[j]) : G[j];
      part[j] = now.after[j] * A[j];
    }
    const acc pull = normed ? sum(part) * now.by.pull : acc(0);
#pragma unroll
    for (int j = 0; j < E; ++j) {
      // With A = dL/dP: of what is written, u k or c tanh(u k), and of the former state's factor.
      if (normed) A[j] = A[j] * now.by.factor - pull * now.after[j];
      const acc d_write = residual ? A[j] * now.extra[j] * elman::tanh_slope(now.theta[j]) : A[j], d_keep = A[j] * s[j];
      const acc d_u = d_write * now.k[j];
      d_k[j] = d_write * now.u[j] - (ntm ? d_keep * now.extra[j] : acc(0));
      d_weight[j] = d_u * now.delta[j];
      d_logit[j] = residual ? A[j] * now.theta[j] : ntm ? -d_keep * now.k[j] : d_keep;  // of `extra`
      if (ema) d_logit[j] -= d_weight[j];
      if (retrieved) d_logit[j] = d_weight[j];
      if (has_logit && !energy) d_logit[j] *= elman::sigmoid_slope(now.extra[j]);
      if (energy) d_logit[j] = d_weight[j] * elman::sigmoid_slope(now.weight[j]);
      part[j] = d_u * now.weight[j];  // of delta
    }
    const acc total = energy ? acc(2) / M * sum(d_logit) : acc(0);
#pragma unroll
    for (int j = 0; j < E; ++j) {
      const acc d_delta = part[j] + total * now.delta[j], d_reader = reads ? -d_delta * s[j] : acc(0);
      if (memory_gate) {
        const acc d_share = d_weight[j] * share_slope(now.weight[j]);
        d_logit[j] = d_share * s[j];
        d_parameter[memory_gate ? SECOND : 0][j] += d_share;
      }
      if (has_extra) d_parameter[has_extra ? FIRST : 0][j] += d_logit[j];
      if (has_logit) d[has_logit ? LOGIT : 0][j] = d_logit[j];
      if (ntm) {
        const acc d_second = d_weight[j] * elman::sigmoid_slope(now.write[j]);
        d[ntm ? WRITE_LOGIT : 0][j] = d_second;
        d_parameter[ntm ? SECOND : 0][j] += d_second;
      }
      if (modulated) {
        d[modulated ? Z : 0][j] = d_reader * now.k[j];
        d_parameter[Z_BIAS][j] += d_reader * now.k[j];
      }
      d_k[j] += d_reader * now.z[j];
      part[j] = d_delta;
      d_logit[j] = now.k[j] * d_k[j];
    }
    const acc along = sum(d_logit);
#pragma unroll
    for (int j = 0; j < E; ++j) {
      const acc d_key = now.factor * (d_k[j] - now.k[j] * along), d_q = now.d_r[j] * now.after[j];
      d[KEY][j] = d_key + (QUERY == KEY ? d_q : acc(0)) + (VALUE == KEY ? part[j] : acc(0));
      if (QUERY != KEY) d[QUERY][j] = d_q;
      if (VALUE != KEY) d[VALUE][j] = part[j];
    }
  }
};
}  // namespace e74
