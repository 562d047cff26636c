"""Which cases run, and how they are written."""

import re

import pytest

from elmanctl.errors import UserError
from elmanctl.kernel import Kernel
from elmanctl.plugins.registry import registry
from elmanctl.verify import cases

DRAWS = ("typical", "saturated", "extreme")
DTYPES = ("float32", "bfloat16", "float64")


def test_lengths_cover_the_shortest_and_both_sides_of_a_chunk():
    assert cases.lengths(8) == [1, 2, 3, 7, 8, 9, 19]
    assert cases.lengths(2) == [1, 2, 3, 7]
    assert all(any(t % 2 and t > k + 1 for t in cases.lengths(k)) for k in (8, 16, 32))


def test_default_cases_cover_every_dtype_draw_and_length_with_sizes_that_differ(spec):
    kernel = spec.variant.kernel()
    listed = cases.default(spec, kernel, {"BOUNDED": 0}, DTYPES, DRAWS)
    seen = {(c.dtype, dict(c.sizes)["T"], c.draw) for c in listed}
    for dtype in DTYPES:
        assert {t for d, t, w in seen if d == dtype and w == "typical"} >= set(cases.lengths(8))
        assert {w for d, _, w in seen if d == dtype} == set(DRAWS)
    for case in listed:
        sizes = dict(case.sizes)
        assert len(set(sizes.values())) == len(sizes), case.id
        assert sizes["D"] % 16 == 0
    rows = [dict(c.sizes)["B"] for c in listed]
    assert {1, 3, 17} <= set(rows) and rows.count(1) == len(DTYPES)
    assert max(dict(c.sizes)["D"] for c in listed) > 4 * 16
    assert ("bfloat16", cases.MEMORY, "typical") in seen
    assert len({c.id for c in listed}) == len(listed)
    quick = cases.default(spec, kernel, {"BOUNDED": 0}, DTYPES, DRAWS, quick=True)
    assert 0 < len(quick) < len(listed) / 2


def test_a_case_reads_back_as_it_is_printed(spec):
    kernel = spec.variant.kernel()
    for case in cases.default(spec, kernel, {"BOUNDED": 0}, DTYPES, DRAWS):
        assert cases.parse(case.id, spec, kernel, DTYPES, DRAWS) == case
    assert cases.parse("float64 T5", spec, kernel, DTYPES, DRAWS).id == "float64 B3 T5 D48 typical"


@pytest.mark.parametrize("text", ["float32 Q3", "float32 T0", "T-1", "bfloat17", "nothing"])
def test_a_case_that_cannot_be_read_is_refused(spec, text):
    with pytest.raises(UserError, match="is no dtype, size or draw"):
        cases.parse(text, spec, spec.variant.kernel(), DTYPES, DRAWS)


def test_what_a_binding_declares_is_said(spec):
    assert cases.declared(spec) == "roundings inside: none; terms of the longest sum: any T"
    said = cases.declared(registry().resolve("E66"))
    assert "h_operand forward" in said and "m_operand both" in said and re.search(r"; sizes: .*R \d+", said)
    assert cases.declared(registry().resolve("gru")) == ""


def test_host_only_dtypes_are_left_out_elsewhere():
    kernel = Kernel(package="x", inputs={"x": "B T"}, outputs={"y": "B T"})
    assert cases.allowed_dtypes(kernel, "host") == DTYPES
    assert cases.allowed_dtypes(kernel, "device") == ("float32", "bfloat16")
