"""Where a dense recurrence does not fit on the device, its second mode runs in its place, in the open."""

import dataclasses
import json

import pytest

from elmanctl import launch, takeover, tiles, train
from elmanctl.model import LadderLM
from elmanctl.plugins.registry import registry
from elmanctl.records import Budget, Training, Trial
from elmanctl.verify import receipt

H200, TINY = tiles.DEVICES["sm_90a"], tiles.Device(multiprocessors=1, shared_bytes=1000)
DENSE = sorted(
    v.name for v in registry().variants().values() if takeover.OPTION in {f.name for f in dataclasses.fields(v.config)}
)


@pytest.mark.parametrize("name", DENSE)
def test_a_dense_recurrence_runs_by_its_kernel_where_that_fits_and_else_by_products(name):
    spec = registry().resolve(name)
    assert takeover.fitting(spec, 768, 32, H200) == (spec, "")
    wide, why = takeover.fitting(spec, 16384, 32, H200)
    assert (
        wide.name == spec.name + ":recurrence=cublas" and takeover.by_products(wide) and not takeover.by_products(spec)
    )
    assert (
        why.startswith(f"{spec.name} runs as {wide.name}, by library products in each step. ")
        and "persistent kernel keeps" in why
        and "option" not in why
    )
    assert takeover.fitting(wide, 768, 32, H200) == (wide, ""), "asked for, so that there is nothing to say"
    assert takeover.fitting(spec, 16384, 32, None) == (spec, ""), "the host backend holds any width"


def test_every_dense_variant_has_the_mode_and_others_are_left_alone():
    assert {"E1", "E42", "E4", "E29a", "cudagru"} <= set(DENSE)
    for name in ("E88h32n16", "diagonal", "E68"):
        spec = registry().resolve(name)
        assert takeover.fitting(spec, 16384, 32, TINY) == (spec, "")


def test_it_depends_on_the_rows_of_a_pass_and_not_on_the_batch_alone(monkeypatch):
    asked = []
    monkeypatch.setattr(takeover, "fitting", lambda *given: asked.append(given))
    spec = registry().resolve("E42")
    trial = Trial(
        label="E42", model="E42", dim=64, depth=1, params=0, budget=Budget(steps=1),
        training=Training(batch=48, chunk=8), ranks=2, micro_batches=3,
    )  # fmt: skip
    takeover.of_trial(spec, trial, H200)
    assert asked == [(spec, 64, 8, H200)]


def test_a_run_says_so_and_is_built_and_recorded_as_what_ran(project, monkeypatch, capsys):
    project.write("data/text", "some text to learn from, again and again\n" * 200)
    built = []
    build = LadderLM.__init__
    monkeypatch.setattr(
        LadderLM, "__init__", lambda self, spec, *a, **m: (built.append(spec.name), build(self, spec, *a, **m))[1]
    )
    trial = Trial(
        label="mine", model="E42", dim=128, depth=1, params=0, budget=Budget(steps=2), device="cpu",
        training=Training(batch=2, chunk=8, eval_batches=0, data="data/text"),
    )  # fmt: skip
    plain = train.run(trial, project.path / "a")
    monkeypatch.setattr(launch, "device", lambda target, index=0: TINY)
    taken = train.run(trial, project.path / "b")
    assert built == ["E42", "E42:recurrence=cublas"]
    assert plain.warnings == () and len(taken.warnings) == 1
    assert taken.warnings[0].startswith(
        "E42 runs as E42:recurrence=cublas, by library products in each step. D=128 in bf"
    )
    assert f"Warning: {taken.warnings[0]}" in " ".join(capsys.readouterr().err.split())


def test_bench_plans_with_it_and_asks_for_its_receipt(project, monkeypatch):
    monkeypatch.setenv("ELMANCTL_NVML", "absent")
    monkeypatch.setitem(tiles.DEVICES, "sm_90a", TINY)
    rows = "rows: [{model: gru}, {model: E42}, {model: E1, options: {recurrence: cublas}}]"
    project.write(
        "suites/wide.yaml",
        f"description: d\nparams: 60K\ndepth: 2\nalign: 16\ntolerance: 30%\nbudget: {{steps: 25}}\n{rows}\n",
    )
    asked = []
    monkeypatch.setattr(receipt, "find", lambda spec, target: asked.append(spec.name))
    ran = project.run("bench", "wide", "--gpus", "0", "--dry-run", "--json")
    plan = json.loads(ran.out)
    assert [row["execution"] for row in plan["rows"]] == ["library", "cublas", "cublas"]
    assert [row["model"] for row in plan["rows"]][1] == "E42"
    assert set(asked) == {"E42:recurrence=cublas", "E1:recurrence=cublas"}
    assert " ".join(ran.err.split()).count("E42 runs as E42:recurrence=cublas") == 1
