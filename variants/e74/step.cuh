#pragma once
// The step of E74 on a matrix state [M x N], full, block or low-rank, as a lane does it: README.md, equations 2 to 4.
#include <elman/families/matrix_state/steps.cuh>

#include "form.cuh"
#include "whole.cuh"

namespace e74 {
namespace matrix_state = elman::matrix_state;

struct Rule : Form {
  static constexpr int M = Constant::M, N = diagonal ? M : Constant::N;  // a diagonal has a step of its own (diagonal.cuh)
  static constexpr acc used_columns = Constant::RANK, elements = M * Constant::RANK;
  static constexpr bool coupled = normed || energy;

  // Record, by row: what is written, or for the delta rule the value; then what the update or the gate has for each row, in the
  // backward pass of the energy gate the weight itself. A further column: the vector that the memory is read with, unless that is
  // the key. Numbers: in the backward pass, the factors that the forward pass noted; and the factor of the key's norm.
  enum { WRITE, EXTRA, MORE };
  enum { READ };
  static constexpr int read_scalars = 2 * normed, noted_numbers = read_scalars + energy;
  enum { FACTOR, PULL, ENERGY = read_scalars, K_FACTOR = read_scalars };
  static constexpr int rows = 1 + (keeps || ntm || residual || weighs) + memory_gate, columns = reads && (modulated || low_rank);
  static constexpr int scalars = read_scalars + 1, grad_scalars = 0;

  template <class Inputs> ELMAN_FN static acc extra(const Inputs& in, int r) {
    if constexpr (rows > 1) return in.row[EXTRA][r];
    return 1;
  }
  template <class Inputs> ELMAN_FN static const auto& reader(const Inputs& in) {
    if constexpr (columns > 0) return in.column[READ];
    else return in.k;
  }

  // For each row: u, which is written along the key; the weight of the delta rule's error in it; and what a memory gate sees.
  template <int R> struct Rows {
    acc u[R], weight[R], seen[R];
  };
  template <class Lane, int R, int C>
  ELMAN_FN static void weigh(Rows<R>& row, const Lane& lane, const acc (&s)[R][C], const typename Lane::Inputs& in,
                             const acc (&memory)[R]) {
    if constexpr (memory_gate) {
      acc(&seen)[R] = row.seen;
#pragma unroll
      for (int r = 0; r < R; ++r) {
        seen[r] = 0;
#pragma unroll
        for (int c = 0; c < C; ++c) seen[r] += s[r][c] * s[r][c];
      }
      lane.row_sums(seen);
#pragma unroll
      for (int r = 0; r < R; ++r) seen[r] *= 1 / used_columns;
    }
#pragma unroll
    for (int r = 0; r < R; ++r) {
      row.weight[r] = retrieved || energy ? extra(in, r) : acc(1);  // energy: in the backward pass only
      if constexpr (memory_gate) row.weight[r] = share(extra(in, r) * row.seen[r] + in.row[MORE][r]);
      row.u[r] = reads ? row.weight[r] * (in.row[WRITE][r] - memory[r]) : in.row[WRITE][r];
    }
  }

  // The energy gate's P in the forward pass, which sums and notes |delta|^2. Everything else is there before the weights.
  template <class Lane, int R, int C>
  ELMAN_FN static void weigh_and_update(const Lane& lane, acc (&s)[R][C], const typename Lane::Inputs& in, const acc (&memory)[R],
                                        acc scale) {
    acc write[R][C], sum = 0;
#pragma unroll
    for (int r = 0; r < R; ++r) {
      const acc delta = in.row[WRITE][r] - memory[r];
      sum += delta * delta;
#pragma unroll
      for (int c = 0; c < C; ++c) {
        write[r][c] = scale * delta * in.k[c];
        s[r][c] *= scale;
      }
    }
    sum = matrix_state::whole_sum<Lane::Tile::KG>(lane, sum);
    matrix_state::note(lane, ENERGY, sum);
#pragma unroll
    for (int r = 0; r < R; ++r) {
      const acc weight = elman::sigmoid_for<scalar>(extra(in, r) + acc(1) / M * sum);
#pragma unroll
      for (int c = 0; c < C; ++c) s[r][c] = weight * write[r][c] + s[r][c];
    }
  }

  // The factor of P, which the backward pass has in its record.
  template <class Lane, int R, int C>
  ELMAN_FN static acc factor(const Lane& lane, const typename Lane::Inputs& in, const acc (&p)[R][C]) {
    if constexpr (matrix_state::walks_back<Lane>) {
      return in.scalar[FACTOR];
    } else {
      acc some[2] = {};
      for (int i = 0; i < R * C; ++i) some[i % 2] += p[i / C][i % C] * p[i / C][i % C];
      const Norm by = norm(matrix_state::whole_sum(lane, some[0] + some[1]), elements);
      matrix_state::note(lane, FACTOR, by.factor);
      matrix_state::note(lane, PULL, by.pull);
      return by.factor;
    }
  }

  // theta = tanh(u k^T)
  template <int R, int C, class Inputs> ELMAN_FN static void bounded(acc (&theta)[R][C], const Inputs& in, const acc (&u)[R]) {
#pragma unroll
    for (int r = 0; r < R; ++r)
#pragma unroll
      for (int c = 0; c < C; ++c) theta[r][c] = elman::tanh_scale<scalar> * u[r] * in.k[c];
    elman::tanh_each<scalar, 2>(reinterpret_cast<acc(&)[R * C]>(theta));
  }
  // S = scale P:  P = diag(a) S + u k^T,  S (1 - e k^T) + u k^T elementwise, or S + diag(c) tanh(u k^T)
  template <int R, int C, class Inputs>
  ELMAN_FN static void update(acc (&s)[R][C], const Inputs& in, const acc (&u)[R], acc scale) {
    acc theta[R][C];
    if constexpr (residual) bounded(theta, in, u);
#pragma unroll
    for (int r = 0; r < R; ++r) {
      const acc row = scale * extra(in, r), write = scale * u[r];
#pragma unroll
      for (int c = 0; c < C; ++c) {
        const acc keep = keeps ? row : ntm ? scale - row * in.k[c] : scale;
        s[r][c] = keep * s[r][c] + (residual ? row * theta[r][c] : write * in.k[c]);
      }
    }
  }

  template <class Lane, int R, int C>
  ELMAN_FN static void forward(const Lane& lane, acc (&s)[R][C], const typename Lane::Inputs& in, acc (&memory)[R]) {
    Rows<R> row;
    if (reads) lane.product(memory, s, reader(in));
    else for (int r = 0; r < R; ++r) memory[r] = 0;
    if constexpr (normed) {  // the former state's factor; in a replay, one
      for (int r = 0; r < R; ++r) memory[r] *= lane.factor;
      for (int i = 0; i < R * C; ++i) s[i / C][i % C] *= lane.factor;
    }
    constexpr acc scale = tanh ? elman::tanh_scale<scalar> : acc(1);
    if constexpr (energy && !matrix_state::walks_back<Lane>) {
      weigh_and_update(lane, s, in, memory, scale);
    } else {
      weigh(row, lane, s, in, memory);
      update(s, in, row.u, scale);
    }
    if constexpr (tanh) elman::tanh_each<scalar, Lane::share>(reinterpret_cast<acc(&)[R * C]>(s));
    if constexpr (normed) {
      const acc by = factor(lane, in, s);
      if constexpr (matrix_state::walks_back<Lane>)
        for (int i = 0; i < R * C; ++i) s[i / C][i % C] *= by;
      else lane.factor = by;
    }
    if constexpr (coupled) ++lane.steps;
  }

  // A = dL/dP from g = dL/dS': by itself where that takes the state after the step only.
  template <int R, int C>
  ELMAN_FN static void slope(const acc (&after)[R][C], acc (&g)[R][C])
    requires(!normed)
  {
#pragma unroll
    for (int r = 0; r < R; ++r)
#pragma unroll
      for (int c = 0; c < C; ++c) g[r][c] *= tanh ? elman::tanh_slope(after[r][c]) : acc(1);
  }
  template <class Lane, class Gradients, int R, int C>
  ELMAN_FN static void backward(const Lane& lane, const acc (&before)[R][C], const typename Lane::Inputs& in,
                                const acc (&memory)[R], acc (&g)[R][C], Gradients& d) {
    Rows<R> row;
    weigh(row, lane, before, in, memory);
    acc tau[R];
    backward_update(lane, before, in, memory, row, g, tau, d);
  }
  // A = factor G - pull S' with the pull from <S', G>. A k is formed of G k and S' k, which need not wait for that sum.
  template <class Lane, class Gradients, int R, int C>
  ELMAN_FN static void backward(const Lane& lane, const acc (&before)[R][C], const acc (&after)[R][C],
                                const typename Lane::Inputs& in, const acc (&memory)[R], acc (&g)[R][C], Gradients& d) {
    Rows<R> row;
    weigh(row, lane, before, in, memory);
    acc tau[R] = {}, after_k[R] = {}, some[2] = {};
    for (int i = 0; i < R * C; ++i) some[i % 2] += after[i / C][i % C] * g[i / C][i % C];
    if constexpr (!residual) {
      lane.product(tau, g, in.k);
      lane.product(after_k, after, in.k);
    }
    const acc by = in.scalar[FACTOR], pull = matrix_state::whole_sum(lane, some[0] + some[1]) * in.scalar[PULL];
    for (int r = 0; r < R; ++r) tau[r] = by * tau[r] - pull * after_k[r];
    for (int i = 0; i < R * C; ++i) g[i / C][i % C] = by * g[i / C][i % C] - pull * after[i / C][i % C];
    backward_update(lane, before, in, memory, row, g, tau, d);
  }

  // With A in g and tau = A k, of the residual form Q k with Q = A diag(c) (1 - theta^2):  d_u = tau,  dk = A^T u (Q^T u),
  // and by row d_a = sum A S,  d_e = -sum A S k,  d_c = sum A theta.
  // Delta rule, u = w delta:  d_w = d_u delta,  d_delta = w d_u, which is dv,  d_reader = -S^T d_delta.
  // On return g = dL/dS = A diag(a), A (1 - e k^T) or A, less d_delta reader^T.
  template <class Lane, class Gradients, int R, int C>
  ELMAN_FN static void backward_update(const Lane& lane, const acc (&before)[R][C], const typename Lane::Inputs& in,
                                       const acc (&memory)[R], const Rows<R>& row, acc (&g)[R][C], acc (&tau)[R], Gradients& d) {
    constexpr bool given = normed && !residual;  // tau
    acc theta[R][C], d_extra[R];
    if constexpr (residual) bounded(theta, in, row.u);
#pragma unroll
    for (int r = 0; r < R; ++r) {
      d_extra[r] = 0;
      if (!given) tau[r] = 0;
#pragma unroll
      for (int c = 0; c < C; ++c) {
        if constexpr (residual) {
          d_extra[r] += g[r][c] * theta[r][c];
          theta[r][c] = g[r][c] * extra(in, r) * elman::tanh_slope(theta[r][c]);  // Q from here on
        }
        if (!given) tau[r] += (residual ? theta[r][c] : g[r][c]) * in.k[c];
        if (keeps || ntm) d_extra[r] += g[r][c] * before[r][c] * (ntm ? -in.k[c] : acc(1));
      }
    }
    if (!given) lane.row_sums(tau);
    if (keeps || ntm || residual) lane.row_sums(d_extra);
    if constexpr (residual) matrix_state::add_to_key(d, theta, row.u);
    else matrix_state::add_to_key(d, g, row.u);
    if constexpr (ntm) {
      acc minus[R];
#pragma unroll
      for (int r = 0; r < R; ++r) {
        minus[r] = -extra(in, r);
#pragma unroll
        for (int c = 0; c < C; ++c) theta[r][c] = g[r][c] * before[r][c];
      }
      matrix_state::add_to_key(d, theta, minus);
    }

    acc minus_delta[R], push[R];  // -d_delta, and the gradient that a memory gate sends to each element of its row, over S
    backward_weight(lane, in, memory, row, tau, minus_delta, push, d_extra, d);
    if constexpr (columns > 0) d.column[READ].further(before, minus_delta);
    else if constexpr (reads) matrix_state::add_to_key(d, before, minus_delta);
#pragma unroll
    for (int r = 0; r < R; ++r) {
      d.row[WRITE][r] = reads ? -minus_delta[r] : tau[r];
      if constexpr (rows > 1) d.row[EXTRA][r] = d_extra[r];
#pragma unroll
      for (int c = 0; c < C; ++c) {
        const acc keep = keeps ? extra(in, r) : ntm ? 1 - extra(in, r) * in.k[c] : acc(1);
        g[r][c] = keep * g[r][c] + (reads ? minus_delta[r] * reader(in)[c] : acc(0));
        if (memory_gate) g[r][c] += push[r] * before[r][c];
      }
    }
  }

  // The weight's own part: d_extra is of g, of its logit, or of gamma, and d.row[MORE] of c. Energy: the logits share a mean of
  // squared errors, from which each error gets 2 delta / M times the sum of their gradients.
  template <class Lane, class Gradients, int R>
  ELMAN_FN static void backward_weight(const Lane& lane, const typename Lane::Inputs& in, const acc (&memory)[R],
                                       const Rows<R>& row, const acc (&tau)[R], acc (&minus_delta)[R], acc (&push)[R],
                                       acc (&d_extra)[R], Gradients& d) {
    acc total = 0;
#pragma unroll
    for (int r = 0; r < R; ++r) {
      const acc delta = in.row[WRITE][r] - memory[r], d_weight = tau[r] * delta;
      minus_delta[r] = -row.weight[r] * tau[r];
      if constexpr (retrieved) d_extra[r] = d_weight;
      if constexpr (energy) {
        d_extra[r] = tau[r] * (delta * elman::sigmoid_slope(row.weight[r]));
        total += d_extra[r];
      }
      if constexpr (memory_gate) {
        const acc d_logit = d_weight * share_slope(row.weight[r]);
        d_extra[r] = d_logit * row.seen[r];
        d.row[MORE][r] = d_logit;
        push[r] = 2 / used_columns * d_logit * extra(in, r);
      }
    }
    if constexpr (energy) {
      total = matrix_state::whole_sum<Lane::Tile::KG>(lane, total);
      for (int r = 0; r < R; ++r) minus_delta[r] -= total * (acc(2) / M * (in.row[WRITE][r] - memory[r]));
    }
  }
};
}  // namespace e74
