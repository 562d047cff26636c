"""The Mamba-2 layer: the package's block behind the interface of a variant."""

import torch
from mamba_ssm.modules.mamba2 import Mamba2
from torch import nn

from elmanctl.errors import UserError


class Layer(nn.Module):
    """Mamba2 from mamba-ssm, [B, T, dim] in and out.

    Args:
        dim: model width.
        config: the variant's Config.
    """

    # The block marks the same parameters with `_no_weight_decay`.
    no_decay: frozenset[str] = frozenset({"mixer.A_log", "mixer.D", "mixer.dt_bias"})

    def __init__(self, dim: int, config):
        super().__init__()
        self.mixer = Mamba2(
            dim, d_state=config.d_state, expand=config.expand, headdim=config.headdim, d_conv=config.d_conv
        )

    def initial_state(self, batch: int, device, dtype) -> dict[str, torch.Tensor]:
        """Return the empty state: every call starts from zero (README, Deviations)."""
        return {}

    def forward(self, x: torch.Tensor, state: dict | None = None) -> tuple[torch.Tensor, dict]:
        """Run the block on x [B, T, dim] from a zero state; return y [B, T, dim] and the empty state.

        Raises:
            UserError: for tensors that are not on a GPU.
        """
        if not x.is_cuda:
            raise UserError(f"mamba2 has no code for {x.device.type}: mamba-ssm's kernels need an NVIDIA GPU.")
        return self.mixer(x), {}
