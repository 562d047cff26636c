"""A file of receipts that cannot be read is a red row with the reason; every verb goes on, and what it held is kept."""

import json

import pytest

from elmanctl.plugins.registry import registry
from elmanctl.verify import receipt
from elmanctl.verify.record import SCHEMA, Receipt

FACTS = {"source_hash": "", "dtypes": (), "cases": 1, "worst": 0.5, "worst_tensor": "y", "seconds": 1.0, "created": "x"}


@pytest.fixture(params=["half", "folder", "not UTF-8"])
def damaged(project, request):
    """Return a project with two variants, of which one has a damaged file of receipts."""
    for name in ("ZZ8", "ZZ9"):
        project.run("new", name)
    path = project.path / "variants/zz9/receipts/host.json"
    if request.param == "folder":
        (path / "inside").mkdir(parents=True)
    else:
        path.parent.mkdir()
        path.write_bytes({"half": b'{"ZZ9": {', "not UTF-8": b"\xff\xfe"}[request.param])
    registry.cache_clear()
    return project


def test_list_shows_one_red_row_with_the_reason_and_every_other(damaged):
    ran = damaged.run("list")
    assert ran.code == 0
    lines = {line.split()[0]: line for line in reversed(ran.out.splitlines())}
    assert "none" in lines["ZZ8"] and "host red (damaged)" in lines["ZZ9"]
    assert "zz9/receipts/host.jsonisnofileofreceipts:" in "".join(ran.out.split()), "wherever the lines are broken"
    (row,) = [r for r in json.loads(damaged.run("list", "--json").out)["variants"] if r["name"] == "ZZ9"]
    (one,) = row["receipts"]
    assert one["state"] == "red" and "is no file of receipts" in one["why"]
    assert "is no file of receipts" in " ".join(damaged.run("list", "ZZ9").out.split())


def test_a_damaged_file_vouches_for_nothing_and_receipt_says_why(damaged):
    spec = registry().resolve("ZZ9")
    assert receipt.state(spec, "host") == "red" and receipt.find(spec, "host") is None
    for more in ((), ("--recheck",)):
        ran = damaged.run("receipt", "ZZ9", *more)
        assert ran.code == 1 and "is no file of receipts" in ran.err and "Traceback" not in ran.err
    assert receipt.state(registry().resolve("ZZ8"), "host") == "none"


def test_a_new_receipt_puts_it_aside_and_loses_nothing(damaged, capsys):
    spec, folder = registry().resolve("ZZ9"), damaged.path / "variants/zz9/receipts"
    new = Receipt(variant="ZZ9", model=spec.name, target="host", **FACTS)
    assert receipt.write(spec, new) == folder / "host.json"
    assert sorted(p.name for p in folder.iterdir()) == ["host.json", "host.json.damaged"]
    assert "It is now host.json.damaged" in capsys.readouterr().err
    (folder / "host.json").write_text("{")
    receipt.write(spec, new)
    assert [p.name for p in folder.glob("*.damaged-1")] == ["host.json.damaged-1"]
    assert list(receipt.read(folder / "host.json")) == [spec.name]


@pytest.mark.parametrize(("schema", "age"), [(SCHEMA - 1, "an older"), (SCHEMA + 1, "a newer")])
def test_a_receipt_of_another_schema_says_which_elmanctl_wrote_it(project, schema, age):
    project.run("new", "ZZ9")
    registry.cache_clear()
    spec = registry().resolve("ZZ9")
    path = receipt.write(spec, Receipt(variant="ZZ9", model=spec.name, target="host", **FACTS))
    path.write_text(path.read_text().replace(f'"schema": {SCHEMA}', f'"schema": {schema}'))
    assert receipt.held(spec)["host"][1:] == ("stale", f"{age} elmanctl wrote it")
