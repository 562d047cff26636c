"""The shape language in which a kernel declares its tensors, one text each: `"B T H N @acc ?GATE"`.

* dimensions: a name (bound by the first tensor that has it), a number, a constant's name, or arithmetic over these without
  spaces, for example `2*H*N+H*M` or `cdiv(T,K)`;
* dtype: the compute dtype (fp32, bf16 or fp64) unless `@acc` (the accumulator: fp32, or fp64 in the fp64 build) or `@int32`;
* `?NAME`: the tensor exists only where the constant NAME is not 0; elsewhere its pointer is null.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

DTYPES = ("float32", "bfloat16", "float64")
ACCUMULATOR = {"float32": "float32", "bfloat16": "float32", "float64": "float64"}


class ArgumentError(ValueError):
    """A tensor that does not fit its declaration."""


def cdiv(a, b):
    """Return the quotient rounded up."""
    return (a + b - 1) // b


def dtype_of(kind: str, scalar: str) -> str:
    """Return the dtype's name of a kind (`scalar`, `acc`, `int32`) where the compute dtype is `scalar`."""
    return {"scalar": scalar, "acc": ACCUMULATOR[scalar], "int32": "int32"}[kind]


@dataclass(frozen=True)
class TensorSpec:
    """One tensor as declared: name, dimension expressions, dtype kind (`scalar`, `acc`, `int32`) and the constant it depends on."""

    name: str
    dims: tuple[str, ...]
    kind: str = "scalar"
    when: str | None = None

    @classmethod
    def parse(cls, name: str, text: str) -> "TensorSpec":
        dims, kind, when = [], "scalar", None
        for token in text.split():
            if token.startswith("@"):
                kind = token[1:]
                if kind not in ("acc", "int32"):
                    raise ValueError(f"{name}: unknown dtype {token} in {text!r}; use @acc, @int32 or none")
            elif token.startswith("?"):
                when = token[1:]
            elif re.fullmatch(r"[A-Za-z0-9_+*/(),-]+", token):
                dims.append(token)
            else:
                raise ValueError(f"{name}: cannot read dimension {token!r} in {text!r}")
        return cls(name, tuple(dims), kind, when)

    def dtype(self, scalar: str) -> str:
        """Return the dtype's name where the compute dtype is `scalar`."""
        return dtype_of(self.kind, scalar)

    def present(self, constants: Mapping[str, int]) -> bool:
        return self.when is None or bool(constants[self.when])

    def shape(self, sizes: Mapping[str, int]) -> tuple:
        """Evaluate the dimensions; sizes may be symbolic (torch.SymInt)."""
        return tuple(evaluate(d, sizes) for d in self.dims)

    def text(self) -> str:
        return f"{self.name} [{', '.join(self.dims)}]"


def evaluate(expression: str, sizes: Mapping[str, int]):
    """Evaluate one dimension expression over `sizes`."""
    if expression in sizes:
        return sizes[expression]
    if expression.isdigit():
        return int(expression)
    # The text comes from a binding.py, which is code already; builtins are withheld to keep typos from resolving.
    return eval(expression, {"__builtins__": {}, "cdiv": cdiv}, dict(sizes))
