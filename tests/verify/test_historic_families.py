"""Historic mistakes of this field, planted in the shipped kernels: their own steps and the headers of their families.

* Each is an edit of a copy of one file, found by a short passage that must occur there exactly once: where it does not, the test
  fails, and the patch is to be written anew for the kernel as it is.
* The copy is compiled for the host and run in a process of its own. It must be rejected, with the tensor named that is wrong; tensors
  that the mistake does not reach must pass.
"""

import pytest
from planting import LOW, STEP, T9, refused, tried

DENSE, ENGINE = "dense_recurrence.cuh", "dense_recurrence/engine.cuh"
FORWARD, BACKWARD = "matrix_state/forward.cuh", "matrix_state/backward.cuh"
TILE, LAUNCH, STEPS = "matrix_state/tile.cuh", "matrix_state.cuh", "dense_recurrence/steps.cuh"
SLOTS, READOUT = "part<EM>(place, a.slots)", "part<EM>(place, a.readout)"
STATE = "(int64_t)bh * state"
EVERY = "for (int r = 0; r < R; ++r) for (int c = 0; c < C; ++c)"

# mistake: (file, passage, what it becomes, {model: (tensor that must be named, tensors that must pass)}, case)
PATCHES = {
    "E60: the recurrent weight not transposed in the state's gradient": (
        ENGINE, "load_rows<transposed>(pair", "load_rows<false>(pair",
        {"E1": ("d_wx", "y h_last"), "E36": ("d_h0", "y h_last")}, T9),
    "E75: a size falls through the launch, dense": (
        ENGINE, "  const size_t slots = (size_t)min_of", "  if (width % 32) return 0;\n  const size_t slots = (size_t)min_of",
        {"E1": ("y", "")}, T9),
    "E75: a size falls through the launch, matrix": (
        LAUNCH, "if (a.B * a.T * a.H > INT32_MAX)", "if (a.H % 2) return 0;\n  if (a.B * a.T * a.H > INT32_MAX)",
        {"E88": ("y", "")}, T9),
    "E79: no gradient where the state is zero, dense": (
        DENSE, "store2(p.d_h0 + at.corner, d.x, d.y)", "store2(p.d_h0 + at.corner, load2(p.h0 + at.corner).x == 0 ? A(0) : d.x, d.y)",
        {"E36": ("d_h0", "y h_last d_wx d_W")}, "T9 zero-state"),
    "E79: no gradient where the state is zero, matrix": (
        BACKWARD, "if (own < all) mine.store_state(a.d_s0",
        f"if (own < all) {EVERY} if (a.s0[{STATE} + (mine.row0 + r) * N + mine.col0 + c] == 0) g[r][c] = 0;\n"
        "    if (own < all) mine.store_state(a.d_s0",
        {"E75": ("d_s0", "y s_last d_qkvb")}, "T9 zero-state"),
    "E79: no gradient where the state is zero, coupled": (
        STEP, "lane.store(a.d_m0 + bh * state, g_m);",
        f"{EVERY} if (a.m0[bh * state + (lane.row0 + r) * N + lane.col0 + c] == 0) g_m[r][c] = 0;\n  lane.store(a.d_m0 + bh * state, g_m);",
        {"E79n8": ("d_m0", "y s_last m_last d_s0 d_projected d_s_bias d_m_bias")}, "T9 zero-state"),
    "E79: no gradient through the gates of the second state": (
        STEP, "gate_backward(rows[1], open_row);", "for (auto& d : rows[1]) d = 0;",
        {"E79n8": ("d_m_bias", "y s_last m_last")}, T9),
    "E79: no gradient of the key through the other state": (
        STEP, "by_row(last[0], m, d_s_gate);", "for (auto& d : last[0]) d = 0;",
        {"E79n8": ("d_projected", "y s_last m_last d_s0 d_m0 d_s_bias d_m_bias")}, T9),
    "E88: gradient of the output one step late, dense": (
        DENSE, "load_packed(p.d_y + offset(at))", "load_packed(p.d_y + offset(at) + (at.step > 0 ? D : 0))",
        {"E1": ("d_z", "y h_last"), "E36": ("d_wx", "y h_last")}, T9),
    "E88: gradient of the output one step late, matrix": (
        BACKWARD, "d_y[p] = read_slice<EM>(team.template part<EM>(place, a.d_y));",
        "Place later = place; later.move_to(chunk * K + slot_of(p) + 1); d_y[p] = read_slice<EM>(team.template part<EM>(later, a.d_y));",
        {"E75": ("d_qkvb", "y s_last"), "E88": ("d_qkv", "y s_last")}, T9),
    "E88: gated read-out kept where backward expects the ungated": (
        FORWARD, f"if constexpr (Step::needs_readout) write(team.template {READOUT}, y);",
        f"A gated[EM]; copy(gated, y); Step::output(a, place, team, gated); if constexpr (Step::needs_readout) write(team.template {READOUT}, gated);",
        {"E75": ("d_qkvb", "y s_last"), "E88:use_gate=true": ("d_gate", "y s_last d_qkv")}, T9),
    "E88: slot overwritten by the read-out, dense": (
        DENSE, "store2_streamed(p.h + offset(at), h.x, h.y);",
        "store2_streamed(p.h + offset(at), Step::readout(h.x, unpacked(w.gate).x), Step::readout(h.y, unpacked(w.gate).y));",
        {"E1": ("d_z", "y h_last"), "E36": ("d_W", "y h_last")}, T9),
    "E88: slot overwritten by the read-out, matrix": (
        FORWARD, "Step::output(a, place, team, y);", f"write(team.template {SLOTS}, y); Step::output(a, place, team, y);",
        {"E75": ("d_qkvb", "y s_last"), "E88": ("d_qkv", "y s_last")}, T9),
    "E88: final state returned as the first, dense": (
        DENSE, "store2(p.h_last + at.corner, h.x, h.y);", "store2(p.h_last + at.corner, load2(p.h0 + at.corner).x, load2(p.h0 + at.corner).y);",
        {"E36": ("h_last", "y d_wx d_h0")}, T9),
    "E88: final state returned as the first, matrix": (
        FORWARD, "if (bh < all && stores) mine.store_state(a.s_last",
        f"if (bh < all) mine.load_state(s, a.s0 + {STATE});\n    if (bh < all && stores) mine.store_state(a.s_last",
        {"E75": ("s_last", "y d_qkvb d_s0")}, T9),
    "E89: backward of another recurrence, dense": (
        DENSE, "{Step::state_slope(h.x), Step::state_slope(h.y)}", "{1 - Step::state_slope(h.x) / 2, 1 - Step::state_slope(h.y) / 2}",
        {"E1": ("d_wx", "y h_last d_z"), "E36": ("d_wx", "y h_last")}, T9),
    "E89: backward replays another recurrence, matrix": (
        BACKWARD, "Step::forward(mine, s, in, kept);",
        "A former[R][C]; for (int r = 0; r < R; ++r) copy(former[r], s[r]);\n      Step::forward(mine, s, in, kept);\n"
        f"      {EVERY} s[r][c] += A(0.1) * former[r][c];",
        {"E75": ("d_qkvb", "y s_last"), "E88": ("d_qkv", "y s_last")}, T9),
    "E2: every head reads the first one's decay": (
        STEP, "raw.decay = a.decay_logit[at.head()]", "raw.decay = a.decay_logit[at.head() - at.h]", {"E88": ("y", "")}, T9),
    "GRU: an index that is right for one row only, dense": (
        DENSE, ": p.h0 + at.corner)", ": p.h0 + at.corner % D)",
        {"E1": ("d_W", "y h_last d_wx d_h0")}, T9),
    "GRU: an index that is right for one row only, matrix": (
        BACKWARD, "a.slots + ((int64_t)bh * chunks", "a.slots + ((int64_t)(bh % H) * chunks",
        {"E75": ("d_qkvb", "y s_last"), "E88": ("d_qkv", "y s_last")}, T9),
    "state carried in bf16, dense": (
        ENGINE, "publish_all(target_of(step + ring.ahead, turn));",
        f"for (auto& v : value) v = {{{LOW.format('v.x')}, {LOW.format('v.y')}}};\n      publish_all(target_of(step + ring.ahead, turn));",
        {"E36": ("h_last", "")}, T9),
    "decay in bf16": (
        TILE, "in.scalar[j] = record[Record<Step>::scalar(j)];", f"in.scalar[j] = {LOW.format('record[Record<Step>::scalar(j)]')};",
        {"E88": ("s_last", "")}, T9),
    "forget gate in bf16": (
        STEP, "team.put(record + Record::row(BETA), beta);", f"for (auto& b : beta) b = {LOW.format('b')}; team.put(record + Record::row(BETA), beta);",
        {"E75": ("s_last", "")}, T9),
    "weight gradient kept in bf16 from step to step, forget gate": (
        STEP, "sums.beta_bias[j] += at.valid ? d[j] : acc(0);", f"sums.beta_bias[j] = {LOW.format('sums.beta_bias[j] + (at.valid ? d[j] : acc(0))')};",
        {"E75": ("d_beta_bias", "y s_last d_qkvb d_s0")}, "T19 typical"),
    "weight gradient kept in bf16 from step to step, decay": (
        STEP, "sums.dt_bias += d_logit;", f"sums.dt_bias = {LOW.format('sums.dt_bias + d_logit')};",
        {"E88": ("d_dt_bias", "y s_last d_qkv d_s0 d_A_log")}, "T19 typical"),
    "batch and time mixed up, dense": (
        DENSE, "store2_streamed(p.y + offset(at),", "store2_streamed(p.y + at.step * p.B * D + at.corner,",
        {"E1": ("y", "h_last d_wx")}, T9),
    "batch and time mixed up, matrix": (
        FORWARD, "write_slice(team.template part<EM>(place, a.y), y);",
        "Place mixed = place; mixed.b = 0, mixed.t = place.t * (all / H) + place.b; write_slice(team.template part<EM>(mixed, a.y), y);",
        {"E75": ("y", "s_last d_s0")}, T9),
    "a tanh state without its slope": (
        STEPS, "A state_slope(A h) { return tanh_slope(h); }", "A state_slope(A) { return 1; }", {"E1": ("d_wx", "y d_z")}, T9),
    "a term of the read-out's derivative dropped": (
        STEPS, "silu_of(h) + h * silu_slope(h)", "silu_of(h)", {"E36": ("d_wx", "y h_last")}, T9),
    "gradient of the gate from a gated read-out": (
        STEPS, "h * silu_slope(gate)}", "h * silu_of(gate) * silu_slope(gate)}", {"E1": ("d_z", "y d_wx")}, T9),
    "the gradient carried back without its decay": (
        STEP, "g[r][c] = lambda * g[r][c]", "g[r][c] = g[r][c]", {"E88": ("d_s0", "y s_last")}, T9),
    "backward takes another forget gate than forward": (
        STEP, "in.row[BETA][r] * g[r][c]", "g[r][c]", {"E75": ("d_s0", "y s_last")}, T9),
}  # fmt: skip
PLANTED = [(bug, model) for bug, patch in PATCHES.items() for model in patch[3]]


@pytest.mark.parametrize(("bug", "model"), PLANTED)
def test_a_historic_mistake_in_a_shipped_kernel_is_rejected_in_the_tensor_that_is_wrong(bug, model, tmp_path):
    refused(model, PATCHES[bug], tmp_path)


def test_one_step_from_a_zero_state_passes_a_missing_gradient_that_the_second_step_shows(tmp_path):
    bug = "E79: no gradient of the key through the other state"
    report, (one, two) = tried("E79n8", PATCHES[bug], tmp_path, "T1 zero-state", "T2 zero-state")
    assert one in report.passed and two in report.rejected


@pytest.mark.parametrize("model", ["E1", "E88"])
def test_one_row_alone_passes_an_index_that_is_right_for_one_row_only(model, tmp_path):
    bug = next(b for b, patch in PATCHES.items() if b.startswith("GRU") and model in patch[3])
    report, (one, many) = tried(model, PATCHES[bug], tmp_path, "B1 T9 typical", T9)
    assert one in report.passed and many in report.rejected
