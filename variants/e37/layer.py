"""The E37 layer: tied tanh recurrence with self-gated readout in a single-branch shell."""

from elmanctl.families.tied_layer import TiedLayer

from . import binding


class Layer(TiedLayer):
    """Source: README.md, equations 1 to 3."""

    binding = binding
    rho = 0.99
