"""The layer of a variant on the dense family: a shell whose cell is one recurrence, to which the variant gives its tensors."""

from types import ModuleType

from torch import Tensor

from elmanctl.ops import recurrence
from elmanctl.shells import RecurrentWeight, Shell


class DenseLayer(Shell):
    """Runs the kernel of `binding` on what `inputs` returns; parameters are made in `make_cell`.

    A subclass sets `binding`, its folder's module of that name, and, where its recurrent weight has the option `spectral_norm`, `rho`: the
    largest singular value that it then has.
    """

    binding: ModuleType
    rho: float | None = None

    def __init__(self, dim: int, config):
        super().__init__(dim, config)
        self.constants = self.binding.constants(config)

    def recurrent_weight(self, inner: int) -> RecurrentWeight:
        """Make the weight of the state, [inner, inner]."""
        return RecurrentWeight(inner, self.rho if self.config.spectral_norm else None)

    def inputs(self, u: Tensor, *z: Tensor) -> dict[str, Tensor]:
        """Return the kernel's wx [B, T, inner], W [inner, inner] and gates from u (and, where `split`, z) [B, T, inner]."""
        raise NotImplementedError

    def cell(self, state: dict[str, Tensor], u: Tensor, *z: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Run the recurrence over u from `state`."""
        out = recurrence(self.binding.kernel, {**self.inputs(u, *z), "h0": state["h"]}, self.constants)
        return out["y"], {"h": out["h_last"]}
