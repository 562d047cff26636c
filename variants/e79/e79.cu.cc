// E79: two matrix states that gate each other. S is written by the delta rule and forgets by rows and columns as M answers the key; M is
// written with what S lacked and forgets as S answers M's own key; the readout r = S' q gates itself: y = r^2 sigmoid(r).
// Tensors and constants: binding.py. Equations: README.md.
//
// * A block holds both states of one head in registers: a lane has R rows x C columns of each (the tile of the matrix family, whose
//   engine has no sums over rows in a step). Sums over keys are shuffles; sums over rows are shuffles within a warp and one exchange
//   through shared memory between the warps, two a step in either direction.
// * Time runs in chunks of K steps: teams of lanes prepare the records of a chunk (unit keys, biases), all lanes step it, teams write its
//   results. Backward replays a chunk once from its slot, keeps its states and gates, and walks them back. No atomics.
#include "lane.cuh"

namespace e79 {
struct ForwardShared {
  Carve carve;
  unsigned record = carve.take<acc>(K * stride), readout = carve.take<acc>(K * N), exchange = carve.take<acc>(2 * warps * N);
};
struct BackwardShared {
  static constexpr unsigned histories = global_history ? 0 : K * 2 * N * N;
  Carve carve;
  unsigned record = carve.take<acc>(K * stride), d_readout = carve.take<acc>(K * N), exchange = carve.take<acc>(2 * warps * N);
  unsigned kept = carve.take<acc>(K * KEPT * N), given = carve.take<acc>(K * GIVEN * N), summed = carve.take<acc>(K * warps * SUMMED * N);
  unsigned history = carve.take<acc>(histories);
};
static_assert(teams * 2 <= K * warps * SUMMED, "the sums over time take the place of a chunk's sums, once those are read");

struct Raw {
  Slice<scalar, E> x[vectors];
};
template <class T> ELMAN_FN T* part(T* tensor, const Place& at, const Team& team, int vector) {
  return team.part<E>(at, tensor, vectors * at.H * N, vector * at.H * N);
}
template <class Args> ELMAN_FN void load(Raw& raw, const Args& a, const Place& at, const Team& team) {
#pragma unroll
  for (int i = 0; i < vectors; ++i) raw.x[i] = matrix_state::read_slice<E>(part(a.projected, at, team, i));
}
// A team's part of a record.
template <class Args> ELMAN_FN void prepare(const Args& a, const Place& at, const Team& team, const Raw& raw, acc* record) {
  acc x[E];
#pragma unroll
  for (int i = 0; i < record_vectors; ++i) {
    if (i < vectors) {
#pragma unroll
      for (int j = 0; j < E; ++j) x[j] = raw.x[i < vectors ? i : 0][j];
    } else {
      team.get(x, (i == S_BIAS ? a.s_bias : a.m_bias) + at.h * N);
    }
    if (i == KEY || i == M_KEY) {
      const acc factor = team.unit_factor<scalar>(x);
#pragma unroll
      for (int j = 0; j < E; ++j) x[j] *= factor;
      if (team.first()) record[i == KEY ? KEY_FACTOR : M_KEY_FACTOR] = factor;
    }
    team.put(record + i * N, x);
  }
}

ELMAN_KERNEL((lanes)) forward(const args::Forward a) {
  const ForwardShared at;
  acc *records = shared<acc>(at.record, K * stride), *readouts = shared<acc>(at.readout, K * N);
  acc* exchange = shared<acc>(at.exchange, 2 * warps * N);
  const int T = (int)a.T, H = (int)a.H, bh = (int)block_x(), chunks = ceil_div(T, K), thread = (int)thread_x();
  const Lane lane(thread);
  const Team team(thread);
  Place place(bh, (int)a.B * H, T, H);
  Raw raw[passes];
  auto fetch = [&](int chunk) {
#pragma unroll
    for (int p = 0; p < passes; ++p) {
      place.move_to(chunk * K + team.index + p * teams);
      load(raw[p], a, place, team);
    }
  };
  acc s[R][C], m[R][C];
  lane.load(s, a.s0 + bh * state);
  lane.load(m, a.m0 + bh * state);
  if (chunks > 0) fetch(0);
  for (int chunk = 0; chunk < chunks; ++chunk) {
    acc* slot = a.slots + ((int64_t)bh * chunks + chunk) * (2 * state);
    lane.store(slot, s);
    lane.store(slot + state, m);
#pragma unroll
    for (int p = 0; p < passes; ++p)
      if (team.index + p * teams < K) prepare(a, place, team, raw[p], records + (team.index + p * teams) * stride);
    sync_block();
    if (chunk + 1 < chunks) fetch(chunk + 1);  // in flight over the steps
    const int length = min_of(K, T - chunk * K);
#pragma unroll 1
    for (int t = 0; t < length; ++t) {
      Gates gates;
      step(lane, s, m, records + t * stride, exchange, gates);
      acc q[C], y[R];
      lane.columns(q, records + t * stride + QUERY * N);
      by_row(y, s, q);
      Lane::row_sums(y);
      if (lane.speaks_for_rows()) write(readouts + t * N + lane.row0, y);
    }
    sync_block();
#pragma unroll
    for (int p = 0; p < passes; ++p) {
      const int t = team.index + p * teams;
      place.move_to(chunk * K + t);
      if (t >= K || !place.valid) continue;
      acc y[E];
      team.get(y, readouts + t * N);
      write(team.part<E>(place, a.readout), y);
#pragma unroll
      for (int j = 0; j < E; ++j) y[j] *= silu_for<scalar>(y[j]);
      matrix_state::write_slice(team.part<E>(place, a.y), y);
    }
  }
  lane.store(a.s_last + bh * state, s);
  lane.store(a.m_last + bh * state, m);
}

// The walk back over one step, with S and M before it, S' after it, and the gradients of S' and M' in g_s and g_m, which become those of
// S and M. Letters as in `step`; e, e' and f, f' are the gradients of the arguments of c, c' and a, a'.
ELMAN_FN void walk(const Lane& lane, const acc (&s)[R][C], const acc (&m)[R][C], const acc (&after)[R][C], acc (&g_s)[R][C],
                   acc (&g_m)[R][C], const acc* record, const acc* kept, const acc* d_readout, acc* exchange, acc* given, acc* summed) {
  Gates g;
  acc k[C], m_key[C], q[C], k_row[R], m_key_row[R], dy[R];
  g.take(lane, kept);
  lane.columns(k, record + KEY * N);
  lane.columns(m_key, record + M_KEY * N);
  lane.columns(q, record + QUERY * N);
  lane.rows(k_row, record + KEY * N);
  lane.rows(m_key_row, record + M_KEY * N);
  lane.rows(dy, d_readout);

  // dw = G_M m,  dc_i = sum_j (G_M M)_ij c'_j,  dc'_j = sum_i (G_M M)_ij c_i,  dm = G_M^T w - M^T dw + S'^T e;
  // G_M becomes diag(c) G_M diag(c') - dw m^T,  and dq = S'^T dy.
  acc d_m_key[C] = {}, d_m_column[C] = {}, rows[2][R], minus[R];
#pragma unroll
  for (int r = 0; r < R; ++r) {
    rows[0][r] = rows[1][r] = 0;
#pragma unroll
    for (int c = 0; c < C; ++c) {
      const acc p = g_m[r][c] * m[r][c];
      rows[0][r] += g_m[r][c] * m_key[c];
      rows[1][r] += p * g.m_column[c];
      d_m_column[c] += p * g.m_row[r];
    }
  }
  lane.publish(d_m_column, exchange);
  Lane::row_sums(reinterpret_cast<acc(&)[2 * R]>(rows));
  acc d_m_write[R], d_m_row[R];
  copy(d_m_write, rows[0]);
  copy(d_m_row, rows[1]);
  gate_backward(d_m_row, g.m_row);
  by_column(d_m_key, g_m, g.m_write);
#pragma unroll
  for (int r = 0; r < R; ++r) minus[r] = -d_m_write[r];
  by_column(d_m_key, m, minus);
  by_column(d_m_key, after, d_m_row);
  renew(g_m, g.m_row, g.m_column, minus, m_key);
  acc d_query[C] = {};
  by_column(d_query, after, dy);
  lane.publish(d_query, summed + D_QUERY * N, SUMMED * N);
  lane.publish(d_m_key, summed + D_M_KEY * N, SUMMED * N);
  acc d_m_gate[C];
  lane.collect(d_m_gate, exchange);
  gate_backward(d_m_gate, g.m_column);

  // dm_i += sum_j S'_ij e'_j;  G_S += dy q^T + e m^T + m e'^T;  du = dw + G_S k,  da and da' as dc and dc'.
  acc d_m_key_row[R], d_s_column[C] = {}, d_key[C] = {};
  by_row(d_m_key_row, after, d_m_gate);
#pragma unroll
  for (int r = 0; r < R; ++r) {
    rows[0][r] = rows[1][r] = 0;
#pragma unroll
    for (int c = 0; c < C; ++c) {
      g_s[r][c] += dy[r] * q[c] + d_m_row[r] * m_key[c] + m_key_row[r] * d_m_gate[c];
      const acc p = g_s[r][c] * s[r][c];
      rows[0][r] += g_s[r][c] * k[c];
      rows[1][r] += p * g.s_column[c];
      d_s_column[c] += p * g.s_row[r];
    }
  }
  lane.publish(d_s_column, exchange + warps * N);
  Lane::row_sums(reinterpret_cast<acc(&)[2 * R]>(rows));
  Lane::row_sums(d_m_key_row);
  acc d_value[R], d_s_row[R];
#pragma unroll
  for (int r = 0; r < R; ++r) d_value[r] = d_m_write[r] + rows[0][r], minus[r] = -d_value[r];
  copy(d_s_row, rows[1]);
  gate_backward(d_s_row, g.s_row);
  // dv = du,  dk = G_S^T u - S^T du + M^T f;  G_S becomes diag(a) G_S diag(a') - du k^T.
  by_column(d_key, g_s, g.s_write);
  by_column(d_key, s, minus);
  by_column(d_key, m, d_s_row);
  lane.publish(d_key, summed + D_KEY * N, SUMMED * N);
  renew(g_s, g.s_row, g.s_column, minus, k);
  acc d_s_gate[C], d_key_row[R];
  lane.collect(d_s_gate, exchange + warps * N);
  gate_backward(d_s_gate, g.s_column);

  // dk_i += sum_j M_ij f'_j;  G_M += f k^T + k f'^T.
  by_row(d_key_row, m, d_s_gate);
  Lane::row_sums(d_key_row);
#pragma unroll
  for (int r = 0; r < R; ++r)
#pragma unroll
    for (int c = 0; c < C; ++c) g_m[r][c] += d_s_row[r] * k[c] + k_row[r] * d_s_gate[c];

  if (lane.speaks_for_rows()) {
    write(given + D_VALUE * N + lane.row0, d_value);
    write(given + D_KEY_ROW * N + lane.row0, d_key_row);
    write(given + D_M_KEY_ROW * N + lane.row0, d_m_key_row);
    write(given + D_S_ROW * N + lane.row0, d_s_row);
    write(given + D_M_ROW * N + lane.row0, d_m_row);
  }
  if (lane.speaks_for_columns()) {
    write(given + D_S_COLUMN * N + lane.col0, d_s_gate);
    write(given + D_M_COLUMN * N + lane.col0, d_m_gate);
  }
}

// Gradients of a step's raw vectors, a team's part; `sums` are those of the learned biases over its steps.
ELMAN_FN void finish(const args::Backward& a, const Place& at, const Team& team, const acc* record, const acc* given, const acc* summed,
                     acc (&sums)[2][E]) {
  const auto give = [&](int vector, const acc(&d)[E]) {
    if (at.valid) matrix_state::write_slice(part(a.d_projected, at, team, vector), d);
  };
  const auto add = [&](acc(&d)[E], const acc* from) {
    acc more[E];
    team.get(more, from);
#pragma unroll
    for (int j = 0; j < E; ++j) d[j] += more[j];
  };
  acc d[E], unit[E];
#pragma unroll
  for (int i = 0; i < SUMMED; ++i) {
    team.get(d, summed + i * N);
#pragma unroll 1
    for (int w = 1; w < warps; ++w) add(d, summed + (w * SUMMED + i) * N);
    if (i != D_QUERY) {
      const int vector = i == D_KEY ? KEY : M_KEY;
      add(d, given + (i == D_KEY ? D_KEY_ROW : D_M_KEY_ROW) * N);
      team.get(unit, record + vector * N);
      team.unit_backward(d, unit, record[i == D_KEY ? KEY_FACTOR : M_KEY_FACTOR]);
      give(vector, d);
    } else {
      give(QUERY, d);
    }
  }
  team.get(d, given + D_VALUE * N);
  give(VALUE, d);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    if (!biased) continue;
    team.get(d, given + (D_S_ROW + i) * N);
    add(d, given + (D_S_COLUMN + i) * N);
    if (projected) give(S_BIAS + i, d);
#pragma unroll
    for (int j = 0; j < E; ++j) sums[i][j] += learned && at.valid ? d[j] : acc(0);
  }
}

ELMAN_KERNEL((lanes)) backward(const args::Backward a) {
  const BackwardShared at;
  acc *records = shared<acc>(at.record, K * stride), *d_readouts = shared<acc>(at.d_readout, K * N);
  acc *exchange = shared<acc>(at.exchange, 2 * warps * N), *kept = shared<acc>(at.kept, K * KEPT * N);
  acc *given = shared<acc>(at.given, K * GIVEN * N), *summed = shared<acc>(at.summed, K * warps * SUMMED * N);
  const int T = (int)a.T, H = (int)a.H, bh = (int)block_x(), chunks = ceil_div(T, K), thread = (int)thread_x();
  const Lane lane(thread);
  const Team team(thread);
  constexpr int W = matrix_state::pack_width<acc>(R * C);
  acc* history = (global_history ? a.history + bh * (2 * K * state) : shared<acc>(at.history, at.histories)) + thread * W;
  using Flat = acc[R * C];
  auto remember = [&](int t, int which, acc(&x)[R][C]) {
    write(history + (2 * t + which) * state, reinterpret_cast<const Flat&>(x), lanes);
  };
  auto recall = [&](int t, int which, acc(&x)[R][C]) { read(reinterpret_cast<Flat&>(x), history + (2 * t + which) * state, lanes); };

  Place place(bh, (int)a.B * H, T, H);
  acc sums[2][E] = {}, s[R][C], m[R][C], after[R][C], g_s[R][C], g_m[R][C];
  lane.load(g_s, a.d_s_last + bh * state);
  lane.load(g_m, a.d_m_last + bh * state);
#pragma unroll 1
  for (int chunk = chunks - 1; chunk >= 0; --chunk) {
    const int length = min_of(K, T - chunk * K);
#pragma unroll
    for (int p = 0; p < passes; ++p) {
      const int t = team.index + p * teams;
      if (t >= K) continue;
      place.move_to(chunk * K + t);
      Raw raw;
      load(raw, a, place, team);
      prepare(a, place, team, raw, records + t * stride);
      const auto d_y = matrix_state::read_slice<E>(team.part<E>(place, a.d_y));
      acc d[E];
      read(d, team.part<E>(place, a.readout));
      // y = r^2 sigmoid(r),  dr = dy r sigmoid(r) (2 + r (1 - sigmoid(r)))
#pragma unroll
      for (int j = 0; j < E; ++j) d[j] = d_y[j] * silu_for<scalar>(d[j]) * (2 + d[j] * sigmoid_for<scalar>(-d[j]));
      team.put(d_readouts + t * N, d);
    }
    const acc* slot = a.slots + ((int64_t)bh * chunks + chunk) * (2 * state);
    lane.load(s, slot);
    lane.load(m, slot + state);
    sync_block();
#pragma unroll 1
    for (int t = 0; t < length; ++t) {
      remember(t, 0, s);
      remember(t, 1, m);
      Gates gates;
      step(lane, s, m, records + t * stride, exchange, gates);
      gates.keep(lane, kept + t * KEPT * N);
    }
    copy(reinterpret_cast<Flat&>(after), reinterpret_cast<const Flat&>(s));
    recall(length - 1, 0, s);
    recall(length - 1, 1, m);
    sync_block();
#pragma unroll 1
    for (int t = length - 1; t >= 0; --t) {
      acc coming_s[R][C], coming_m[R][C];  // read a step early
      recall(max_of(t - 1, 0), 0, coming_s);
      recall(max_of(t - 1, 0), 1, coming_m);
      walk(lane, s, m, after, g_s, g_m, records + t * stride, kept + t * KEPT * N, d_readouts + t * N, exchange, given + t * GIVEN * N,
           summed + t * warps * SUMMED * N);
      copy(reinterpret_cast<Flat&>(after), reinterpret_cast<const Flat&>(s));
      copy(reinterpret_cast<Flat&>(s), reinterpret_cast<const Flat&>(coming_s));
      copy(reinterpret_cast<Flat&>(m), reinterpret_cast<const Flat&>(coming_m));
    }
    sync_block();
#pragma unroll
    for (int p = 0; p < passes; ++p) {
      const int t = team.index + p * teams;
      if (t >= K) continue;
      place.move_to(chunk * K + t);
      finish(a, place, team, records + t * stride, given + t * GIVEN * N, summed + t * warps * SUMMED * N, sums);
    }
    sync_block();
  }
  lane.store(a.d_s0 + bh * state, g_s);
  lane.store(a.d_m0 + bh * state, g_m);

  // Each team has summed the learned biases' gradients over its steps.
  if (learned) {
#pragma unroll
    for (int i = 0; i < 2; ++i) team.put(summed + (2 * team.index + i) * N, sums[i]);
    sync_block();
    for (int i = thread; i < 2 * N; i += lanes) {
      acc total = 0;
      for (int j = 0; j < min_of(teams, K); ++j) total += summed[2 * j * N + i];
      a.parameter_parts[bh * 2 * N + i] = total;
    }
  }
}
}  // namespace e79

ELMAN_FORWARD(a) { return matrix_state::launch_pass<e79::Block>(e79::forward, "e79_forward", a, e79::ForwardShared().carve.bytes); }
ELMAN_BACKWARD(a) { return matrix_state::launch_pass<e79::Block>(e79::backward, "e79_backward", a, e79::BackwardShared().carve.bytes); }
