"""Isolation: a broken plugin is one problem and the others go on; and what plugins may hook. Tiny fakes in a temporary folder."""

import importlib.metadata
import sys
from pathlib import Path

import pytest
from plugin_problems import problems

from elmanctl.plugins.registry import registry


def entry(value, name="other", monkeypatch=None):
    """Make `entry_points` return one foreign entry point besides the tool's own."""
    own = [e for e in importlib.metadata.entry_points(group="elmanctl") if e.dist and e.dist.name == "elmanctl"]
    foreign = importlib.metadata.EntryPoint(name, value, "elmanctl")
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [*own, foreign])


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
