"""Rules on the sources themselves: who may name what, what exists once, and how long a file may be."""

import ast
import functools
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from elmanctl.plugins.registry import registry

ROOT = Path(__file__).resolve().parent.parent
CUDA = (".cuh", ".h", ".cc", ".cu")
LINES = {"code": 250, "cuda": 400, "tests": 250}
OWN = [v for v in registry().variants().values() if v.folder.is_relative_to(ROOT / "variants")]


def files(*folders: str, suffixes=(".py", *CUDA)) -> list[Path]:
    """Return the source files below some folders of the project."""
    found = [p for folder in folders for p in (ROOT / folder).rglob("*") if p.name.endswith(suffixes) and p.is_file()]
    assert found
    return [p for p in found if "__pycache__" not in p.parts]


@functools.cache
def content(path: Path) -> str:
    return path.read_text()


def hits(pattern: str, paths: list[Path], flags=0) -> list[str]:
    """Return `file:line: text` for each line that a pattern matches."""
    return [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in paths
        if re.search(pattern, content(path), flags | re.MULTILINE)  # a line that matches does so in the whole text
        for number, line in enumerate(content(path).splitlines(), 1)
        if re.search(pattern, line, flags)
    ]


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(content(path))


def trees(paths: list[Path]) -> dict[Path, ast.Module]:
    return {path: tree(path) for path in paths if path.suffix == ".py"}


def test_the_checkout_is_complete():
    assert len(OWN) == len(list((ROOT / "variants").glob("[a-z]*/__init__.py"))) >= 5


@pytest.mark.parametrize("name", sorted({n for v in OWN for n in (v.name, v.folder.name)}))
def test_core_and_shared_headers_name_no_variant(name):
    end = "(?![0-9])" if name[-1].isdigit() else "(?![A-Za-z0-9])"
    everything = files("elmanctl", "csrc_common", suffixes=(".py", ".md", *CUDA))
    library = r"(?<!torch\.)(?<!torch\.nn\.)(?<!cudnn_)"  # whose functions may be called like a baseline
    assert hits(rf"(?<![A-Za-z0-9]){library}{re.escape(name)}{end}", everything, re.IGNORECASE) == []


def test_the_name_test_sees_a_name():
    assert hits(r"(?<![A-Za-z0-9])registry(?![A-Za-z0-9])", [ROOT / "elmanctl/plugins/registry.py"])


def test_no_variant_imports_another():
    wrong = []
    for path, tree in trees(files("variants", "elmanctl/templates")).items():
        own = path.relative_to(ROOT).parts[-2]
        for node in ast.walk(tree):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
                wrong += [f"{path}: level {node.level}"] if node.level > 1 else []
            for name in names:
                parts = name.split(".")
                if parts[0] in ("variants", "elmanctl_variants") and parts[1:2] != [own]:
                    wrong.append(f"{path}:{node.lineno}: {name}")
    assert wrong == []


def test_a_kernel_includes_itself_and_the_shared_headers_only():
    wrong = []
    for path in files("variants", "elmanctl/templates", suffixes=CUDA):
        folder = next(p for p in path.parents if (p / "__init__.py").exists())
        for line in path.read_text().splitlines():
            if found := re.match(r'\s*#\s*include\s*([<"])([^>"]+)[>"]', line):
                bracket, name = found.groups()
                shared = bracket == "<" and name.startswith("elman/")
                own = bracket == '"' and (name == "elman_args.h" or ((folder / name).exists() and ".." not in name))
                wrong += [] if shared or own else [f"{path}: {line}"]
    assert wrong == []


def test_kernels_and_families_name_nothing_of_a_backend():
    paths = files("variants", "elmanctl/templates", "csrc_common/elman/families", suffixes=CUDA)
    words = r"ELMAN_DEVICE|__CUDA|threadIdx|blockIdx|blockDim|__shared__|__global__|__device__|<<<|\basm\b|__syncthreads|__shfl|cuda[A-Z]"
    assert hits(words, paths) == []
    assert hits(r"^\s*#\s*(if|ifdef|ifndef)\b", paths) == []


def test_no_pragma_is_the_whole_branch_of_a_constexpr_if():
    """Where the condition is false, nvcc 13 drops such a loop and all statements of the block after it, without a word; g++ does not."""
    wrong = []
    for path in files("variants", "elmanctl/templates", "csrc_common", "tests", suffixes=CUDA):
        code = re.sub(r"//.*", "", path.read_text())
        wrong += [f"{path}: {m[0]!r}" for m in re.finditer(r"if constexpr \([^{;]*\)\s*\n\s*#\s*pragma", code)]
    assert wrong == []


def test_the_backend_is_chosen_in_wrapper_headers_only():
    wrappers = {p for p in files("csrc_common", suffixes=CUDA) if p.parent == ROOT / "csrc_common" / "elman"}
    users = {p for p in files("csrc_common", suffixes=CUDA) if hits(r"^\s*#.*ELMAN_DEVICE", [p])}
    assert users - wrappers <= {ROOT / "csrc_common/elman/host/host.h"}, "host.h refuses a device build"
    assert len(users & wrappers) > 3


def test_ops_are_registered_once():
    everything = files("elmanctl", "variants", suffixes=(".py",))
    found = hits(r"custom_op\(|torch\.library\.Library|register_autograd\(|autograd\.Function\b", everything)
    names = ("conv", "embedding", "head_norm", "loss", "norm", "spectral")  # Triton's; no recurrences
    triton = [f"elmanctl/{name}_kernels.py" for name in names]
    outside = [
        h
        for h in found
        if not h.startswith(("elmanctl/ops.py", "elmanctl/projections.py", *triton, "elmanctl/verify/"))
    ]
    assert outside == []
    assert [h.split("custom_op")[1] for h in found if "custom_op(" in h] == [
        '("elmanctl::recurrence", mutates_args=())',
        '("elmanctl::recurrence_backward", mutates_args=())',
    ]


def test_there_is_one_language_model_and_one_training_step():
    python = trees(files("elmanctl", "variants"))
    classes = [(p.name, n.name) for p, t in python.items() for n in ast.walk(t) if isinstance(n, ast.ClassDef)]
    assert [c for c in classes if c[1].endswith(("LM", "LanguageModel"))] == [("model.py", "LadderLM")]
    outside = [p.name for p, t in python.items() if re.search(r"optimizer\.step\(", ast.unparse(t))]
    assert len(outside) <= 1


def test_nothing_edits_sys_path():
    edit = r"sys\.path\.(insert|append|extend)|sys\.path\s*(\[.*\]\s*)?\+?=[^=]|site\.addsitedir"
    everything = files("elmanctl", "variants", "bench", "tests", suffixes=(".py",))
    everything.remove(Path(__file__).resolve())
    assert hits(edit, everything) == []


def test_nothing_names_a_home():
    everything = files(
        "elmanctl", "variants", "csrc_common", "tests", "suites", "bench", suffixes=(".py", ".md", ".yaml", *CUDA)
    )
    everything += files("docs", suffixes=(".md",))
    everything += [p for p in ROOT.glob("*") if p.is_file() and p.suffix in (".md", ".toml", ".txt")]
    everything.remove(Path(__file__).resolve())
    assert hits(r"(?<![\w.~])/(home|Users|root|mnt|work|workspace)/\w", everything) == []


def test_no_failure_is_swallowed():
    wrong = []
    for path, tree in trees(files("elmanctl", "variants")).items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ExceptHandler):
                broad = node.type is None or (
                    isinstance(node.type, ast.Name) and node.type.id in ("Exception", "BaseException")
                )
                if broad and all(isinstance(s, (ast.Pass, ast.Continue)) for s in node.body):
                    wrong.append(f"{path}:{node.lineno}")
    assert wrong == []


def test_no_layer_swallows_unknown_options():
    wrong = [
        f"{path}: {node.name}"
        for path, tree in trees(files("variants", "elmanctl/templates")).items()
        if path.name == "layer.py"
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.args.kwarg is not None
    ]
    assert wrong == []


def test_file_sizes():
    over = {}
    for path in files("elmanctl", "variants", "csrc_common", "tests", "bench"):
        kind = (
            "cuda" if path.name.endswith(CUDA) else "tests" if "test" in path.name or "tests" in path.parts else "code"
        )
        lines = len(path.read_text().splitlines())
        if lines > LINES[kind]:
            over[str(path.relative_to(ROOT))] = lines
    assert over == {}


def test_packages_and_entry_points_list_everything():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = {p for p in project["tool"]["setuptools"]["packages"] if p.split(".")[0] == "elmanctl"}
    folders = {p.parent.relative_to(ROOT) for p in files("elmanctl", suffixes=(".py",)) if "templates" not in p.parts}
    assert {".".join(folder.parts) for folder in folders} == packages
    entries = project["project"]["entry-points"]["elmanctl"]
    assert entries == {v.folder.name: f"elmanctl_variants.{v.folder.name}:variant" for v in OWN}


LIGHT = """build cli console errors files gpus kernel machine options records resources rules scaffold sizes suite toolchain
variant plugins.discovery plugins.hookspecs plugins.registry verify.receipt"""


def test_light_modules_and_every_verb_import_without_torch():
    verbs = [f"commands.{p.stem}" for p in (ROOT / "elmanctl/commands").glob("*.py") if p.stem != "__init__"]
    code = f"import importlib, sys\nfor name in {[*LIGHT.split(), *verbs]}:\n"
    code += "    importlib.import_module('elmanctl.' + name)\n    assert 'torch' not in sys.modules, name\n"
    code += (
        "from elmanctl.plugins.registry import registry\nregistry()\nassert 'torch' not in sys.modules, 'a variant'\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=os.environ)
    assert (ran.returncode, ran.stderr) == (0, "")
