#pragma once
// The kernels of E74 on a diagonal state: a block has a (batch, head). Its workers, a team for each step of a chunk, make links of
// the raw vectors, side by side: what a step does with the state. One more warp, the walker, goes through these step by step, the
// state (backward: its gradient) in registers, and the workers make outputs or gradients of what it leaves.
// * Only the walk is a chain over T, of a few operations a step; diagonal.cuh has the rest.
// * Forward, the workers are a chunk ahead of the walker and one behind it: one barrier a chunk. Backward, where a walk is short,
//   they keep a chunk in registers from its preparation to its gradients, and wait for the walk between: two barriers.
// * The forward pass keeps all states, so that the backward pass recalls those before and after a step, and replays no chain.
#include "diagonal.cuh"

namespace e74 {
namespace diagonal {
inline constexpr int threads = workers + 32, M = Diagonal::M, K = workers / Diagonal::W;  // K: steps of a chunk
ELMAN_FN void meet() { elman::sync_roles<threads>(); }

// Lanes of the walker among which a state is spread: all, an element each up to 32; with a norm in each step as many as a team
// has, since three shuffles and the squares of four elements take less time than five shuffles. The energy gate has too many
// special functions for that.
ELMAN_DIVISION int walker_width() { return Form::normed && !Form::energy ? Diagonal::W : 32; }
// Steps whose links the walker has read from shared memory while it is at the steps before them.
ELMAN_DIVISION int steps_at_once(int numbers_of_a_step) {
  int steps = 8;
  while (steps > 1 && (K % steps || steps * numbers_of_a_step > 16)) steps /= 2;
  return steps;
}

// Shared memory: the links of a chunk (forward, of two), [LINKS][K][M], and parts of the parameters' gradients.
template <int LINKS, int CHUNKS, int PARTS> struct Layout {
  elman::Carve carve;
  unsigned links = carve.take<acc>(CHUNKS * size), parts = carve.take<acc>(PARTS * part_size);
  static constexpr unsigned size = LINKS * K * M, part_size = workers / 32 * M;
  ELMAN_FN static acc* chunk(int64_t i) { return elman::shared<acc>(Layout().links, CHUNKS * size) + i % CHUNKS * size; }
  ELMAN_FN static acc* part() { return elman::shared<acc>(Layout().parts, PARTS * part_size); }
};
using Forward = Layout<Diagonal::links, 2, 0>;
using Backward = Layout<Diagonal::back_links, 1, Form::PARAMETERS>;
ELMAN_FN int place(int link, int step) { return (link * K + step) * M; }

// The walker's lane. Elements past M are zeros, and stay so in every form.
struct Walker : Form, Lanes<walker_width()> {
  ELMAN_FN static acc dot(const acc (&x)[E], const acc (&y)[E]) {
    acc total = 0;
#pragma unroll
    for (int j = 0; j < E; ++j) total += x[j] * y[j];
    return elman::warp_sum<W>(total);
  }

  // Through a chunk: `step(links)` of each step, forward or back, whose result takes the place of link RESULT.
  template <int LINKS, int RESULT, bool BACK, class Do> ELMAN_FN void walk(acc* chunk, const Do& step) const {
    constexpr int U = steps_at_once(LINKS * E);
    acc coming[U][LINKS][E], now[U][LINKS][E];
    const auto load = [&](int first) {
#pragma unroll
      for (int i = 0; i < U; ++i)
#pragma unroll
        for (int l = 0; l < LINKS; ++l) get(coming[i][l], chunk + place(l, BACK ? K - 1 - first - i : first + i));
    };
    load(0);
#pragma unroll 2
    for (int first = 0; first < K; first += U) {
#pragma unroll
      for (int i = 0; i < U; ++i)
#pragma unroll
        for (int l = 0; l < LINKS; ++l) vectors::copy(now[i][l], coming[i][l]);
      if (first + U < K) load(first + U);
#pragma unroll
      for (int i = 0; i < U; ++i) {
        step(now[i]);
        put_once(chunk + place(RESULT, BACK ? K - 1 - first - i : first + i), now[i][RESULT]);
      }
    }
  }

  // S' = phi(P) of the links in x, to x's place for it and to s. `own`: a residual's scale, or a memory gate's gamma and shift.
  ELMAN_FN static void forward(acc (&s)[E], acc (&x)[Diagonal::links][E], const acc (&own)[2][E]) {
    constexpr acc scale = Diagonal::scale;
    acc p[E], delta[E];
#pragma unroll
    for (int j = 0; j < E; ++j) {
      delta[j] = x[Diagonal::ENERGY_VALUE][j] - s[j] * x[Diagonal::READER][j];
      p[j] = x[Diagonal::SLOPE][j] * s[j] + x[Diagonal::WRITE][j];
    }
    const acc mean = energy ? dot(delta, delta) / M : acc(0);
    if (residual) elman::tanh_each<scalar, 1>(p);
#pragma unroll
    for (int j = 0; j < E; ++j) {
      if (residual) p[j] = scale * s[j] + scale * own[0][j] * p[j];
      if (memory_gate) p[j] = scale * s[j] + share(own[0][j] * s[j] + own[1][j]) * p[j];
      if (energy)
        p[j] = scale * s[j] + elman::sigmoid_for<scalar>(x[energy ? Diagonal::ENERGY_LOGIT : 0][j] + mean) *
                                  (x[energy ? Diagonal::ENERGY_KEY : 0][j] * delta[j]);
    }
    if (tanh) elman::tanh_each<scalar, 1>(p);
    const acc factor = normed ? norm(dot(p, p), M).factor : acc(1);
#pragma unroll
    for (int j = 0; j < E; ++j) x[Diagonal::result][j] = s[j] = normed ? factor * p[j] : p[j];
  }
  // From c = dL/dS' of later steps: G to the place of the gift, and in c dL/dS.
  ELMAN_FN static void backward(acc (&c)[E], acc (&x)[Diagonal::back_links][E]) {
    constexpr int numbers = Diagonal::numbers;
#pragma unroll
    for (int j = 0; j < E; ++j) x[Diagonal::GIFT][j] = c[j] += x[Diagonal::GIFT][j];
    if (!numbers)
      for (int j = 0; j < E; ++j) c[j] *= x[Diagonal::FACTOR][j];
#pragma unroll
    for (int i = 0; i < 3 * numbers; i += 3) {
      const acc total = dot(c, x[numbers ? Diagonal::ALONG + i : 0]);
#pragma unroll
      for (int j = 0; j < E; ++j)
        c[j] = c[j] * x[Diagonal::FACTOR + i][j] - x[numbers ? Diagonal::MINUS + i : 0][j] * total;
    }
  }
};

// A worker's part of a step's links.
template <int LINKS> ELMAN_FN void put_links(acc* chunk, const Diagonal& team, int step, const acc (&x)[LINKS][Diagonal::E]) {
#pragma unroll
  for (int i = 0; i < LINKS; ++i) team.put(chunk + place(i, step), x[i]);
}
ELMAN_FN int64_t chunks(int64_t T) { return elman::ceil_div(T, (int64_t)K); }

// In turn i of these the workers finish chunk i - 2, whose links gave way to states, and prepare chunk i in its place; the walker
// goes through chunk i - 1.
template <class Args> ELMAN_FN void forward_worker(const Args& a) {
  constexpr int E = Diagonal::E;
  const Diagonal team(a);
  const int step = (int)elman::thread_x() / Diagonal::W;
  Diagonal::Raw coming = team.load(a, team.inside(step));
  for (int64_t i = 0; i < chunks(a.T) + 2; ++i) {
    acc* chunk = Forward::chunk(i);
    const Diagonal::Raw raw = coming;
    coming = team.load(a, team.inside((i + 1) * K + step));
    const int64_t t = (i - 2) * K + step;
    if (t >= 0 && t < a.T) {
      acc s[E], y[E];
      team.get(s, chunk + place(Diagonal::result, step));
      team.readout(y, team.load(a, t), s);
      team.put_rounded(team.output(a.y, t), y);
      team.put(team.state(a.states, t + 1), s);
      if (t == a.T - 1) team.put(a.s_last + team.bh * M, s);
    }
    Diagonal::Step now;
    acc x[Diagonal::links][E];
    team.prepare(now, raw);
    team.link(x, now);
    put_links(chunk, team, step, x);
    meet();
  }
}
template <class Args> ELMAN_FN void forward_walker(const Args& a) {
  const Walker walker;
  const int64_t bh = elman::block_x();
  acc s[Walker::E], own[2][Walker::E] = {};
  walker.get(s, a.s0 + bh * M);
  walker.put_once(a.states + bh * (a.T + 1) * M, s);
  if (Form::residual || Form::memory_gate)
    for (int i = 0; i <= Form::memory_gate; ++i)
      walker.get(own[i], a.parameters + (bh % a.H * Form::PARAMETERS + Form::FIRST + i) * M);
  meet();
  for (int64_t i = 0; i < chunks(a.T); ++i) {
    walker.walk<Diagonal::links, Diagonal::result, false>(Forward::chunk(i), [&](auto& x) { Walker::forward(s, x, own); });
    meet();
  }
  meet();
}

template <class Args> ELMAN_FN void backward_worker(const Args& a) {
  constexpr int E = Diagonal::E, P = Form::PARAMETERS;
  const Diagonal team(a);
  const int step = (int)elman::thread_x() / Diagonal::W;
  struct Inputs {
    Diagonal::Raw raw;
    Diagonal::Slice d_y;
    acc before[E], after[E];
  };
  const auto load = [&](int64_t t) {
    Inputs in{team.load(a, t), team.slice(team.output(a.d_y, t)), {}, {}};
    team.get(in.before, team.state(a.states, t));
    team.get(in.after, team.state(a.states, t + 1));
    return in;
  };
  acc* chunk = Backward::chunk(0);
  acc d_parameter[Diagonal::some][E] = {};
  Inputs coming = load(team.inside((chunks(a.T) - 1) * K + step));
  for (int64_t i = chunks(a.T) - 1; i >= 0; --i) {
    const Inputs in = coming;
    const int64_t t = i * K + step;
    const bool valid = t < a.T;
    Diagonal::Step now;
    acc x[Diagonal::back_links][E], G[E], d[Diagonal::VECTORS][E];
    vectors::copy(now.after, in.after);
    team.prepare(now, in.raw);
    team.replay(now, in.before);
    team.link_back(x, now, in.raw, in.d_y, valid);
    put_links(chunk, team, step, x);
    meet();
    coming = load(team.inside(t - K));  // on the way while the walker walks
    meet();
    team.get(G, chunk + place(Diagonal::GIFT, step));
#pragma unroll
    for (int j = 0; j < E; ++j) G[j] = valid ? G[j] : acc(0);
    team.finish(now, in.raw, in.d_y, in.before, G, d, d_parameter, valid);
    if (valid)
      for (int v = 0; v < Diagonal::VECTORS; ++v) team.put_rounded(team.vector(a.d_projected, t, v), d[v]);
  }
  // A parameter's gradient over the steps: each worker's, its warp's, and the sum over warps, always in the same order.
  acc* part = Backward::part();
  for (int i = 0; i < P; ++i) {
    for (int j = 0; j < E; ++j)
#pragma unroll
      for (int mask = Diagonal::W; mask < 32; mask *= 2) d_parameter[i][j] += elman::shfl_xor(d_parameter[i][j], mask);
    team.put_once(part + (i * (workers / 32) + elman::warp()) * M, d_parameter[i]);
  }
  meet();
  for (int i = (int)elman::thread_x(); i < P * M; i += workers) {
    acc total = 0;
    for (int w = 0; w < workers / 32; ++w) total += part[(i / M * (workers / 32) + w) * M + i % M];
    a.parameter_parts[team.bh * P * M + i] = total;
  }
}
template <class Args> ELMAN_FN void backward_walker(const Args& a) {
  const Walker walker;
  const int64_t bh = elman::block_x();
  acc c[Walker::E];
  walker.get(c, a.d_s_last + bh * M);
  for (int64_t i = chunks(a.T) - 1; i >= 0; --i) {
    meet();
    walker.walk<Diagonal::back_links, Diagonal::GIFT, true>(Backward::chunk(0), [&](auto& x) { Walker::backward(c, x); });
    meet();
  }
  walker.put_once(a.d_s0 + bh * M, c);
  meet();
}

template <class Args> ELMAN_KERNEL(threads) forward(const Args a) {
  if (elman::thread_x() < workers) forward_worker(a);
  else forward_walker(a);
}
template <class Args> ELMAN_KERNEL(threads) backward(const Args a) {
  if (elman::thread_x() < workers) backward_worker(a);
  else backward_walker(a);
}
}  // namespace diagonal
}  // namespace e74
