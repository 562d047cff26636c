"""The tutorial, executed: commands, what they print, and edits are taken from docs/tutorial.md, so that the page and this test cannot differ."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parent.parent / "docs" / "tutorial.md"
BLOCK = re.compile(r"^```(\S*)(?: (\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EXIT_CODE = re.compile(r"\s+# exit code (\d+)$")


def blocks(text: str) -> list[tuple[str, str, str]]:
    """Return (language, file, content) of each fenced block."""
    return BLOCK.findall(text)


def commands(content: str) -> list[tuple[list[str], int, list[str]]]:
    """Return (arguments, exit code, printed lines) of each command of a console block."""
    found = []
    for line in content.splitlines():
        if line.startswith("$ "):
            code = EXIT_CODE.search(line)
            found.append((shlex.split(EXIT_CODE.sub("", line[2:])), int(code[1]) if code else 0, []))
        else:
            found[-1][2].append(line)
    return found


def edited(text: str, content: str) -> str:
    """Return a file's text with the edit of a diff block made; what it replaces must be there once."""
    lines = content.splitlines()
    assert all(line[:1] in ("+", "-", " ") for line in lines), content
    old, new = ("".join(line[1:] + "\n" for line in lines if line[0] in kind) for kind in ("- ", "+ "))
    assert text.count(old) == 1, f"{text.count(old)} places for\n{old}"
    return text.replace(old, new)


def pattern(printed: list[str]) -> re.Pattern:
    """Return what output must look like: spaces may differ, `...` is anything."""
    words = [re.escape(part).replace(r"\ ", r"\s+") for part in re.split(r"\s*\.\.\.\s*", " ".join(printed))]
    return re.compile(r"\s*" + r".*?".join(r"\s*" + word + r"\s*" for word in words) + r"\s*", re.DOTALL)


def run(project, arguments: list[str]) -> tuple[str, int]:
    """Return what a command of the page prints and its exit code."""
    if arguments[0] == "elmanctl":
        ran = project.start(*arguments[1:], COLUMNS="200", OMP_NUM_THREADS="1")
        return ran.out + ran.err, ran.code
    call = {"pytest": [sys.executable, "-m", "pytest"], "sed": ["sed"]}[arguments[0]] + arguments[1:]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    ran = subprocess.run(call, cwd=project.path, env=environment, capture_output=True, text=True, timeout=250)
    return ran.stdout + ran.stderr, ran.returncode


def execute(project, content: str) -> None:
    for arguments, code, printed in commands(content):
        if arguments[0] == "rm":
            for name in arguments[1:]:
                (project.path / name).unlink()
            continue
        if arguments[:2] == ["elmanctl", "build"] and shutil.which("nvcc") is None:
            continue
        out, found = run(project, arguments)
        assert found == code, f"{arguments}: {found}\n{out}"
        assert pattern(printed).fullmatch(out), f"{arguments}\n{out}"


@pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not on PATH, so no kernel compiles for the CPU")
def test_the_tutorial_does_what_it_says(project):
    page = blocks(PAGE.read_text())
    assert [code for kind, _, content in page if kind == "console" for _, code, _ in commands(content)].count(1) == 2
    for kind, name, content in page:
        if kind == "console":
            execute(project, content)
        else:
            assert kind == "diff", kind
            file = project.path / name
            file.write_text(edited(file.read_text(), content))


def test_an_edit_must_fit_in_one_place():
    assert edited("a\nb\n", " a\n-b\n+c\n") == "a\nc\n"
    for text in ("a\n", "a\nb\na\nb\n"):
        with pytest.raises(AssertionError):
            edited(text, " a\n-b\n+c\n")


def test_output_is_matched_but_for_what_the_page_leaves_out():
    assert pattern(["one ... three", "..."]).fullmatch("one  2\nthree\nmore\n")
    assert not pattern(["one ... three"]).fullmatch("one 2\nthree\nmore\n")
