#pragma once
// E74 on a diagonal state [M]: a warp for each (batch, head), an element or a few in each lane, so that norms over the vector are
// sums within the warp. Steps follow each other in one launch; raw vectors come a few steps early. README.md, equations 2 to 6.
// Forward keeps the state before every step. Elements past M are zeros, and stay so in every form.
#include "form.cuh"

namespace e74 {
struct Diagonal : Form {
  static constexpr int M = Constant::M, E = elman::ceil_div(M, 32), some = PARAMETERS > 0 ? PARAMETERS : 1;
  static constexpr int ahead = VECTORS * E <= 6 ? 4 : 2;  // steps whose raw vectors are on the way, in registers
  struct Raw {
    scalar x[VECTORS][E];
  };
  // A step, as far as its derivative needs it. `extra` is what the update or the memory gate has first: a decay, an erase gate, a
  // scale, a write gate, that one's logit (energy), or gamma.
  struct Step {
    acc q[E], k[E], v[E], z[E], reader[E], extra[E], write[E], delta[E], weight[E], u[E], theta[E], after[E], factor;
    Norm by;
  };

  int64_t T, H, bh, b, h;
  acc parameter[some][E] = {};
  template <class Args>
  ELMAN_FN explicit Diagonal(const Args& a) : T(a.T), H(a.H), bh(elman::block_x()), b(bh / a.H), h(bh % a.H) {
    for (int i = 0; i < PARAMETERS; ++i) get(parameter[i], a.parameters + (h * PARAMETERS + i) * M);
  }
  // This lane's elements of a vector: element i is lane i % 32's.
  template <class A> ELMAN_FN static void get(A (&x)[E], const A* from) {
#pragma unroll
    for (int j = 0; j < E; ++j) {
      const int i = (int)elman::lane() + 32 * j;
      x[j] = i < M ? from[i] : A{};
    }
  }
  template <class A> ELMAN_FN static void put(A* to, const acc (&x)[E]) {
#pragma unroll
    for (int j = 0; j < E; ++j) {
      const int i = (int)elman::lane() + 32 * j;
      if (i < M) elman::store(to + i, x[j]);
    }
  }
  ELMAN_FN static acc sum(const acc (&x)[E]) {
    acc total = 0;
#pragma unroll
    for (int j = 0; j < E; ++j) total += x[j];
    return elman::warp_sum(total);
  }
  template <class A> ELMAN_FN A* vector(A* projected, int64_t t, int i) const {
    return projected + (((b * T + t) * VECTORS + i) * H + h) * M;
  }
  template <class A> ELMAN_FN A* output(A* y, int64_t t) const { return y + ((b * T + t) * H + h) * M; }
  template <class A> ELMAN_FN A* state(A* states, int64_t t) const { return states + (bh * T + t) * M; }
  template <class Args> ELMAN_FN void load(Raw& raw, const Args& a, int64_t t) const {
#pragma unroll
    for (int i = 0; i < VECTORS; ++i) get(raw.x[i], vector(a.projected, t, i));
  }
  ELMAN_FN static acc number(const Raw& raw, int i, int j) { return elman::load(&raw.x[i][j]); }

  ELMAN_FN static void tanh_all(acc (&x)[E]) {
#pragma unroll
    for (int j = 0; j < E; ++j) x[j] *= elman::tanh_scale<scalar>;
    elman::tanh_each<scalar, 1>(x);
  }
  ELMAN_FN acc readout_logit(const Raw& raw, acc r, int j) const {
    return input_gate ? number(raw, GATE, j) + parameter[input_gate ? GATE_BIAS : 0][j] : r;
  }

  // u = w (v - s reader), or what is written otherwise;  P = keep s + u k, or s + c tanh(u k);  S' = phi(P)
  ELMAN_FN void step(Step& now, const Raw& raw, const acc (&s)[E]) const {
    acc square[E];
#pragma unroll
    for (int j = 0; j < E; ++j) {
      now.q[j] = number(raw, QUERY, j), now.k[j] = number(raw, KEY, j), now.v[j] = number(raw, VALUE, j);
      square[j] = now.k[j] * now.k[j];
    }
    now.factor = elman::rsqrt_for<scalar>(sum(square) + acc(1e-12));
#pragma unroll
    for (int j = 0; j < E; ++j) {
      now.k[j] *= now.factor;
      now.z[j] = modulated ? number(raw, modulated ? Z : 0, j) + parameter[Z_BIAS][j] : acc(1);
      now.reader[j] = now.z[j] * now.k[j];
      now.delta[j] = reads ? now.v[j] - s[j] * now.reader[j] : now.v[j];
      now.extra[j] = parameter[has_extra ? FIRST : 0][j];
      if (has_logit) now.extra[j] += number(raw, has_logit ? LOGIT : 0, j);
      if (has_logit && !energy) now.extra[j] = elman::sigmoid_for<scalar>(now.extra[j]);
      now.write[j] = number(raw, ntm ? WRITE_LOGIT : 0, j) + parameter[ntm ? SECOND : 0][j];
      if (ntm) now.write[j] = elman::sigmoid_for<scalar>(now.write[j]);
      square[j] = now.delta[j] * now.delta[j];
    }
    const acc mean = energy ? sum(square) / M : acc(0);
#pragma unroll
    for (int j = 0; j < E; ++j) {
      now.weight[j] = retrieved ? now.extra[j] : ema ? 1 - now.extra[j] : ntm ? now.write[j] : acc(1);
      if (energy) now.weight[j] = elman::sigmoid_for<scalar>(now.extra[j] + mean);
      if (memory_gate) now.weight[j] = share(now.extra[j] * s[j] + parameter[memory_gate ? SECOND : 0][j]);
      now.u[j] = now.weight[j] * now.delta[j];
      now.theta[j] = now.u[j] * now.k[j];
    }
    if (residual) tanh_all(now.theta);
#pragma unroll
    for (int j = 0; j < E; ++j) {
      now.after[j] = keep(now, j) * s[j] + (residual ? now.extra[j] * now.theta[j] : now.theta[j]);
      square[j] = now.after[j] * now.after[j];
    }
    if (tanh) tanh_all(now.after);
    now.by = normed ? norm(sum(square), M) : Norm{1, 0};
#pragma unroll
    for (int j = 0; j < E; ++j) now.after[j] *= normed ? now.by.factor : acc(1);
  }
  static constexpr bool has_logit = ema || ntm || retrieved || energy, has_extra = keeps || ntm || residual || weighs;
  ELMAN_FN static acc keep(const Step& now, int j) {
    return keeps ? now.extra[j] : ntm ? 1 - now.extra[j] * now.k[j] : acc(1);
  }

  // From d_y and, in c, dL/dS': the gradients of raw vectors and parameters, and in c dL/dS.
  ELMAN_FN void backward(const Step& now, const Raw& raw, const acc (&d_y)[E], const acc (&s)[E], acc (&c)[E],
                         acc (&d)[VECTORS][E], acc (&d_parameter)[some][E]) const {
    acc d_q[E], d_k[E], d_weight[E], d_logit[E], part[E];
#pragma unroll
    for (int j = 0; j < E; ++j) {
      const acc r = now.after[j] * now.q[j], x = readout_logit(raw, r, j);
      acc d_r = d_y[j] * elman::silu_for<scalar>(x);
      if (input_gate) d[GATE][j] = d_y[j] * r * elman::silu_slope_for<scalar>(x);
      else d_r *= 2 + r * elman::sigmoid_for<scalar>(-r);
      if (input_gate) d_parameter[input_gate ? GATE_BIAS : 0][j] += d[GATE][j];
      d_q[j] = d_r * now.after[j];
      c[j] += d_r * now.q[j];
      if (tanh) c[j] *= elman::tanh_slope(now.after[j]);
      part[j] = now.after[j] * c[j];
    }
    const acc pull = normed ? sum(part) * now.by.pull : acc(0);
#pragma unroll
    for (int j = 0; j < E; ++j) {
      // With A = dL/dP: of what is written, u k or c tanh(u k), and of the former state's factor.
      const acc A = normed ? c[j] * now.by.factor - pull * now.after[j] : c[j];
      const acc d_write = residual ? A * now.extra[j] * elman::tanh_slope(now.theta[j]) : A, d_keep = A * s[j];
      const acc d_u = d_write * now.k[j];
      d_k[j] = d_write * now.u[j] - (ntm ? d_keep * now.extra[j] : acc(0));
      d_weight[j] = d_u * now.delta[j];
      d_logit[j] = residual ? A * now.theta[j] : ntm ? -d_keep * now.k[j] : d_keep;  // of `extra`
      if (ema) d_logit[j] -= d_weight[j];
      if (retrieved) d_logit[j] = d_weight[j];
      if (has_logit && !energy) d_logit[j] *= elman::sigmoid_slope(now.extra[j]);
      if (energy) d_logit[j] = d_weight[j] * elman::sigmoid_slope(now.weight[j]);
      part[j] = d_u * now.weight[j];  // of delta
      c[j] = A * keep(now, j);
    }
    const acc total = energy ? acc(2) / M * sum(d_logit) : acc(0);
#pragma unroll
    for (int j = 0; j < E; ++j) {
      const acc d_delta = part[j] + total * now.delta[j], d_reader = reads ? -d_delta * s[j] : acc(0);
      if (reads) c[j] -= d_delta * now.reader[j];
      if (memory_gate) {
        const acc d_share = d_weight[j] * share_slope(now.weight[j]);
        d_logit[j] = d_share * s[j];
        d_parameter[memory_gate ? SECOND : 0][j] += d_share;
        c[j] += d_share * now.extra[j];
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
      const acc d_key = now.factor * (d_k[j] - now.k[j] * along);
      d[KEY][j] = d_key + (QUERY == KEY ? d_q[j] : acc(0)) + (VALUE == KEY ? part[j] : acc(0));
      if (QUERY != KEY) d[QUERY][j] = d_q[j];
      if (VALUE != KEY) d[VALUE][j] = part[j];
    }
  }
};

template <class Args> ELMAN_KERNEL(32) diagonal_forward(const Args a) {
  constexpr int E = Diagonal::E, ahead = Diagonal::ahead;
  const Diagonal mine(a);
  Diagonal::Raw coming[ahead];
  acc s[E];
  mine.get(s, a.s0 + mine.bh * Diagonal::M);
#pragma unroll
  for (int i = 0; i < ahead; ++i)
    if (i < a.T) mine.load(coming[i], a, i);
  for (int64_t first = 0; first < a.T; first += ahead) {
#pragma unroll
    for (int i = 0; i < ahead; ++i) {
      const int64_t t = first + i;
      if (t >= a.T) break;
      const Diagonal::Raw raw = coming[i];
      if (t + ahead < a.T) mine.load(coming[i], a, t + ahead);
      mine.put(mine.state(a.states, t), s);
      Diagonal::Step now;
      mine.step(now, raw, s);
      acc y[E];
#pragma unroll
      for (int j = 0; j < E; ++j) {
        s[j] = now.after[j];
        const acc r = s[j] * now.q[j];
        y[j] = r * elman::silu_for<scalar>(mine.readout_logit(raw, r, j));
      }
      mine.put(mine.output(a.y, t), y);
    }
  }
  mine.put(a.s_last + mine.bh * Diagonal::M, s);
}

template <class Args> ELMAN_KERNEL(32) diagonal_backward(const Args a) {
  constexpr int E = Diagonal::E, ahead = Diagonal::ahead, P = Diagonal::PARAMETERS;
  const Diagonal mine(a);
  struct Coming : Diagonal::Raw {
    scalar d_y[E];
    acc before[E];
  } coming[ahead];
  acc c[E], d_parameter[Diagonal::some][E] = {};
  mine.get(c, a.d_s_last + mine.bh * Diagonal::M);
  const auto load = [&](Coming& to, int64_t t) {
    mine.load(to, a, t);
    mine.get(to.d_y, mine.output(a.d_y, t));
    mine.get(to.before, mine.state(a.states, t));
  };
#pragma unroll
  for (int i = 0; i < ahead; ++i)
    if (a.T > i) load(coming[i], a.T - 1 - i);
  for (int64_t last = a.T - 1; last >= 0; last -= ahead) {
#pragma unroll
    for (int i = 0; i < ahead; ++i) {
      const int64_t t = last - i;
      if (t < 0) break;
      const Coming raw = coming[i];
      if (t >= ahead) load(coming[i], t - ahead);
      Diagonal::Step now;
      acc d_y[E], d[Diagonal::VECTORS][E];
#pragma unroll
      for (int j = 0; j < E; ++j) d_y[j] = elman::load(raw.d_y + j);
      mine.step(now, raw, raw.before);
      mine.backward(now, raw, d_y, raw.before, c, d, d_parameter);
#pragma unroll
      for (int v = 0; v < Diagonal::VECTORS; ++v) mine.put(mine.vector(a.d_projected, t, v), d[v]);
    }
  }
  mine.put(a.d_s0 + mine.bh * Diagonal::M, c);
#pragma unroll
  for (int i = 0; i < P; ++i) mine.put(a.parameter_parts + (mine.bh * P + i) * Diagonal::M, d_parameter[i]);
}
}  // namespace e74
