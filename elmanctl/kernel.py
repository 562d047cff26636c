"""One declaration per kernel, used for checking, allocation, the C argument structs, fake tensors and autograd.

Tensors are declared in the shape language of tensors.py, for example `"B T H N @acc ?GATE"`. All are contiguous, rightmost index
fastest.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from elmanctl.tiles import Tiling

from elmanctl.tensors import ArgumentError, TensorSpec, evaluate


def _specs(tensors: Mapping[str, str]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec.parse(name, text) for name, text in tensors.items())


@dataclass(frozen=True, eq=False)
class Kernel:
    """What one `.cu.cc` file takes and gives.

    Args:
        package: `__package__` of binding.py: the variant's folder.
        inputs, outputs: name -> shape text. Every output may receive a gradient; every input gets one.
        saved: what forward keeps for backward besides inputs and outputs.
        scratch, backward_scratch: uninitialised work space of one call.
        constants: compile-time integers, name -> meaning; a call gives a value for each.
        tiling: further compile-time integers, chosen from the sizes of a call and the device (tiles.py); scratch may use them.
        dtypes: compute dtypes that compile; `@host` restricts one to the host backend.
        torch_gradients: inputs whose gradient `after_backward` makes from the others with torch (one GEMM over all T*B rows).
        after_backward: name of that function in reference.py: `(tensors: dict) -> dict` of `d_<input>`.
        backward_outputs: further tensors that the kernel's backward writes for `after_backward`.
        rounds: rounding points besides loads and stores, name -> `forward`, `backward`, `both` or `saved`: where the compute dtype is
            rounded to inside (an operand of a product, a saved tensor that is read back); or `absolute 3e-7`: a function that the bf16
            build makes with such an error, whatever the size of its value. `forward ?GATE`: where the constant GATE is not 0. reference.py
            marks each with `at(name, x)`.
        terms: expression over the dims: how many terms the longest sum behind a result has (for the accumulation error), by tensor name;
            `*` is the default.
        budgets: resource limits for the device build, for example {"registers": 168, "spill_bytes": 0}.
        work: floating-point operations of `forward` and of `backward`, expressions over dims and constants.
        rivals: libraries' recurrences that `bench --kernels` times beside it (names in kernelbench/rivals.py).
    """

    package: str
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    saved: Mapping[str, str] = field(default_factory=dict)
    scratch: Mapping[str, str] = field(default_factory=dict)
    backward_scratch: Mapping[str, str] = field(default_factory=dict)
    backward_outputs: Mapping[str, str] = field(default_factory=dict)
    constants: Mapping[str, str] = field(default_factory=dict)
    dtypes: tuple[str, ...] = ("float32", "bfloat16", "float64@host")
    torch_gradients: tuple[str, ...] = ()
    after_backward: str | None = None
    rounds: Mapping[str, str] = field(default_factory=dict)
    terms: Mapping[str, str] = field(default_factory=lambda: {"*": "T"})
    budgets: Mapping[str, int] = field(default_factory=dict)
    work: Mapping[str, str] = field(default_factory=dict)
    rivals: tuple[str, ...] = ()
    tiling: "Tiling | None" = None

    def __post_init__(self):
        for group in ("inputs", "outputs", "saved", "scratch", "backward_scratch", "backward_outputs"):
            for spec in _specs(getattr(self, group)):
                if spec.when is not None and spec.when not in self.constants:
                    raise ValueError(
                        f"{self.package}: {spec.name} depends on ?{spec.when}, which is not among the constants"
                    )
        for name in self.conditions.values():
            if name not in self.constants:
                raise ValueError(
                    f"{self.package}: a rounding point depends on ?{name}, which is not among the constants"
                )
        if unknown := set(self.torch_gradients) - set(self.inputs):
            raise ValueError(f"{self.package}: torch_gradients names {', '.join(sorted(unknown))}, which are no inputs")
        if bool(self.torch_gradients) != bool(self.after_backward):
            raise ValueError(f"{self.package}: torch_gradients and after_backward go together")

    @cached_property
    def conditions(self) -> dict[str, str]:
        """The constant that a rounding point depends on, for those that depend on one."""
        return {name: text.partition(" ?")[2] for name, text in self.rounds.items() if " ?" in text}

    @cached_property
    def input_specs(self) -> tuple[TensorSpec, ...]:
        return _specs(self.inputs)

    @cached_property
    def output_specs(self) -> tuple[TensorSpec, ...]:
        return _specs(self.outputs)

    @cached_property
    def saved_specs(self) -> tuple[TensorSpec, ...]:
        return _specs(self.saved)

    @cached_property
    def gradient_specs(self) -> tuple[TensorSpec, ...]:
        """What backward writes: `d_<input>` for each input that torch does not make, then backward_outputs."""
        own = {f"d_{name}": text for name, text in self.inputs.items() if name not in self.torch_gradients}
        return _specs(own) + _specs(self.backward_outputs)

    @cached_property
    def output_gradient_specs(self) -> tuple[TensorSpec, ...]:
        return _specs({f"d_{name}": text for name, text in self.outputs.items()})

    @cached_property
    def forward_arguments(self) -> tuple[tuple[TensorSpec, bool], ...]:
        """The pointers of the forward struct in order: (spec, writable)."""
        return (
            *((s, False) for s in self.input_specs),
            *((s, True) for s in (*self.output_specs, *self.saved_specs, *_specs(self.scratch))),
        )

    @cached_property
    def backward_arguments(self) -> tuple[tuple[TensorSpec, bool], ...]:
        """The pointers of the backward struct in order: (spec, writable)."""
        read = (*self.input_specs, *self.output_specs, *self.saved_specs, *self.output_gradient_specs)
        return (
            *((s, False) for s in read),
            *((s, True) for s in (*self.gradient_specs, *_specs(self.backward_scratch))),
        )

    @cached_property
    def dims(self) -> tuple[str, ...]:
        """Names of the run-time dimensions, in the order in which the inputs bind them."""
        names = {d: None for s in self.input_specs for d in s.dims if d.isidentifier() and d not in self.constants}
        return tuple(names)

    @cached_property
    def compiled(self) -> dict[str, str]:
        """All integers that a build takes, name -> meaning: the constants and those of the tiling."""
        return {**self.constants, **(self.tiling.constants if self.tiling else {})}

    @cached_property
    def chosen(self) -> frozenset[str]:
        """The constants that the tiling chooses though calls give a value for them, which then stands for none."""
        return frozenset(self.tiling.constants if self.tiling else ()) & frozenset(self.constants)

    def complete(self, constants: Mapping[str, int], sizes: Mapping[str, int], dtype: str, device) -> dict[str, int]:
        """Return what a build takes: the constants, and the tiling's for these sizes.

        Args:
            device: a `tiles.Device`, or None for the host backend.
        Raises:
            ArgumentError: where the tiling finds no way to run these sizes.
        """
        return {**constants, **(self.tiling.choose({**constants, **sizes}, dtype, device) if self.tiling else {})}

    def sizes(self, inputs: Mapping[str, object], constants: Mapping[str, int]) -> dict[str, int]:
        """Bind and check dimensions.

        Args:
            inputs: name -> tensor (anything with `.shape`), or None for one that is absent.
            constants: value of every compile-time constant.
        Returns:
            dimensions and constants by name.
        Raises:
            ArgumentError: for a missing or superfluous tensor, a wrong rank, or a size that contradicts another.
        """
        if wrong := set(constants) ^ set(self.constants):
            raise ArgumentError(
                f"{self.package}: constants {', '.join(sorted(wrong))} given or missing; it takes {', '.join(self.constants) or 'none'}."
            )
        if wrong := set(inputs) - set(self.inputs):
            raise ArgumentError(
                f"{self.package}: unknown input {', '.join(sorted(wrong))}; it takes {', '.join(self.inputs)}."
            )
        sizes, owner = dict(constants), dict.fromkeys(constants, "the constants")
        later = []
        for spec in self.input_specs:
            tensor = inputs.get(spec.name)
            if (tensor is not None) != spec.present(constants):
                state = "is missing" if tensor is None else f"was given, but {spec.when}=0 has no such input"
                raise ArgumentError(f"{spec.name} {state}. Expected {spec.text()}.")
            if tensor is None:
                continue
            if len(tensor.shape) != len(spec.dims):
                raise ArgumentError(f"{spec.name} has {len(tensor.shape)} dimensions. Expected {spec.text()}.")
            for name, size in zip(spec.dims, tensor.shape, strict=True):
                if not name.isidentifier():
                    later.append((spec, name, size))
                elif name not in sizes:
                    sizes[name], owner[name] = size, spec.name
                elif sizes[name] != size:
                    raise ArgumentError(
                        f"{spec.name} has {name}={size} but {owner[name]} has {name}={sizes[name]}. Expected {spec.text()}."
                    )
        for spec, expression, size in later:
            if evaluate(expression, sizes) != size:
                raise ArgumentError(
                    f"{spec.name} has {expression}={size}, which should be {evaluate(expression, sizes)}. Expected {spec.text()}."
                )
        return sizes

    def header(self) -> str:
        """Return the text of `elman_args.h`: dtypes, constants and the two argument structs, generated so that no side can disagree."""
        lines = [
            "#pragma once",
            f"// Generated from {self.package}.binding. Do not edit.",
            "#include <elman/types.cuh>",
            "namespace args {",
        ]
        lines += [
            "using scalar = elman::dtype<ELMAN_DTYPE>::type;",
            "using acc = elman::Acc<scalar>;",
            "struct Constant {",
        ]
        lines += [
            f"  static constexpr int {name} = ELMAN_{name};  // {meaning}" for name, meaning in self.compiled.items()
        ]
        lines += ["};"]
        for struct, arguments in (("Forward", self.forward_arguments), ("Backward", self.backward_arguments)):
            lines += [f"struct {struct} {{"]
            for spec, writable in arguments:
                ctype = {"scalar": "scalar", "acc": "acc", "int32": "int"}[spec.kind]
                absent = f", null unless {spec.when}" if spec.when else ""
                lines += [f"  {'' if writable else 'const '}{ctype}* {spec.name};  // [{', '.join(spec.dims)}]{absent}"]
            lines += [f"  int64_t {name};" for name in self.dims]
            lines += ["  elman::Stream stream;", "};"]
        return "\n".join([*lines, "}  // namespace args", ""])
