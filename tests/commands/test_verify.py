"""`elmanctl verify` on a real kernel compiled for the host, whole and broken."""

import faulthandler
import importlib.util
import json
import os
import re
import sys
from pathlib import Path

import pytest

from elmanctl.cli import run
from elmanctl.errors import UserError
from elmanctl.plugins.registry import registry
from elmanctl.verify import receipt, remembered, watch

_path = Path(__file__).parent.parent / "verify" / "conftest.py"
_fixtures = importlib.util.spec_from_file_location("verify_fixtures", _path)
_module = importlib.util.module_from_spec(_fixtures)
_fixtures.loader.exec_module(_module)
folder, spec, _one_thread = _module.folder, _module.spec, _module._one_thread


def call(capsys, *arguments):
    code = run(["verify", "Integrator", "--device", "cpu", *arguments])
    said = capsys.readouterr()
    return code, said.out, said.err


def edit(folder, name, old, new):
    path = folder / (f"{folder.name}.cu.cc" if name == "kernel" else name)
    text = path.read_text()
    assert text.count(old) == 1, (name, old)
    path.write_text(text.replace(old, new))


def test_a_right_kernel_passes_and_leaves_a_receipt(folder, capsys):
    code, out, _ = call(capsys)
    assert code == 0
    assert re.search(r"Integrator on host: (\d+) of \1 checks passed; worst 0\.\d+ of the limit", out)
    assert "Declared by binding.py: roundings inside: none; terms" in out and "Shapes drawn from seed 0: " in out
    for tensor in ("y", "h_last", "d_x", "d_a", "d_h0"):
        assert re.search(rf"^{tensor} +0\.\d+", out, re.MULTILINE), tensor
    stored = json.loads((folder / "receipts" / "host.json").read_text())["Integrator"]
    assert stored["dtypes"] == ["float32", "bfloat16", "float64"] and not stored["quick"] and stored["worst"] < 1
    spec = registry().resolve("Integrator")
    assert receipt.state(spec, "host") == "green" and receipt.find(spec, "host").cases == stored["cases"]
    edit(folder, "kernel", "a_part = 0;", "a_part = 0.0f;")
    assert receipt.state(spec, "host") == "stale" and receipt.find(spec, "host") is None


BUGS = {
    "late gradient": ("carry += 2 * h * load(p.d_y + at);", "carry += t + 1 < p.T ? 2 * h * load(p.d_y + at + p.D) : acc(0);", "d_x"),
    "no last-state gradient": ("acc carry = p.d_h_last[i],", "acc carry = 0,", "d_x"),
    "first state ignored": ("(t ? p.h[at - p.D] : p.h0[i])", "(t ? p.h[at - p.D] : acc(0))", "d_a"),
    "tail not written": ("t < p.T; ++t", "t < p.T / 2 * 2; ++t", "y"),
    "two per cent": ("carry *= p.a[d];\n", "carry *= acc(0.98) * p.a[d];\n", "d_h0"),
    "bf16 carry": ("    p.h[at] = h;", "    { scalar s; store(&s, h); h = load(&s); }\n    p.h[at] = h;", "h_last"),
}  # fmt: skip


@pytest.mark.parametrize("bug", BUGS)
def test_a_wrong_kernel_fails_and_names_the_tensor_and_the_command(folder, capsys, bug):
    old, new, tensor = BUGS[bug]
    edit(folder, "kernel", old, new)
    code, out, err = call(capsys, "--quick", "--json")
    data = json.loads(out)[0]
    bad = [c for c in data["checks"] if not c["ok"]]
    assert code == 1 and "Failed: Integrator." in err and not data["ok"] and data["receipt"] is None
    over = {r["tensor"] for c in bad for r in c["rows"] if r["ratio"] is None or r["ratio"] > 1}
    assert tensor in over
    first = next(c for c in bad if c["kind"] == "case")
    assert f'--case "{first["id"]}"' in first["command"]
    code, out, _ = call(capsys, "--case", first["id"])
    assert code == 1 and f"FAILED {first['id']}: " in out and "first bad element at" in out and "receipt is red" in out
    over_time = {"y", "d_x"} & {r["tensor"] for r in first["rows"] if r["ratio"] is None or r["ratio"] > 1}
    assert (set("▁▂▃▄▅▆▇█") & set(out) or not over_time) and f'--case "{first["id"]}" --device cpu' in out
    red = receipt.held(registry().resolve("Integrator"))["host"]
    assert red.state == "red" and red.why == f"failed: {first['id']}" and red.receipt.failed == (first["id"],)


def test_a_write_outside_fails_the_guard_bands(folder, capsys):
    edit(folder, "kernel", "p.h_last[i] = h;", "p.h_last[i] = h; if (i + 1 == p.B * p.D) p.h_last[i + 1] = h;")
    code, out, _ = call(capsys, "--case", "float32 B3 T2")
    assert code == 1 and "wrote outside h_last" in out


def test_an_option_that_the_kernel_ignores_fails(folder, capsys):
    edit(folder, "kernel", "args::Constant::BOUNDED != 0", "false")
    code, out, _ = call(capsys, "--case", "option bounded=true")
    assert code == 1 and "FAILED option bounded=true" in out


def test_an_option_without_effect_fails(folder, capsys):
    edit(folder, "binding.py", "int(config.bounded)", "0")
    code, out, _ = call(capsys, "--case", "option bounded=true")
    assert code == 1 and "the output does not change" in out


def test_a_parameter_without_gradient_fails(folder, capsys):
    edit(folder, "layer.py", '"a": self.a,', '"a": self.a.detach(),')
    code, out, _ = call(capsys, "--case", "layer truth")
    assert code == 1 and "no gradient reaches a" in out


def test_an_error_in_the_middle_loses_no_json_of_what_was_verified(capsys, monkeypatch):
    def verify_one(request, json, jobs):
        if request.spec.name != "diagonal":
            raise UserError("its receipt cannot be written")
        return {"model": "diagonal"}, True

    monkeypatch.setattr("elmanctl.commands.verify.verify_one", verify_one)
    assert run(["verify", "diagonal", "E34", "--device", "cpu", "--json"]) == 2
    assert json.loads(capsys.readouterr().out) == [{"model": "diagonal"}]


def test_a_crash_fails_its_checks_and_the_others_are_reported(folder, capsys):
    edit(folder, "kernel", "  acc h = p.h0[i];", "  acc h = p.T == 2 ? *(acc*)8 : p.h0[i];")
    faulthandler.disable()  # pytest's would print the stack of the worker that is meant to die
    code, out, _ = call(capsys, "--quick", "--dtype", "float32", "--json")
    faulthandler.enable(sys.__stderr__)
    data = json.loads(out)[0]
    died = {c["id"] for c in data["checks"] if "the process died" in c["message"]}
    assert code == 1 and died == {c["id"] for c in data["checks"] if " T2 " in c["id"]} and died
    assert any(c["ok"] for c in data["checks"])


def test_parts_and_quick_runs_never_pass_for_a_full_one(folder, capsys):
    code, out, _ = call(capsys, "--dtype", "float32", "--quick")
    assert code == 0 and "No receipt: only a part ran." in out and not (folder / "receipts").exists()
    code, out, _ = call(capsys, "--quick")
    assert code == 0 and "quick" in out and "Quick receipt: " in out
    assert json.loads((folder / "receipts" / "host.json").read_text())["Integrator"]["quick"] is True


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["Integratr"], "Close: Integrator"),
        (["Integrator", "--case", "float31 T2"], "float31 is no dtype, size or draw of Integrator. Close: float32"),
        (["Integrator", "--case", "option bounde=true"], "Close: option bounded=true"),
        (["Integrator", "--dtype", "float16"], "is checked in float32, bfloat16, float64"),
        (["Integrator", "--device", "tpu"], "--device tpu is not one of cpu, cuda"),
        (["Integrator", "-o", "bound=true"], "has no option bound"),
        ([], "Give model names, --all, --changed or --suite"),
        (["Integrator", "--changed"], "Give model names, --all, --changed or --suite"),
        (["Integrator", "--quick", "--thorough"], "--quick and --case fewer"),
    ],
)
def test_a_mistaken_request_is_explained(folder, capsys, arguments, said):
    device = [] if "--device" in arguments else ["--device", "cpu"]
    assert run(["verify", *arguments, *device]) == 2
    assert said in capsys.readouterr().err


def test_a_kernel_that_does_not_compile_is_shown_with_its_line(folder, capsys):
    edit(folder, "kernel", "acc h = p.h0[i];", "acc h = p.h0[i]")
    code, _, err = call(capsys, "--quick")
    assert code == 2 and f"{folder.name}.cu.cc:" in err and "error" not in err.lower().split("does not compile")[0]


def test_watch_runs_again_when_a_source_changes_and_reads_it_anew(folder, monkeypatch):
    """Truths are kept while only the kernel changes."""
    spec, codes, kept = registry().resolve("Integrator"), [], []
    original = watch.again

    def sleep(seconds):
        kept.append(len(list(remembered.folder.iterdir())))
        if len(codes) == 1:
            edit(folder, "kernel", "store(p.y + at, h * h);", "store(p.y + at, h * h * acc(1.01));")
        elif len(codes) == 2:
            edit(folder, "kernel", " * acc(1.01)", "")
            edit(folder, "__init__.py", '"tanh on the state"', '"a tanh on the state"')
        elif len(codes) == 3:
            edit(folder, "reference.py", "ys.append(h * h)", "ys.append(1.01 * h * h)")
        else:
            raise KeyboardInterrupt

    monkeypatch.setattr(watch, "again", lambda *given: codes.append(original(*given)))
    monkeypatch.setattr(watch.time, "sleep", sleep)
    with pytest.raises(KeyboardInterrupt):
        watch.follow([spec], ["verify", "Integrator", "--device", "cpu", "--case", "float32 B3 T2"])
    assert codes == [0, 1, 0, 1] and kept == [1, 1, 2, 3] and remembered.folder is None


def test_watch_starts_anew_when_a_module_of_the_tool_changes(monkeypatch, tmp_path):
    """A family's reference is imported once a process: what a fork of this one would run is the old text."""
    spec, module, restarts = registry().resolve("E42"), tmp_path / "dense.py", []
    module.write_text("a = 1\n")
    assert any(path.name == "dense_reference.py" for path in watch.modules([spec]))
    assert [
        path.name for path in watch.modules([registry().resolve("E42:recurrence=cublas")]) - watch.modules([spec])
    ] == ["stepwise.py"]
    monkeypatch.setattr(watch, "modules", lambda specs: {module})
    monkeypatch.setattr(watch, "again", lambda *given: 0)

    def sleep(seconds):
        if restarts:
            raise KeyboardInterrupt
        os.utime(module, ns=(1, 1))

    monkeypatch.setattr(watch.time, "sleep", sleep)
    monkeypatch.setattr(watch.os, "execv", lambda *given: restarts.append(given))
    with pytest.raises(KeyboardInterrupt):
        watch.follow([spec], ["verify", "E42"])
    assert restarts == [(sys.executable, sys.orig_argv)]


def test_watch_runs_the_quick_set_unless_another_part_is_named(folder, capsys, monkeypatch):
    seen = []
    monkeypatch.setattr(watch, "follow", lambda specs, arguments: seen.append(arguments))
    for more in ([], ["--quick"], ["--case", "float32 B3 T2"]):
        given = ["verify", "Integrator", "--device", "cpu", "--watch", *more]
        monkeypatch.setattr(sys, "argv", ["elmanctl", *given])
        run(given)
    assert [s.count("--quick") for s in seen] == [1, 1, 0] and not any("--watch" in s for s in seen)
