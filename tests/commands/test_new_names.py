"""`elmanctl new`: what a copy could not tell from its own name is no name, and a copy is kept only where all of it loads."""

import os

import pytest

from elmanctl import scaffold


@pytest.fixture
def source(project):
    """Return the folder of ZZ8, made from the template."""
    assert project.run("new", "ZZ8").code == 0
    return project.path / "variants/zz8"


@pytest.mark.parametrize("part", ["binding", "reference", "layer"])
def test_a_copy_with_a_module_that_does_not_load_leaves_nothing(project, source, part):
    path = source / f"{part}.py"
    path.write_text(path.read_text() + "assert 'zz9' not in __name__, 'only zz8'\n")
    ran = project.run("new", "ZZ9", "--from", "ZZ8")
    assert ran.code == 2 and "The copy does not load: AssertionError" in ran.err and f"{part}.py, line" in ran.err
    assert sorted(os.listdir(project.path / "variants")) == ["zz8"]


def test_words_of_comments_and_texts_are_free(project, source):
    (source / "more.cuh").write_text('/* comment\nlines */ int used;  // remark\nconst char* c = "a quotation";')
    found = scaffold.identifiers(source)
    assert {"used", "dataclass", "acc", "w_in"} <= found and not {"comment", "lines", "remark", "quotation"} & found
    assert project.run("new", "Used", "--from", "ZZ8").code == 2
    assert project.run("new", "Remark", "--from", "ZZ8").code == 0
