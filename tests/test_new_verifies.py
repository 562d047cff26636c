"""What `new` writes passes `verify` unedited, at once, with no install: the template, and a copy of a variant."""

import json
import re
import shutil

import pytest

pytestmark = pytest.mark.skipif(
    shutil.which("g++") is None, reason="g++ is not on PATH, so no kernel compiles for the CPU"
)


def verified(project, name: str, *more: str) -> dict:
    """Verify in a process of its own, as a user would, and return verify's JSON."""
    ran = project.start("verify", name, "--device", "cpu", "--json", *more)
    assert ran.code == 0, ran.out + ran.err
    return json.loads(ran.out)


def test_the_template_verifies_in_full_and_a_mistake_in_it_is_caught(project):
    assert project.start("new", "ZZ9").code == 0
    verified(project, "ZZ9")
    row = next(line for line in project.start("list").out.splitlines() if line.startswith("ZZ9"))
    assert re.search(r"local +host green 0\.\dx", row), "its receipt is in the list"
    source = project.path / "variants/zz9/zz9.cu.cc"
    right = source.read_text()
    source.write_text(right.replace("carry = a * d_pre", "carry = d_pre"))
    assert source.read_text() != right
    ran = project.start("verify", "ZZ9", "--device", "cpu", "--quick")
    assert ran.code == 1, ran.out + ran.err
    row = next(line for line in project.start("list").out.splitlines() if line.startswith("ZZ9"))
    assert re.search(r"local +host red", row), "a failed run leaves it red"


def test_a_copy_verifies_at_once(project):
    assert project.start("new", "ZZ43", "--from", "E42").code == 0
    verified(project, "ZZ43", "--quick")


def test_a_copy_of_a_variant_with_presets_and_tags_verifies(project):
    assert project.start("new", "ZZ89", "--from", "E88").code == 0
    verified(project, "ZZ89h4n16", "--quick")
