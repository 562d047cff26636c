"""Every shipped suite: it loads, is sized, and compares what it says it does."""

import dataclasses

import pytest

from elmanctl import dims, suite


def test_rows_of_the_vector_ladder_are_aligned_where_a_multiple_of_128_comes_within_6_percent():
    loaded = suite.load("ladder_100m")
    for s in suite.sized(loaded):
        if s.size and s.row.dim is None:
            steps = {None: (), 32: (128,), 16: (128, 32)}[s.row.align]
            for step, far in [*((step, True) for step in steps), (s.row.align or 128, False)]:
                below = s.size.dim // step * step
                errors = [
                    abs(dims.size(s.row.spec, dim, s.row.depth).error(loaded.params)) for dim in (below, below + step)
                ]
                assert (min(errors) > 0.06) == far, f"{s.row.label}: align {step}"


@pytest.mark.parametrize("name", sorted(p.stem for p in suite.folders()[-1].glob("*.yaml")))
def test_every_shipped_suite_loads_and_keeps_its_promise(name):
    loaded = suite.load(name)
    rows = suite.sized(loaded)
    suite.check_sizes(loaded, rows)
    for s in rows:
        assert s.size or s.problem


def test_a_shipped_suite_waives_the_alignment_only_where_a_row_needs_it():
    """A report says which rule a suite waives: one that all its rows keep would be said for nothing."""
    for name in sorted(p.stem for p in suite.folders()[-1].glob("*.yaml")):
        loaded = suite.load(name)
        if loaded.align is not None:
            own = [row.dim for row in loaded.rows if row.align is None]
            assert any(dim is None or dim % 128 for dim in own), name


def test_shipped_widths_of_the_published_comparisons():
    widths = {row.label: row.dim for row in suite.load("e75_100m").rows}
    assert widths == {
        "mamba2": 896,
        "fla-gdn": 768,
        "E75h4n16": 2048,
        "E75h4n24": 2048,
        "E75h4n32": 1920,
        "E75h8n16": 1920,
        "E75h8n24": 1792,
    }
    assert not suite.load("e88_jan22").matched
    shipped = suite.load("e88_vs_baselines")
    assert [(row.label, row.dim) for row in shipped.rows[:2]] == [("mamba2", 896), ("fla-gdn", 768)]
    assert shipped.tolerance == 0.06 and shipped.align is None


@pytest.mark.parametrize("name", ["e88_ablation", "e88_output_gate", "e88_tanh_or_linear", "e88_towards_gdn"])
def test_each_row_of_a_question_changes_one_thing_and_all_are_within_a_hundredth(name):
    loaded = suite.load(name)
    first = loaded.rows[0].spec
    own = {row.group or row.label: row for row in loaded.rows if row.spec.variant == first.variant}

    def changed(row):
        names = [f.name for f in dataclasses.fields(first.config)]
        return {n for n in names if getattr(row.spec.config, n) != getattr(first.config, n)}

    one = [{"use_gate", "gate_activation"}, {"n_heads", "n_state"}]
    for label, row in own.items():
        if label not in (loaded.rows[0].group or loaded.rows[0].label, "all six"):
            assert len(changed(row)) == 1 or changed(row) in one, label
    if name == "e88_towards_gdn":
        assert changed(own["all six"]) == set().union(*(changed(r) for k, r in own.items() if k != "all six"))
    if name == "e88_ablation":
        wanted = "use_conv use_output_norm use_gate gate_activation use_silu use_l2_norm linear_state decay use_write_gate tie_kv"
        assert set().union(*map(changed, own.values())) == set(wanted.split())
        decays = {row.spec.config.decay for label, row in own.items() if "decay" in label}
        assert decays == {"simple", "constant", "none"}
    counts = [s.size.params for s in suite.sized(loaded) if s.size]
    assert max(counts) / min(counts) < 1.011
    assert len({row.seed for row in loaded.rows}) == (1 if name in ("e88_ablation", "e88_towards_gdn") else 3)
