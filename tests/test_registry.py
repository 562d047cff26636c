"""Discovery, over tiny fake variants in a temporary folder."""

import json
import shutil
import sys
from pathlib import Path

import pytest
from plugin_problems import problems

from elmanctl.errors import UserError
from elmanctl.plugins import discovery
from elmanctl.plugins.registry import registry

INSTALLED = Path(__file__).resolve().parent.parent / "variants"


def test_a_local_folder_is_found_without_install_and_without_touching_sys_path(project):
    before = list(sys.path)
    folder = project.fake("zz1", "ZZ1")
    found = registry()
    assert found.variants()["ZZ1"].folder == folder
    assert str(found.sources()["ZZ1"]) == "local"
    assert found.sources()["ZZ1"].where == str(folder)
    assert sys.path == before
    assert sys.modules["elmanctl_variants.zz1"].variant is found.variants()["ZZ1"]


def test_shipped_variants_are_found_from_any_directory(project):
    shipped = {json.dumps(str(p.parent)) for p in INSTALLED.glob("[a-z]*/__init__.py")}
    sources = registry().sources().values()
    assert {json.dumps(s.where) for s in sources if s.kind == "installed"} == shipped
    assert len(shipped) >= 5


def test_submodules_of_a_local_folder_import(project):
    folder = project.fake("zz1", "ZZ1")
    (folder / "layer.py").write_text("from . import variant\nNAME = variant.name\n")
    assert registry().variants()["ZZ1"].module("layer").NAME == "ZZ1"


def test_the_search_climbs_to_the_project_root_and_no_further(project, monkeypatch):
    project.fake("zz1", "ZZ1")
    project.fake("zz2", "ZZ2", under="../variants")
    inner = project.path / "a" / "b"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    assert {"ZZ1", "ZZ2"} & set(registry().variants()) == {"ZZ1"}


def test_outside_a_project_only_the_current_directory_counts(tmp_path):
    (tmp_path / "variants").mkdir()
    inner = tmp_path / "inner"
    (inner / "variants").mkdir(parents=True)
    # No ancestor of a pytest folder is a project, so this climbs to the root of the file system unless it is stopped.
    assert discovery.variants_folders(inner) == [inner / "variants"]
    (tmp_path / ".git").mkdir()
    assert discovery.variants_folders(inner) == [inner / "variants", tmp_path / "variants"]


def test_the_nearer_folder_hides_the_farther_and_says_so(project, monkeypatch):
    far = project.fake("zz1", "ZZ1")
    near = project.fake("zz1", "ZZ1", under="sub/variants")
    monkeypatch.chdir(project.path / "sub")
    source = registry().sources()["ZZ1"]
    assert (source.where, source.hides) == (str(near), str(far))
    assert str(source) == f"local, hides {far}"
    assert "zz1" not in problems()


def test_local_hides_installed_and_says_so(project):
    name = next(n for n, s in registry().sources().items() if s.kind == "installed")
    installed = Path(registry().sources()[name].where)
    project.fake(installed.name, name)
    registry.cache_clear()
    source = registry().sources()[name]
    assert (source.kind, source.hides) == ("local", str(installed))
    assert registry().variants()[name].summary == "a fake of the tests"


def test_the_same_folder_reached_twice_hides_nothing(project, monkeypatch):
    monkeypatch.chdir(INSTALLED.parent)
    assert not [s for s in registry().sources().values() if s.hides]


def test_an_installed_variant_comes_back_after_a_local_one_hid_it(project):
    name, source = next((n, s) for n, s in registry().sources().items() if s.kind == "installed")
    project.fake(Path(source.where).name, name)
    registry.cache_clear()
    assert registry().variants()[name].summary == "a fake of the tests"
    shutil.rmtree(project.path / "variants")
    registry.cache_clear()
    assert registry().variants()[name].folder == Path(source.where)
    assert registry().variants()[name].summary != "a fake of the tests"


def test_elmanctl_variants_adds_folders(project, monkeypatch):
    folder = project.fake("zz1", "ZZ1", under="elsewhere")
    monkeypatch.setenv("ELMANCTL_VARIANTS", str(folder.parent))
    assert "ZZ1" in registry().variants()
    monkeypatch.setenv("ELMANCTL_VARIANTS", str(project.path / "nowhere"))
    registry.cache_clear()
    with pytest.raises(UserError, match="nowhere, which is not a folder"):
        registry()


@pytest.mark.parametrize(("value", "found"), [("1", False), ("0", True), ("", True)])
def test_elmanctl_no_local_ignores_the_current_directory(project, monkeypatch, value, found):
    project.fake("zz1", "ZZ1")
    monkeypatch.setenv("ELMANCTL_NO_LOCAL", value)
    assert ("ZZ1" in registry().variants()) is found


def test_no_local_flag_keeps_local_code_from_running(project):
    project.write("variants/zz1/__init__.py", "open('ran', 'w').close()\n")
    project.run("--no-local", "list")
    assert not (project.path / "ran").exists()
    project.run("list")
    assert not (project.path / "ran").exists(), "the flag is remembered in the environment of this process"


def test_a_directory_that_is_gone_is_explained(project, monkeypatch):
    gone = project.path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(UserError, match="does not exist any more"):
        registry()


def test_hidden_and_unfinished_folders_are_no_variants(project):
    for name in (".new-zz1", "_zz2", "__pycache__"):
        project.fake(name, "ZZ1")
    (project.path / "variants" / "notes").mkdir()
    assert not [s for s in registry().sources().values() if s.kind == "local"]
    assert not problems()
