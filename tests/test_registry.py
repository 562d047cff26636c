"""Discovery and isolation, over tiny fake variants in a temporary folder."""

import importlib.metadata
import json
import shutil
import sys
from pathlib import Path

import pytest

from elmanctl.errors import UserError
from elmanctl.plugins import discovery
from elmanctl.plugins.registry import registry

INSTALLED = Path(__file__).resolve().parent.parent / "variants"


def problems():
    return {p.plugin: p for p in registry().problems()}


def entry(value, name="other", monkeypatch=None):
    """Make `entry_points` return one foreign entry point besides the tool's own."""
    own = [e for e in importlib.metadata.entry_points(group="elmanctl") if e.dist and e.dist.name == "elmanctl"]
    foreign = importlib.metadata.EntryPoint(name, value, "elmanctl")
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [*own, foreign])


# Discovery


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


# Isolation


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("raise ValueError('broken on purpose')", "ValueError: broken on purpose"),
        ("import a_module_that_is_not_there", "No module named 'a_module_that_is_not_there'"),
        ("def f(:", "SyntaxError"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("x = 1", "defines no `variant"),
        ("variant = 3", "TypeError: int implements no hook"),
    ],
)
def test_a_broken_folder_is_one_problem_and_the_others_go_on(project, text, error):
    project.fake("zz1", "ZZ1")
    project.write("variants/bad/__init__.py", "# first line\n" + text + "\n")
    known = registry()
    assert "ZZ1" in known.variants()
    assert error in problems()["bad"].text
    assert "bad" in problems()["bad"].where
    assert known.resolve("ZZ1").name == "ZZ1h8n32"


def test_a_folder_that_raises_leaves_no_module_behind(project):
    project.write("variants/bad/__init__.py", "raise ValueError\n")
    assert problems()["bad"].text.startswith("ValueError")
    assert "elmanctl_variants.bad" not in sys.modules


def test_the_problem_names_the_line(project):
    project.write("variants/bad/__init__.py", "import json\n\njson.loads('{')\n")
    assert "bad/__init__.py, line 3" in problems()["bad"].text


def test_an_entry_point_that_raises_is_one_problem(project, monkeypatch):
    project.fake("zz1", "ZZ1")
    entry("no_such_module_at_all:thing", monkeypatch=monkeypatch)
    assert "no_such_module_at_all" in problems()["other"].text
    assert "ZZ1" in registry().variants()


def test_a_misspelled_hook_is_a_problem_that_lists_the_hooks(project):
    project.write(
        "variants/typo/__init__.py",
        """
        from elmanctl.plugins import hookimpl

        class Plugin:
            @hookimpl
            def elmanctl_comands(self, app):
                pass

        variant = Plugin()
        """,
    )
    project.fake("zz1", "ZZ1")
    text = problems()["typo"].text
    assert "elmanctl_comands" in text and "elmanctl_commands" in text
    assert "ZZ1" in registry().variants()


def test_a_wrong_hook_argument_is_a_problem(project):
    project.write(
        "variants/typo/__init__.py",
        """
        from elmanctl.plugins import hookimpl

        class Plugin:
            @hookimpl
            def elmanctl_commands(self, application):
                pass

        variant = Plugin()
        """,
    )
    assert "application" in problems()["typo"].text


HOOKED = """
from pathlib import Path

from elmanctl.plugins import hookimpl

class Plugin:
    @hookimpl
    def elmanctl_suites(self):
        {body}

variant = Plugin()
"""


def test_hooks_are_called_and_one_that_raises_does_not_stop_the_others(project, capsys):
    project.write("variants/good/__init__.py", HOOKED.format(body="return [Path('here')]"))
    project.write("variants/bad/__init__.py", HOOKED.format(body="raise ValueError('no suites today')"))
    known = registry()
    assert [Path("here")] in known.hook.elmanctl_suites()
    assert "no suites today" in problems()["bad"].text
    assert "Plugin bad failed. elmanctl_suites: ValueError: no suites today" in capsys.readouterr().err


def test_an_unknown_hook_cannot_be_called(project):
    with pytest.raises(AttributeError):
        registry().hook.elmanctl_nonsense()


def test_a_plugin_can_add_a_verb(project):
    project.write(
        "variants/verb/__init__.py",
        """
        from elmanctl.plugins import hookimpl

        class Plugin:
            @hookimpl
            def elmanctl_commands(self, app):
                @app.command()
                def hello():
                    print("hello from a plugin")

        variant = Plugin()
        """,
    )
    ran = project.run("hello")
    assert (ran.code, ran.out) == (0, "hello from a plugin\n")


def test_elmanctl_plugins_chooses_entry_points_of_others(project, monkeypatch):
    entry("no_such_module_at_all:thing", monkeypatch=monkeypatch)
    for value, loaded in (("", False), ("another", False), ("another, other", True)):
        monkeypatch.setenv("ELMANCTL_PLUGINS", value)
        registry.cache_clear()
        assert ("other" in problems()) is loaded
        assert len(registry().variants()) >= 5, "the tool's own are always there"
