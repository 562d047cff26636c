"""Tensors of the E2 kernel, whose rows are read out as they are.

* dense: h[t] = tanh(wx[t] + W h[t-1]). B counts the rows of all slots that share W.
* diagonal: h[t] = decay h[t-1] + wx[t]. D counts the channels of all slots.
"""

from dataclasses import replace

from elmanctl.families import dense, pointwise
from elmanctl.tiles import DENSE, Tiling

_dense = dense.kernel(__package__)


def _choose(sizes, dtype, device) -> dict[str, int]:
    return DENSE.choose(sizes, dtype, device) if sizes["SQUARE"] else dict.fromkeys(DENSE.constants, 1)


kernel = replace(
    _dense,
    inputs={"wx": "B T D", "W": "D D ?SQUARE", "decay": "D @acc ?DIAGONAL", "h0": "B D @acc"},
    saved={"h": "B T+DIAGONAL D @acc"},
    scratch={"exchange": f"{_dense.scratch['exchange']} ?SQUARE"},
    backward_scratch={"exchange": f"{_dense.backward_scratch['exchange']} ?SQUARE"},
    backward_outputs={"former": "B T D ?SQUARE", "decay_part": "B D @acc ?DIAGONAL"},
    constants={
        **_dense.constants,
        **pointwise.CONSTANTS,
        "SQUARE": "1 where the state meets a matrix",
        "DIAGONAL": "1 where it meets itself only",
    },
    torch_gradients=("W", "decay"),
    rounds={name: f"{direction} ?SQUARE" for name, direction in _dense.rounds.items()},
    terms={**_dense.terms, "decay": "B*T"},
    work={"forward": "2*B*T*D*(D*SQUARE+DIAGONAL)", "backward": "4*B*T*D*(D*SQUARE+DIAGONAL)"},
    tiling=Tiling(DENSE.constants, _choose, DENSE.typical),
)


def constants(config) -> dict[str, int]:
    """Return the compile-time constants that depend on options."""
    form = {"SQUARE": int(not config.diagonal), "DIAGONAL": int(config.diagonal)}
    return {**dense.constants(config), **pointwise.DIVISION, **form}
