"""Historic mistakes in the shipped kernels of the gated and pointwise families, and those of options, caches and sizes.

As test_historic_families.py, which has the dense and the matrix family: each patch must be rejected in the tensor that is wrong.
"""

import pytest
from planting import LOW, STEP, T9, plan_of, refused

DENSE, ENGINE, STEPS = "dense_recurrence.cuh", "dense_recurrence/engine.cuh", "dense_recurrence/steps.cuh"
FORWARD, BACKWARD = "matrix_state/forward.cuh", "matrix_state/backward.cuh"
GATED, CELLS, POINTWISE = "gated_recurrence.cuh", "gated_recurrence/cells.cuh", "pointwise_recurrence.cuh"
CLAMP = "[](A x) {{ return x > A(0.1) ? A(0.1) : x < A(-0.1) ? A(-0.1) : x; }}({})"
READ = "y s_last h_last"

# mistake: (file, passage, what it becomes, {model: (tensor that must be named, tensors that must pass)}, case)
PATCHES = {
    "E2: every slot reads the first one's input": (
        DENSE, "in.wx = load_packed(p.wx + offset(at));", "in.wx = load_packed(p.wx + offset(at) % (p.T * D));",
        {"E2": ("y", "")}, T9),
    "E60: the recurrent weight not transposed in the state's gradient, gated": (
        ENGINE, "load_rows<transposed>(pair", "load_rows<false>(pair", {"E63": ("d_wx", READ)}, T9),
    "E72: a width hard-wired to another, right where both are equal": (
        STEP, "at.H * (2 * N + (tied ? 0 : M)), v * at.H * N);", "at.H * 3 * N, v * at.H * N);",
        {"E88n16:expansion=1.5": ("y", "")}, T9),
    "E74: a cache that is never written, dense": (
        DENSE, "store2_streamed(p.h + offset(at), h.x, h.y);", "", {"E36": ("d_wx", READ)}, T9),
    "E74: a cache that is never written, matrix": (
        FORWARD, "mine.store_state(slot, s);", "", {"E75": ("d_qkvb", READ)}, T9),
    "E74: a cache that is never written, gated": (
        GATED, "store2_streamed(to + k * D, w.kept[k].x, w.kept[k].y);", "if (k < Cell::kept - 1) store2_streamed(to + k * D, w.kept[k].x, w.kept[k].y);",
        {"cudalstm": ("d_wx", READ)}, T9),
    "E74: a cache that is never written, pointwise": (
        POINTWISE, "put(kept + k * D, h);", "if (k > 0) put(kept + k * D, h);", {"E34": ("d_proj", READ)}, T9),
    "E74: the gradient of the next step dropped, dense": (
        DENSE, "out[0] = {(w.d_h.x + sum[0].x) * w.slope.x, (w.d_h.y + sum[0].y) * w.slope.y};",
        "out[0] = {w.d_h.x * w.slope.x, w.d_h.y * w.slope.y};", {"E36": ("d_wx", READ)}, T9),
    "E74: the gradient of the next step dropped, gated": (
        GATED, "Cell::back(slope[0], w.d_h.x + sum[0].x,", "Cell::back(slope[0], w.d_h.x,", {"cudalstm": ("d_wx", READ)}, T9),
    "E74: the gradient of the next step dropped, pointwise": (
        POINTWISE, "d = c[n] + d_out * read.h;", "d = d_out * read.h;", {"E34": ("d_proj", READ)}, T9),
    "E74v2: a gradient clamped inside the kernel, dense": (
        DENSE, "store2_streamed(p.d_wx + offset(at), d.x, d.y);", f"store2_streamed(p.d_wx + offset(at), {CLAMP.format('d.x')}, {CLAMP.format('d.y')});",
        {"E1": ("d_wx", f"{READ} d_z d_h0")}, T9),
    "E74v2: a gradient clamped inside the kernel, pointwise": (
        POINTWISE, "c[n] = d * step.h;", f"c[n] = {CLAMP.format('d * step.h')};", {"E34": ("d_h0", READ)}, T9),
    "E74v2: a sum over time divided by the steps": (
        POINTWISE, "p.part[j][mine.at.flat + n] = d_vec[n][j];", "p.part[j][mine.at.flat + n] = d_vec[n][j] / T;",
        {"E34": ("d_delta", f"{READ} d_proj d_h0")}, T9),
    "E75: a size falls through the launch, gated": (
        GATED, "const int64_t width = P::operands * p.D;", "const int64_t width = P::operands * p.D; if (p.D % 32) return 0;",
        {"E63": ("y", "")}, T9),
    "E75: a size falls through the launch, pointwise": (
        POINTWISE, "ELMAN_TRY(check<C>(name, p));", "if (p.D % 32) return 0;\n  ELMAN_TRY(check<C>(name, p));", {"E34": ("y", "")}, T9),
    "E79: no gradient where the state is zero, gated": (
        GATED, "store2(p.d_h0 + at.corner, d_pre(Cell::h_at).x, d_pre(Cell::h_at).y);",
        "store2(p.d_h0 + at.corner, load2(p.h0 + at.corner).x == 0 ? A(0) : d_pre(Cell::h_at).x, d_pre(Cell::h_at).y);",
        {"cudalstm": ("d_h0", f"{READ} d_wx d_W d_s0")}, "T9 zero-state"),
    "E79: no gradient where the state is zero, pointwise": (
        POINTWISE, "put(p.d_h0 + mine.at.flat, c);", "if (h[0] == 0) c[0] = 0;\n  put(p.d_h0 + mine.at.flat, c);",
        {"E34": ("d_h0", f"{READ} d_proj d_delta")}, "T9 zero-state"),
    "E79: the gradient through a gate missing": (
        CELLS, "slope[1] = (former - kept[1]) * alpha.x * alpha.y", "slope[1] = 0", {"E63": ("d_wx", f"{READ} d_W d_h0")}, T9),
    "E88: an option that only the eager path knows": (
        STEP, "linear = Constant::LINEAR;", "linear = false;", {"E88:linear_state=true": ("s_last", "")}, T9),
    "E88: a fused kernel without the write gate": (
        STEP, "if constexpr (write_gate) return in.scalar[WRITE];", "", {"E88:use_write_gate=true,use_gate=true": ("y", "")}, T9),
    "E88: a gate whose weights get no gradient": (
        STEP, "store(a.d_write_logit + at.head(), gradient[WRITE] *", "store(a.d_write_logit + at.head(), acc(0) *",
        {"E88:use_write_gate=true,use_gate=true": ("d_write_logit", f"{READ} d_qkv d_s0")}, T9),
    "E88: a backward pass a hundred times too large": (
        BACKWARD, "g[r][c] += dy[r] * q[c];", "g[r][c] += 100 * dy[r] * q[c];", {"E88": ("d_qkv", READ)}, T9),
    "E88: a tanh that overflows to no number": (
        STEPS, "A state(A pre) { return tanh_of(pre); }", "A state(A pre) { const A e = exp_of(2 * pre); return (e - 1) / (e + 1); }",
        {"E1": ("y", "")}, "T9 large-input"),
    "E88: gradient of the output one step late, gated": (
        GATED, "in.d_y = load_packed(p.d_y + offset(at));", "in.d_y = load_packed(p.d_y + offset(at) + (at.step > 0 ? D : 0));",
        {"cudalstm": ("d_wx", READ)}, T9),
    "E88: gradient of the output one step late, pointwise": (
        POINTWISE, "const A d_out = out[k][n],", "const A d_out = out[k > 0 ? k - 1 : 0][n],", {"E34": ("d_proj", READ)}, T9),
    "E88: final state returned as the first, gated": (
        GATED, "store2(p.s_last + at.corner, w.kept[0].x, w.kept[0].y);",
        "store2(p.s_last + at.corner, load2(p.s0 + at.corner).x, load2(p.s0 + at.corner).y);",
        {"cudalstm": ("s_last", "y h_last d_wx d_s0")}, T9),
    "E88: final state returned as the first, pointwise": (
        POINTWISE, "if (mine.at.valid) put(p.h_last + mine.at.flat, h);",
        "if (mine.at.valid) get(h, p.h0 + mine.at.flat), put(p.h_last + mine.at.flat, h);", {"E34": ("h_last", "y d_proj d_h0")}, T9),
    "E89: states saved at one interval and read at another": (
        FORWARD, "if (every || t % K == 0) {", "if (every || t % (2 * K) == 0) {", {"E88": ("d_qkv", READ)}, "T19 typical"),
    "E89: backward of another recurrence, gated": (
        CELLS, "slope[2] = alpha.x;", "slope[2] = alpha.y;", {"E63": ("d_h0", READ)}, T9),
    "E89: backward of another recurrence, pointwise": (
        STEP, "return {u, d * vec[0],", "return {u, vec[0],", {"E34": ("d_h0", READ)}, T9),
    "GRU: an index that is right for one row only": (
        STEP, ": p.h0 + at.corner};", ": p.h0 + at.corner % D};", {"cudagru": ("d_wx", READ)}, T9),
    "GRU: an index that is right for one row only, pointwise": (
        POINTWISE, "get(c, p.d_h_last + mine.at.flat);", "get(c, p.d_h_last + mine.at.d);", {"E34": ("d_h0", READ)}, T9),
    "GRU: the reset gate's gradient from the new state": (
        STEP, "in.r = load_packed(from.kept + 2 * D), in.former = load_packed(from.former);",
        "in.r = load_packed(from.kept + 2 * D), in.former = load_packed(from.kept);",
        {"cudagru": ("d_wx", READ)}, T9),
    "state carried in bf16, gated": (
        GATED, "out[0] = {Cell::step(ready[0], total[0], carry.value.x, kept[0]),",
        f"carry.value.x = {LOW.format('carry.value.x')};\n    out[0] = {{Cell::step(ready[0], total[0], carry.value.x, kept[0]),",
        {"cudalstm": ("s_last", "")}, T9),
    "state carried in bf16, pointwise": (
        POINTWISE, "h[n] = Step::template update<S>(h[n], x[k][n], mine.vec[n]).value;",
        f"h[n] = {LOW.format('Step::template update<S>(h[n], x[k][n], mine.vec[n]).value')};", {"E34": ("h_last", "")}, T9),
    "weight gradient kept in bf16 from step to step, pointwise": (
        POINTWISE, "if (Step::biased) d_bias[n][i] += d_in[i][n];", f"if (Step::biased) d_bias[n][i] = {LOW.format('d_bias[n][i] + d_in[i][n]')};",
        {"E34": ("d_bias", f"{READ} d_proj d_h0 d_delta")}, T9),
    "batch and time mixed up, gated": (
        GATED, "store2_streamed(p.y + at.cell + (int64_t)at.step * D,", "store2_streamed(p.y + at.step * p.B * D + at.corner,",
        {"cudalstm": ("y", "h_last s_last d_wx")}, T9),
}  # fmt: skip


@pytest.mark.parametrize(("bug", "model"), [(bug, model) for bug, patch in PATCHES.items() for model in patch[3]])
def test_a_historic_mistake_in_a_shipped_kernel_is_rejected_in_the_tensor_that_is_wrong(bug, model, tmp_path):
    refused(model, PATCHES[bug], tmp_path)


def halves(right, t):
    """Half of the sum over rows is missing: one of two uses of a tied weight."""
    rows = next(iter(t.values())).shape[0]
    return right(
        {
            n: x if x.shape[0] != rows or x.ndim < 3 else x * (x.new_tensor(range(rows)) < 1)[:, None, None]
            for n, x in t.items()
        }
    )


@pytest.mark.parametrize(
    ("model", "wrong", "named"),
    [
        (
            "E4",
            lambda right, t: {"d_U": right(t)["d_V"].mT.contiguous(), "d_V": right(t)["d_U"].mT.contiguous()},
            {"d_U", "d_V"},
        ),
        ("E63", lambda right, t: {n: g.mT.contiguous() for n, g in right(t).items()}, {"d_W"}),
        ("E63", halves, {"d_W"}),
        ("E63", lambda right, t: {n: g / t["d_wx"].shape[1] for n, g in right(t).items()}, {"d_W"}),
    ],
    ids=[
        "E4: factors swapped and transposed",
        "E79: transposed and left in",
        "E74: half of it",
        "E74v2: divided by the steps",
    ],
)
def test_a_historic_mistake_in_a_product_that_torch_makes_is_rejected_in_its_weight(model, wrong, named, monkeypatch):
    plan = plan_of(model)
    right = plan.reference.weight_gradients
    monkeypatch.setattr(plan.reference, "weight_gradients", lambda t: wrong(right, t))
    check = plan.run(plan.named("float32 T9 typical"))
    assert {row.tensor for row in check.rows if not row.ok} == named
