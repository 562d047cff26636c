"""The Gated DeltaNet layer: the package's layer behind the interface of a variant."""

import torch
from fla.layers import GatedDeltaNet
from torch import nn

from elmanctl.errors import UserError


class Layer(nn.Module):
    """GatedDeltaNet from flash-linear-attention, [B, T, dim] in and out.

    Args:
        dim: model width.
        config: the variant's Config.
    """

    # The package marks the same parameters with `_no_weight_decay`.
    no_decay: frozenset[str] = frozenset({"mixer.A_log", "mixer.dt_bias"})

    def __init__(self, dim: int, config):
        super().__init__()
        self.mixer = GatedDeltaNet(
            hidden_size=dim,
            expand_v=config.expansion,
            head_dim=config.head_dim,
            num_heads=max(1, dim // config.head_dim),
            mode="chunk",
            use_gate=True,
            use_short_conv=True,
            allow_neg_eigval=config.allow_neg_eigval,
        )

    def initial_state(self, batch: int, device, dtype) -> dict[str, torch.Tensor]:
        """Return the empty state: every call starts from zero (README, Deviations)."""
        return {}

    def forward(self, x: torch.Tensor, state: dict | None = None) -> tuple[torch.Tensor, dict]:
        """Run the layer on x [B, T, dim] from a zero state; return y [B, T, dim] and the empty state.

        Raises:
            UserError: for tensors that are not on a GPU.
        """
        if not x.is_cuda:
            raise UserError(f"fla-gdn has no code for {x.device.type}: its Triton kernels need an NVIDIA GPU.")
        return self.mixer(x)[0], {}
