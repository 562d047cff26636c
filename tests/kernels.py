"""Which shipped kernels differ: several variants have one kernel under different names, and a test that compiles need take only one of them."""

import ast
import re
from collections.abc import Iterable
from pathlib import Path

from elmanctl import toolchain


def distinct(folders: Iterable[Path]) -> list[Path]:
    """Return the first folder of each kernel and binding, comments and the folder's own name aside."""
    first: dict[tuple[str, ...], Path] = {}
    for folder in folders:
        texts = [re.sub(r"//.*", "", path.read_text()) for path in sorted(folder.rglob("*.cu*"))]
        binding = ast.parse((folder / "binding.py").read_text())
        if ast.get_docstring(binding) is not None:
            binding.body = binding.body[1:]
        named = [re.sub(rf"\b{folder.name}(?=_|\b)", "NAME", text) for text in (*texts, ast.unparse(binding))]
        first.setdefault(tuple(named), folder)
    assert all(toolchain.kernel_source(folder).exists() for folder in first.values())
    return list(first.values())
