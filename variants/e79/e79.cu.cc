// E79: two matrix states that gate each other. S is written by the delta rule and forgets by rows and columns as M answers the key; M is
// written with what S lacked and forgets as S answers M's own key; the readout r = S' q gates itself: y = r^2 sigmoid(r).
// Tensors and constants: binding.py. Equations: README.md.
//
// * A block holds both states of one head in registers: a lane has a tile of R rows x C columns of each. Sums over keys stay in a warp;
//   sums over rows are an exchange through shared memory, two a step in either direction.
// * A lane ends with the whole sums of few of its rows, and a warp adds up its share of the columns: so each gate of a column is computed
//   once in a block, each of a row once in a warp, and one trip through shared memory hands them to the lanes that need them.
// * Time runs in chunks of K steps: teams of lanes prepare the records of a chunk (unit keys), all lanes step it, teams write its results,
//   each of them one vector of one step. What the next chunk reads is brought to the L2 cache meanwhile. Backward replays a chunk once
//   from its slot, keeps its states and gates, and walks them back. No atomics.
#include <elman/copy.cuh>

#include "lane.cuh"

namespace e79 {
// What a block keeps of each step of a chunk, one after the other, so that a lane needs few addresses.
enum { READOUT = record_size, FOUND = READOUT + N, FORWARD_STEP = FOUND, GIVEN_AT = FOUND + KEPT * N, SUMS = GIVEN_AT + GIVEN * N };
enum { BACKWARD_STEP = SUMS + warps * SUMMED * N };
struct ForwardShared {
  Carve carve;
  unsigned steps = carve.take<acc>(K * FORWARD_STEP), exchange = carve.take<acc>(exchanged), found = carve.take<acc>(KEPT * N);
};
struct BackwardShared {
  static constexpr unsigned histories = global_history ? 0 : (K - 1) * 2 * N * N;
  Carve carve;
  unsigned steps = carve.take<acc>(K * BACKWARD_STEP), exchange = carve.take<acc>(exchanged);
  unsigned d_bias = carve.take<acc>(learned ? 2 * K * N : 1), history = carve.take<acc>(histories);
};

// The vectors of a chunk's steps, `COUNT` of each, shared out among the teams: do(pass, vector, step), the same vector in all of a warp's.
template <int COUNT> constexpr int passes = ceil_div(K * COUNT, teams);
template <int COUNT, class Do> ELMAN_FN void share_out(const Team& team, Do act) {
#pragma unroll
  for (int p = 0; p < passes<COUNT>; ++p) {
    const int item = team.index + p * teams;
    if (item < K * COUNT) act(p, item / K, item % K);
  }
}
template <class T> ELMAN_FN T* part(T* tensor, const Place& at, const Team& team, int vector) {
  return team.part<E>(at, tensor, vectors * at.H * N, vector * at.H * N);
}
// A raw vector of a step as its record has it.
ELMAN_FN void prepare(const Slice<scalar, E>& raw, const Team& team, int vector, acc* record) {
  acc x[E];
#pragma unroll
  for (int j = 0; j < E; ++j) x[j] = raw[j];
  if (vector == KEY || vector == M_KEY) {
    const acc factor = team.unit_factor<scalar>(x);
#pragma unroll
    for (int j = 0; j < E; ++j) x[j] *= factor;
    if (team.first()) record[vector == KEY ? KEY_FACTOR : M_KEY_FACTOR] = factor;
  }
  team.put(record + vector * N, x);
}
// Bring this lane's part of a vector to the L2 cache: 32 bytes at a time.
template <class T> ELMAN_FN void bring(const T* part) {
  constexpr int together = max_of(32 / (E * (int)sizeof(T)), 1);  // lanes
  if (thread_x() % together == 0) prefetch(part);
}

ELMAN_KERNEL((lanes)) forward(const args::Forward a) {
  const ForwardShared at;
  acc *steps = shared<acc>(at.steps, K * FORWARD_STEP), *exchange = shared<acc>(at.exchange, exchanged);
  acc* found = shared<acc>(at.found, KEPT * N);
  const int T = (int)a.T, H = (int)a.H, bh = (int)block_x(), chunks = ceil_div(T, K), thread = (int)thread_x();
  const Lane lane(thread);
  const Team team(thread);
  Place place(bh, (int)a.B * H, T, H);
  Biases bias;
  if (learned) bias.take(lane, a.s_bias + place.h * N, a.m_bias + place.h * N);
  acc s[R][C], m[R][C];
  lane.load(s, a.s0 + bh * state);
  lane.load(m, a.m0 + bh * state);
  for (int chunk = 0; chunk < chunks; ++chunk) {
    Slice<scalar, E> raw[passes<vectors>];
    share_out<vectors>(team, [&](int p, int vector, int t) {
      place.move_to(chunk * K + t);
      raw[p] = matrix_state::read_slice<E>(part(a.projected, place, team, vector));
    });
    acc* slot = a.slots + ((int64_t)bh * chunks + chunk) * (2 * state);
    lane.store(slot, s);
    lane.store(slot + state, m);
    share_out<vectors>(team, [&](int p, int vector, int t) { prepare(raw[p], team, vector, steps + t * FORWARD_STEP); });
    sync_block();
    share_out<vectors>(team, [&](int, int vector, int t) {
      place.move_to((chunk + 1) * K + t);
      bring(part(a.projected, place, team, vector));
    });
    const int length = min_of(K, T - chunk * K);
    Key key;
    key.take(lane, steps);
#pragma unroll 1
    for (int t = 0; t < length; ++t) {
      acc* now = steps + t * FORWARD_STEP;
      const auto read_out = [&] {
        acc q[C], y[1][R];
        lane.columns(q, now + QUERY * N);
        by_row(y[0], s, q);
        lane.row_sums(y);
        lane.tell_rows(now + READOUT, y[0]);
      };
      step(lane, s, m, key, now, steps + min_of(t + 1, K - 1) * FORWARD_STEP, bias, exchange, found, [] {}, read_out);
    }
    sync_block();
    share_out<1>(team, [&](int, int, int t) {
      place.move_to(chunk * K + t);
      if (!place.valid) return;
      acc y[E];
      team.get(y, steps + t * FORWARD_STEP + READOUT);
      write(team.part<E>(place, a.readout), y);
#pragma unroll
      for (int j = 0; j < E; ++j) y[j] *= silu_for<scalar>(y[j]);
      matrix_state::write_slice(team.part<E>(place, a.y), y);
    });
  }
  lane.store(a.s_last + bh * state, s);
  lane.store(a.m_last + bh * state, m);
}

// The walk back over one step, with S and M before it, S' after it, and the gradients of S' and M' in g_s and g_m, which become those of
// S and M. Letters as in `step`; e, e' and f, f' are the gradients of the arguments of c, c' and a, a'. Once S' is not needed any more
// `recall` puts the state there that the next walk begins with.
template <class Recall>
ELMAN_FN void walk(const Lane& lane, const acc (&s)[R][C], const acc (&m)[R][C], acc (&after)[R][C], acc (&g_s)[R][C], acc (&g_m)[R][C],
                   acc* now, acc* exchange, Recall recall) {
  const acc *record = now, *kept = now + FOUND, *d_readout = now + READOUT;
  acc *given = now + GIVEN_AT, *summed = now + SUMS;
  acc k[C], m_key[C], q[C], by_columns[C], by_rows[R], write_row[R], dy[R], open_row[OWN];
  lane.rows(by_rows, kept + M_ROW * N);
  lane.columns(by_columns, kept + M_COLUMN * N);
  lane.columns(m_key, record + M_KEY * N);

  // dw = G_M m,  dc_i = sum_j (G_M M)_ij c'_j,  dc'_j = sum_i (G_M M)_ij c_i,  dm = G_M^T w - M^T dw + S'^T e;
  // G_M becomes diag(c) G_M diag(c') - dw m^T,  and dq = S'^T dy.
  acc d_column[C] = {}, d_m_key[C] = {}, d_query[C] = {}, rows[2][R], p[R][C];
#pragma unroll
  for (int r = 0; r < R; ++r)
#pragma unroll
    for (int c = 0; c < C; ++c) p[r][c] = g_m[r][c] * m[r][c];
  by_column(d_column, p, by_rows);
  lane.give(d_column, exchange);
  by_row(rows[0], g_m, m_key);
  by_row(rows[1], p, by_columns);
  lane.rows(write_row, kept + M_WRITE * N);
  lane.rows(dy, d_readout);
  lane.own(open_row, kept + M_ROW * N);
  acc open_column = kept[M_COLUMN * N + lane.added];
  sync_block();
  acc d_gate = lane.part_of_column(exchange), d_write[OWN];
  lane.row_sums(rows);
  // While those are on their way.
  by_column(d_query, after, dy);
  by_column(d_m_key, g_m, write_row);
  lane.publish(d_query, summed + D_QUERY * N, SUMMED * N);
  d_gate = Lane::column_sum(d_gate) * sigmoid_slope(open_column);
#pragma unroll
  for (int i = 0; i < OWN; ++i) d_write[i] = rows[0][i];
  gate_backward(rows[1], open_row);
  lane.tell_rows(given + D_WRITE * N, d_write);
  lane.tell_rows(given + D_M_ROW * N, rows[1]);
  lane.tell_column(given + D_M_COLUMN * N, d_gate);
  sync_block();
  acc minus[R], d_m_row[R], d_m_gate[C];
  lane.rows(minus, given + D_WRITE * N);
  lane.rows(d_m_row, given + D_M_ROW * N);
  lane.columns(d_m_gate, given + D_M_COLUMN * N);
#pragma unroll
  for (int r = 0; r < R; ++r) minus[r] = -minus[r];

  // dm_i += sum_j S'_ij e'_j;  G_S += dy q^T + e m^T + m e'^T;  du = dw + G_S k,  da and da' as dc and dc'.
  acc m_key_row[R], d_s_column[C] = {}, d_key[C] = {}, more[3][R], s_column[C], s_row[R];
  lane.columns(q, record + QUERY * N);
  lane.rows(m_key_row, record + M_KEY * N);
  lane.rows(s_row, kept + S_ROW * N);
#pragma unroll
  for (int r = 0; r < R; ++r)
#pragma unroll
    for (int c = 0; c < C; ++c) {
      g_s[r][c] += dy[r] * q[c];
      g_s[r][c] += d_m_row[r] * m_key[c];
      g_s[r][c] += m_key_row[r] * d_m_gate[c];
      p[r][c] = g_s[r][c] * s[r][c];
    }
  by_column(d_s_column, p, s_row);
  lane.give(d_s_column, exchange);
  lane.columns(k, record + KEY * N);
  lane.columns(s_column, kept + S_COLUMN * N);
  by_row(more[0], g_s, k);
  by_row(more[1], p, s_column);
  by_row(more[2], after, d_m_gate);
  lane.rows(write_row, kept + S_WRITE * N);
  lane.own(open_row, kept + S_ROW * N);
  open_column = kept[S_COLUMN * N + lane.added];
  sync_block();
  d_gate = lane.part_of_column(exchange);
  lane.row_sums(more);
  // While those are on their way.
  by_column(d_m_key, m, minus);
  by_column(d_m_key, after, d_m_row);
  recall(after);
  lane.publish(d_m_key, summed + D_M_KEY * N, SUMMED * N);
  renew(g_m, by_rows, by_columns, minus, m_key);
  by_column(d_key, g_s, write_row);
  d_gate = Lane::column_sum(d_gate) * sigmoid_slope(open_column);
#pragma unroll
  for (int i = 0; i < OWN; ++i) d_write[i] += more[0][i];
  gate_backward(more[1], open_row);
  lane.tell_rows(given + D_VALUE * N, d_write);
  lane.tell_rows(given + D_S_ROW * N, more[1]);
  lane.tell_rows(given + D_M_KEY_ROW * N, more[2]);
  lane.tell_column(given + D_S_COLUMN * N, d_gate);
  sync_block();
  acc d_s_row[R], d_s_gate[C], k_row[R], last[1][R];
  lane.rows(minus, given + D_VALUE * N);
  lane.rows(d_s_row, given + D_S_ROW * N);
  lane.columns(d_s_gate, given + D_S_COLUMN * N);
  lane.rows(k_row, record + KEY * N);
#pragma unroll
  for (int r = 0; r < R; ++r) minus[r] = -minus[r];
  // dv = du,  dk_i = sum_j M_ij f'_j,  dk += G_S^T u - S^T du + M^T f;  G_S becomes diag(a) G_S diag(a') - du k^T;  G_M += f k^T + k f'^T.
  by_row(last[0], m, d_s_gate);
  by_column(d_key, s, minus);
  by_column(d_key, m, d_s_row);
  lane.publish(d_key, summed + D_KEY * N, SUMMED * N);
  lane.row_sums(last);
  lane.tell_rows(given + D_KEY_ROW * N, last[0]);
  renew(g_s, s_row, s_column, minus, k);
#pragma unroll
  for (int r = 0; r < R; ++r)
#pragma unroll
    for (int c = 0; c < C; ++c) {
      g_m[r][c] += d_s_row[r] * k[c];
      g_m[r][c] += k_row[r] * d_s_gate[c];
    }
}

// Gradient of a raw vector of a step; that of a learned bias is added to `d_bias`.
ELMAN_FN void finish(const args::Backward& a, const Place& at, const Team& team, int vector, const acc* now, acc* d_bias) {
  const acc *record = now, *given = now + GIVEN_AT, *summed = now + SUMS;
  acc d[E];
  const auto add = [&](const acc* from) {
    acc more[E];
    team.get(more, from);
#pragma unroll
    for (int j = 0; j < E; ++j) d[j] += more[j];
  };
  if (vector == VALUE) {
    team.get(d, given + D_VALUE * N);
  } else if (vector == S_BIAS || vector == M_BIAS) {
    team.get(d, given + (D_S_ROW + vector - S_BIAS) * N);
    add(given + (D_S_COLUMN + vector - S_BIAS) * N);
    if (learned) {
      if (!at.valid) return;
      add(d_bias);
      return team.put(d_bias, d);
    }
  } else {
    const int sum = vector == QUERY ? D_QUERY : vector == KEY ? D_KEY : D_M_KEY;
    team.get(d, summed + sum * N);
#pragma unroll
    for (int w = 1; w < warps; ++w) add(summed + (w * SUMMED + sum) * N);
    if (vector != QUERY) {
      acc unit[E];
      add(given + (vector == KEY ? D_KEY_ROW : D_M_KEY_ROW) * N);
      team.get(unit, record + vector * N);
      team.unit_backward(d, unit, record[vector == KEY ? KEY_FACTOR : M_KEY_FACTOR]);
    }
  }
  if (at.valid) matrix_state::write_slice(part(a.d_projected, at, team, vector), d);
}

ELMAN_KERNEL((lanes)) backward(const args::Backward a) {
  const BackwardShared at;
  acc *steps = shared<acc>(at.steps, K * BACKWARD_STEP), *exchange = shared<acc>(at.exchange, exchanged);
  acc* d_bias = shared<acc>(at.d_bias, learned ? 2 * K * N : 1);
  const int T = (int)a.T, H = (int)a.H, bh = (int)block_x(), chunks = ceil_div(T, K), thread = (int)thread_x();
  const Lane lane(thread);
  const Team team(thread);
  // Both states before each step of a chunk but the last, whose stay in registers.
  acc* history = global_history ? a.history + bh * (2 * K * state) : shared<acc>(at.history, at.histories);
  Place place(bh, (int)a.B * H, T, H);
  Biases bias;
  if (learned) bias.take(lane, a.s_bias + place.h * N, a.m_bias + place.h * N);
  acc s[R][C], m[R][C], after[R][C], before_m[R][C], g_s[R][C], g_m[R][C];
  lane.load(g_s, a.d_s_last + bh * state);
  lane.load(g_m, a.d_m_last + bh * state);
  if (learned) {
    for (int i = thread; i < 2 * K * N; i += lanes) d_bias[i] = 0;
    sync_block();
  }
#pragma unroll 1
  for (int chunk = chunks - 1; chunk >= 0; --chunk) {
    const int length = min_of(K, T - chunk * K);
    const acc* slot = a.slots + ((int64_t)bh * chunks + chunk) * (2 * state);
    lane.load(s, slot);
    lane.load(m, slot + state);
    // The raw vectors, and last the readout's gradient: y = r^2 sigmoid(r),  dr = dy r sigmoid(r) (2 + r (1 - sigmoid(r)))
    share_out<vectors + 1>(team, [&](int, int vector, int t) {
      place.move_to(chunk * K + t);
      if (vector < vectors) {
        prepare(matrix_state::read_slice<E>(part(a.projected, place, team, vector)), team, vector, steps + t * BACKWARD_STEP);
        return;
      }
      const auto d_y = matrix_state::read_slice<E>(team.part<E>(place, a.d_y));
      acc d[E];
      read(d, team.part<E>(place, a.readout));
#pragma unroll
      for (int j = 0; j < E; ++j) d[j] = d_y[j] * silu_for<scalar>(d[j]) * (2 + d[j] * sigmoid_for<scalar>(-d[j]));
      team.put(steps + t * BACKWARD_STEP + READOUT, d);
    });
    sync_block();
    if (chunk > 0) {
      share_out<vectors + 1>(team, [&](int, int vector, int t) {
        place.move_to((chunk - 1) * K + t);
        if (vector < vectors) return bring(part(a.projected, place, team, vector));
        bring(team.part<E>(place, a.d_y));
        bring(team.part<E>(place, a.readout));
      });
      constexpr int sector = 32 / sizeof(acc);
      for (int i = thread * sector; i < 2 * state; i += lanes * sector) prefetch(slot - 2 * state + i);
    }
    Key key;
    key.take(lane, steps);
    const auto replay = [&](int t, auto keep_s, auto keep_m) {
      acc* now = steps + t * BACKWARD_STEP;
      step(lane, s, m, key, now, steps + min_of(t + 1, K - 1) * BACKWARD_STEP, bias, exchange, now + FOUND, keep_s, keep_m);
    };
#pragma unroll 1
    for (int t = 0; t < length - 1; ++t) {
      acc* kept = history + 2 * t * state;
      replay(t, [&] { lane.store(kept, s); }, [&] { lane.store(kept + state, m); });
    }
#pragma unroll
    for (int r = 0; r < R; ++r) copy(after[r], s[r]), copy(before_m[r], m[r]);
    replay(length - 1, [] {}, [] {});
    sync_block();
    // Two steps a turn, so that states change places without moves: S before the step, M before it, S after it, M before the next.
    const auto back = [&](int t, acc(&s_before)[R][C], acc(&m_before)[R][C], acc(&s_after)[R][C], acc(&m_coming)[R][C]) {
      const acc* coming = global_history && t == 0 ? slot : history + 2 * max_of(t - 1, 0) * state;  // for t = 0 nobody uses it
      lane.load(m_coming, coming + state);
      walk(lane, s_before, m_before, s_after, g_s, g_m, steps + t * BACKWARD_STEP, exchange,
           [&](acc(&to)[R][C]) { lane.load(to, coming); });
    };
#pragma unroll 1
    for (int t = length - 1; t >= 0; t -= 2) {
      back(t, after, before_m, s, m);
      if (t > 0) back(t - 1, s, m, after, before_m);
    }
    sync_block();
    share_out<biased ? 6 : 4>(team, [&](int, int vector, int t) {
      place.move_to(chunk * K + t);
      finish(a, place, team, vector, steps + t * BACKWARD_STEP, d_bias + (max_of(vector - S_BIAS, 0) * K + t) * N);
    });
    sync_block();
  }
  lane.store(a.d_s0 + bh * state, g_s);
  lane.store(a.d_m0 + bh * state, g_m);

  // The learned biases' gradients are summed by the step's place in its chunk.
  if (learned) {
    for (int i = thread; i < 2 * N; i += lanes) {
      acc total = 0;
      for (int t = 0; t < K; ++t) total += d_bias[(i / N * K + t) * N + i % N];
      a.parameter_parts[bh * 2 * N + i] = total;
    }
  }
}
}  // namespace e79

ELMAN_FORWARD(a) { return matrix_state::launch_pass<e79::Block>(e79::forward, "e79_forward", a, e79::ForwardShared().carve.bytes); }
ELMAN_BACKWARD(a) { return matrix_state::launch_pass<e79::Block>(e79::backward, "e79_backward", a, e79::BackwardShared().carve.bytes); }
