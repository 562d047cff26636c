"""The shape language, argument checks and the generated header."""

from types import SimpleNamespace

import pytest

from elmanctl.kernel import Kernel
from elmanctl.tensors import ArgumentError, TensorSpec


def shaped(*shape):
    return SimpleNamespace(shape=shape)


def kernel(**changes):
    arguments = {
        "package": "somewhere",
        "inputs": {"qkv": "B T 2*H*N+H*M", "decay": "B T H @acc", "s0": "B H M N @acc", "gate": "B T H*M ?GATE"},
        "outputs": {"y": "B T H*M", "s_last": "B H M N @acc"},
        "saved": {"slots": "B H cdiv(T,K) M N @acc"},
        "constants": {"N": "keys", "M": "values", "K": "checkpoint interval", "GATE": "output gate"},
    }
    return Kernel(**(arguments | changes))


CONSTANTS = {"N": 8, "M": 16, "K": 4, "GATE": 0}
INPUTS = {"qkv": shaped(2, 5, 96), "decay": shaped(2, 5, 3), "s0": shaped(2, 3, 16, 8)}


def test_sizes_bind_names_and_check_expressions():
    sizes = kernel().sizes(INPUTS, CONSTANTS)
    assert {k: sizes[k] for k in "BTH"} == {"B": 2, "T": 5, "H": 3}
    assert kernel().saved_specs[0].shape(sizes) == (2, 3, 2, 16, 8)
    assert kernel().dims == ("B", "T", "H")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"s0": shaped(1, 3, 16, 8)}, r"s0 has B=1 but qkv has B=2. Expected s0 \[B, H, M, N\]."),
        ({"qkv": shaped(2, 5, 95)}, r"qkv has 2\*H\*N\+H\*M=95, which should be 96"),
        ({"decay": shaped(2, 5)}, "decay has 2 dimensions"),
        ({"gate": shaped(2, 5, 48)}, "gate was given, but GATE=0 has no such input"),
        ({"s0": None}, "s0 is missing"),
        ({"other": shaped(1)}, "unknown input other"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    with pytest.raises(ArgumentError, match=message):
        kernel().sizes(INPUTS | change, CONSTANTS)


def test_constants_are_complete():
    with pytest.raises(ArgumentError, match="constants GATE given or missing"):
        kernel().sizes(INPUTS, {k: v for k, v in CONSTANTS.items() if k != "GATE"})


def test_declarations_are_checked():
    with pytest.raises(ValueError, match=r"depends on \?OTHER"):
        kernel(inputs={"x": "B ?OTHER"})
    with pytest.raises(ValueError, match="unknown dtype @bf8"):
        TensorSpec.parse("x", "B @bf8")
    with pytest.raises(ValueError, match="torch_gradients names W"):
        kernel(torch_gradients=("W",), after_backward="f")


def test_header_holds_every_tensor_in_packing_order():
    declared = kernel()
    text = declared.header()
    forward = text[text.index("struct Forward") : text.index("struct Backward")]
    names = [
        line.split(";")[0].split()[-1] for line in forward.splitlines() if line.endswith(("]", "GATE")) and ";" in line
    ]
    assert names == [s.name for s, _ in declared.forward_arguments]
    assert "const acc* decay;  // [B, T, H]" in text and "acc* d_decay;  // [B, T, H]" in text
    assert "static constexpr int N = ELMAN_N;  // keys" in text
