"""`elmanctl new`: copies and the template, renamed as whole tokens, all or nothing."""

import json
import os
from pathlib import Path

import pytest

from elmanctl import scaffold
from elmanctl.plugins.registry import registry

SOURCE = '''
"""ZZ8: not ZZ80, AZZ8, zz88 or 1zz8, but zz8_gate and ZZ8f_h8."""

from dataclasses import dataclass

from elmanctl.variant import Variant, tagged

from .zz8_tools import zz8_gate  # zz8::step, elman_zz8

THEIRS = "torch.ops.zz8"


@dataclass(frozen=True)
class Config:
    n: int = tagged("n", 4)


variant = Variant(
    package=__name__,
    name="ZZ8",
    summary="ZZ8 with ZZ8n4",
    config=Config,
    aliases={"ZZ8f_n8": "ZZ8n8", "oldest": "ZZ8n2"},
    presets={"ZZ8fast": {"n": 2}, "quick": {"n": 1}},
)
'''
README = "# ZZ8\n\nSee `oldest`.\n\n## Provenance\n\nZZ8 of the first paper.\n"


@pytest.fixture
def source(project):
    """Write the variant ZZ8, with everything that a copy leaves behind."""
    init = project.write("variants/zz8/__init__.py", SOURCE.lstrip())
    project.write("variants/zz8/zz8_tools.py", "zz8_gate = 1\n")
    project.write("variants/zz8/zz8.cu.cc", "namespace zz8 { int e = 1e8; }  // ZZ8_TILE\n")
    project.write("variants/zz8/README.md", README)
    for name in ("__pycache__/a.pyc", ".hidden", "receipts/host.json", "receipt.json", "zz8.so"):
        project.write(f"variants/zz8/{name}", "old")
    (init.parent / "weights.bin").write_bytes(b"\xff\xfezz8")
    return init.parent


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_copy_loads_at_once_and_collides_with_nothing(project, source):
    ran = project.run("new", "ZZ9", "--from", "zz8")
    assert (ran.code, "ZZ9 is ready" in ran.err) == (0, True)
    assert "elmanctl verify ZZ9" in ran.err and 'zz9 = "elmanctl_variants.zz9:variant"' in ran.err
    known = registry()
    assert not known.problems()
    for text, canonical in {
        "ZZ9": "ZZ9n4",
        "ZZ9f_n8": "ZZ9n8",
        "ZZ9fast": "ZZ9n2",
        "ZZ9_quick": "ZZ9n1",
        "ZZ9_oldest": "ZZ9n2",
        "ZZ8f_n8": "ZZ8n8",
        "quick": "ZZ8n1",
        "oldest": "ZZ8n2",
    }.items():
        assert known.resolve(text).name == canonical
    assert known.sources()["ZZ9"].where == str(project.path / "variants" / "zz9")


def test_a_preset_of_another_name_is_renamed_with_its_tags_too(project, source):
    project.write("variants/zz8/test_zz8.py", 'NAMES = {"quickn3": "ZZ8n3", "quick": 0, "quicker": 0, "oldestn3": 0}\n')
    project.run("new", "ZZ9", "--from", "ZZ8")
    copy = (project.path / "variants/zz9/test_zz9.py").read_text()
    assert copy == 'NAMES = {"ZZ9_quickn3": "ZZ9n3", "ZZ9_quick": 0, "quicker": 0, "oldestn3": 0}\n'


def test_whole_tokens_are_renamed_and_nothing_else(project, source):
    before = tree(source)
    project.run("new", "ZZ9", "--from", "ZZ8")
    assert tree(source).keys() - {"__pycache__/__init__.cpython-311.pyc"} >= before.keys(), "the original is as it was"
    copy = tree(project.path / "variants" / "zz9")
    copy = {name: data for name, data in copy.items() if "__pycache__" not in name}
    assert copy.keys() == {"__init__.py", "zz9_tools.py", "zz9.cu.cc", "README.md", "weights.bin"}
    init = copy["__init__.py"].decode()
    assert '"""ZZ9: not ZZ80, AZZ8, zz88 or 1zz8, but zz9_gate and ZZ9f_h8."""' in init
    assert "from .zz9_tools import zz9_gate  # zz9::step, elman_zz9" in init
    assert 'THEIRS = "torch.ops.zz8"' in init
    assert copy["zz9.cu.cc"] == b"namespace zz9 { int e = 1e8; }  // ZZ9_TILE\n"
    assert copy["weights.bin"] == b"\xff\xfezz8"


def test_the_readme_keeps_its_provenance_and_says_what_it_copies(project, source):
    project.run("new", "ZZ9", "--from", "ZZ8")
    text = (project.path / "variants/zz9/README.md").read_text()
    assert text == "# ZZ9\n\nSee `ZZ9_oldest`.\n\n## Provenance\n\nZZ8 of the first paper.\n\nCopied from ZZ8.\n"


@pytest.mark.parametrize(
    ("old", "stem", "new", "text", "expected"),
    [
        ("X8", "x8", "X9", "X8 x8 X8f_ x8_a _x8 X80 X88 ax8 8x8", "X9 x9 X9f_ x9_a _x9 X80 X88 ax8 8x8"),
        ("gru", "gru", "Mine", "gru gru_cell GRU grub congru nn.gru torch.gru self.gru", "mine mine_cell GRU grub congru nn.gru torch.gru self.mine"),
        ("word", "word", "Mine", "a word of the word; word::step; a_word a wordy", "a word of the mine; mine::step; a_mine a wordy"),
        ("a-b", "a_b", "C", "a-b a_b a_b_c a-bc pkg.sub.a_b pkg.a_b", "C c c_c a-bc pkg.sub.a_b pkg.a_b"),
    ],
)  # fmt: skip
def test_rename(old, stem, new, text, expected):
    assert scaffold.rename(text, old, stem, new, ("torch", "nn", "pkg.core")) == expected


def test_dry_run_shows_the_files_and_writes_nothing(project, source):
    before = tree(project.path)
    ran = project.run("new", "ZZ9", "--from", "ZZ8", "--dry-run")
    assert ran.code == 0 and "Nothing was written" in ran.err
    rows = {line.split()[0]: int(line.split()[1]) for line in ran.out.splitlines()[1:]}
    assert rows == {
        str(project.path / "variants/zz9" / name): changed
        for name, changed in {
            "README.md": 4,
            "__init__.py": 6,
            "weights.bin": 0,
            "zz9.cu.cc": 1,
            "zz9_tools.py": 1,
        }.items()
    }
    assert {n: d for n, d in tree(project.path).items() if "__pycache__" not in n} == {
        n: d for n, d in before.items() if "__pycache__" not in n
    }


def test_json(project, source):
    found = json.loads(project.run("new", "ZZ9", "--from", "ZZ8", "--json").out)
    assert (found["name"], found["written"], found["folder"]) == ("ZZ9", True, str(project.path / "variants/zz9"))
    assert {"file": "zz9.cu.cc", "changed_lines": 1} in found["files"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ZZ8"], r"ZZ8 is taken by ZZ8 ("),
        (["zz8", "--from", "ZZ8"], "zz8 is taken by ZZ8"),
        (["ZZ8n4"], "ZZ8n4 is taken by ZZ8"),
        (["quick"], "quick is taken by ZZ8"),
        (["oldest"], "oldest is taken by ZZ8"),
        (["broken"], "broken is taken by"),
        (["taken"], "taken exists already"),
        (["9x"], "'9x' is no name for a variant: letters, digits and _"),
        (["a-b"], "'a-b' is no name"),
        (["../x"], "'../x' is no name"),
        ([""], "'' is no name"),
        (["class"], "class is a word of Python, C++ or elmanctl"),
        (["Namespace"], "Namespace is a word of"),
        (["None"], "None is a word of"),
        (["torch"], "torch stands for something else in the code of the template"),
        (["F"], "F stands for something else"),
        (["Forward", "--from", "ZZ8"], "Forward stands for something else in the code of the template"),
        (["dataclass", "--from", "ZZ8"], "dataclass stands for something else"),
        (["theirs", "--from", "ZZ8"], "theirs stands for something else in the code of zz8's files"),
        (["ZZ9", "--from", "ZZ"], "--from ZZ: there is no such variant. Close: ZZ8"),
        (["ZZ9", "--from", "ZZ80"], "--from ZZ80: there is no such variant. Close: ZZ8"),
        (["ZZ9", "--from", "ZZ8n4"], "--from ZZ8n4 is a configuration. A copy takes the whole variant: --from ZZ8"),
        (["ZZ9", "--from", "oldest"], "--from oldest is a configuration"),
        (["ZZ9", "--from", "broken"], "there is no such variant"),
    ],
)
def test_a_bad_request_is_refused_and_writes_nothing(project, source, arguments, message):
    project.write("variants/broken/__init__.py", "raise ValueError\n")
    project.write("variants/taken/notes.txt", "")
    before = set(os.listdir(project.path / "variants"))
    ran = project.run("new", *arguments)
    assert ran.code == 2 and message in ran.err, ran.err
    assert set(os.listdir(project.path / "variants")) == before


def test_no_local_is_refused_since_the_copy_could_not_be_found(project):
    ran = project.run("--no-local", "new", "ZZ9")
    assert ran.code == 2 and "--no-local" in ran.err
    assert not (project.path / "variants").exists()


def test_a_copy_that_does_not_load_leaves_nothing(project, source):
    (source / "zz8_tools.py").write_text("zz8_gate = 1\nassert 'zz9' not in __name__, 'only zz8'\n")
    ran = project.run("new", "ZZ9", "--from", "ZZ8")
    assert ran.code == 2 and "The copy does not load: AssertionError: only zz9" in ran.err
    assert sorted(os.listdir(project.path / "variants")) == ["zz8"]


def test_a_folder_that_cannot_be_written(project, monkeypatch):
    monkeypatch.setenv("ELMANCTL_VARIANTS", "/proc")
    ran = project.run("new", "ZZ9")
    assert ran.code == 2 and "/proc/zz9 could not be written: " in ran.err and "Traceback" not in ran.err


def test_a_full_disk_leaves_nothing(project, source, monkeypatch):
    def full(self, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    ran = project.run("new", "ZZ9", "--from", "ZZ8")
    assert ran.code == 2 and "zz9 could not be written: No space left on device. Nothing was left behind." in ran.err
    assert sorted(os.listdir(project.path / "variants")) == ["zz8"]


def test_without_a_variants_folder_one_is_made_here(project, monkeypatch):
    (project.path / "sub").mkdir()
    monkeypatch.chdir(project.path / "sub")
    assert project.run("new", "ZZ9").code == 0
    assert (project.path / "sub/variants/zz9/zz9.cu.cc").exists()


def test_the_nearest_folder_of_the_project_takes_it(project, source, monkeypatch):
    (project.path / "sub").mkdir()
    monkeypatch.chdir(project.path / "sub")
    assert project.run("new", "ZZ9").code == 0
    assert (source.parent / "zz9").is_dir()


def test_the_template_is_renamed_throughout(project):
    assert project.run("new", "ZZ9").code == 0
    for name, data in tree(project.path / "variants/zz9").items():
        assert "blank" not in (name + data.decode(errors="ignore")).lower()
    assert registry().resolve("zz9:linear=true").name == "ZZ9:linear=true"
    assert registry().variants()["ZZ9"].has_kernel


@pytest.mark.parametrize("name", sorted(registry().variants()))
def test_every_variant_here_can_be_copied(project, name):
    ran = project.run("new", "ZZ9", "--from", name)
    assert ran.code == 0, ran.err
    known = registry()
    assert not known.problems()
    old, new = known.variants()[name], known.variants()["ZZ9"]
    assert (new.has_kernel, new.config.__dataclass_fields__.keys()) == (
        old.has_kernel,
        old.config.__dataclass_fields__.keys(),
    )
    assert len(new.presets) == len(old.presets) and len(new.aliases) == len(old.aliases)
    for alias in new.aliases:
        assert known.resolve(alias).variant == new
