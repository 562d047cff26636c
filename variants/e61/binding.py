"""Tensors of the E61 kernel: proj is the gate's argument, then the value; of the form `shared` one projection for both."""

from elmanctl.families import pointwise

FORMS = ("mix", "sum", "shared")

kernel = pointwise.kernel(
    __package__,
    "I",
    constants={"FORM": "0 mix, 1 sum, 2 shared: how gate and value enter", "I": "projections"},
    tanh=True,
    flops=(8, 16),
)


def constants(config) -> dict[str, int]:
    """Return the compile-time constants of a Config."""
    return pointwise.constants(config) | {"FORM": FORMS.index(config.form), "I": 1 if config.form == "shared" else 2}
