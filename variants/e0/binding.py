"""Tensors of the E0 kernel: h[t] = tanh(wx[t] + W h[t-1]), read out alone or through a gate q."""

from elmanctl.families import dense

GATES = {"none": 0, "input": 1, "x": 1, "hx": 2}

kernel = dense.kernel(
    __package__, gates=("q ?GATE",), constants={"GATE": "readout: 0 for h, 1 for h silu(q), 2 for h silu(h + q)"}
)


def constants(config) -> dict[str, int]:
    """Return the compile-time constants that depend on options."""
    return {**dense.constants(config), "GATE": GATES[config.gate]}
