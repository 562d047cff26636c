"""The E74 layer: projections, the cell's numbers for each row, and of a low-rank state the maps into its columns."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from elmanctl.families import matrix_reference
from elmanctl.families.matrix_layer import MatrixLayer
from elmanctl.ops import project, recurrence

from . import binding

DECAY, DECAY_LOGIT = 0.9, 2.2  # of fixed_decay: constant, or the first value of what goes into a sigmoid
FIRST = {"z_bias": 1.0, "retain_bias": 2.0, "scale": 0.1, "gamma": 0.5}  # the others start at 0
DIAGONAL_DECAY = -0.1  # of simple's logits, where each element has its own


class Layer(MatrixLayer):
    """Source: README.md, equations 1 to 6."""

    kernel = binding.kernel

    def make_cell(self, inner: int, config) -> None:
        names = binding.vectors(binding.constants(config))
        self.low_rank = config.state == "low_rank"
        # A low-rank state takes its query and key through its columns' maps, so that the kernel has no raw ones.
        own = {"tied_kq": 1, "tied_kvq": 0}.get(config.projection, 2) if self.low_rank else 0
        self.own, self.vectors = own * config.n_state, own + len(names)
        super().make_cell(inner, config)
        n = config.n_state
        for name in binding.parameters(self.constants):
            if name == "decay":
                self.make_decay(config)
            else:
                self.register_parameter(name, nn.Parameter(torch.full((n,), FIRST.get(name, 0.0))))
        if self.low_rank:
            self.W_key = nn.Parameter(torch.empty(config.rank, n))
            self.V = nn.Parameter(torch.empty(config.rank, n))
            nn.init.xavier_uniform_(self.W_key)
            nn.init.xavier_uniform_(self.V)

    def make_decay(self, config) -> None:
        """Make the decay as its update has it: a logit (simple: of each element of a diagonal), or a constant."""
        if config.update == "fixed_decay" and config.decay == "constant":
            self.register_buffer("decay", torch.full((1,), DECAY))
        elif config.update == "fixed_decay":
            self.decay = nn.Parameter(torch.full((1,), DECAY_LOGIT))
        elif config.state == "diagonal":
            self.decay = nn.Parameter(torch.full((config.n_state,), DIAGONAL_DECAY))
        else:
            self.decay = nn.Parameter(torch.zeros(1))

    def constants_of(self, config) -> dict[str, int]:
        return binding.constants(config)

    def shape(self) -> tuple[int, int]:
        """Return how many states there are, and their rows."""
        rows = self.constants["M"]
        return self.config.n_state // rows, rows

    def cell_state(self, batch: int) -> dict[str, tuple[int, ...]]:
        return {"s": (batch, *self.shape(), self.constants["RANK"])}

    def parameters_of_rows(self) -> Tensor | None:
        """Return the kernel's `parameters`, [H, PARAMETERS, M], or None where there are none."""
        rows = []
        for name in binding.parameters(self.constants):
            p = getattr(self, name)
            if name == "decay" and isinstance(p, nn.Parameter):
                p = torch.sigmoid(p)
            rows.append(p.expand(self.config.n_state))
        heads, length = self.shape()
        return torch.stack(rows).view(len(rows), heads, length).transpose(0, 1).contiguous() if rows else None

    def keys(self, q: Tensor, k: Tensor, wide: torch.dtype) -> Tensor:
        """Return query, key and, where the memory is read, reader in the columns of a low-rank state, side by side."""
        fill = (0, 0, 0, self.constants["N"] - self.config.rank)
        V, W_key = F.pad(self.V, fill), F.pad(self.W_key, fill)
        unit = matrix_reference.unit(k.to(wide)).to(q.dtype)
        reader = [F.linear(unit, V)] if self.constants["READS"] else []
        return torch.cat([F.linear(q, V), F.linear(unit, W_key), *reader], -1)

    def cell(self, state: dict[str, Tensor], u: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        # First q and k where a low-rank state has matrices of its own for them, then what the kernel reads.
        rows = [count for count in (self.own, len(self.W) - self.own) if count]
        *own, projected = project(u, self.W, rows=rows)
        s, keys = state["s"], None
        if self.low_rank:
            q_and_k = own[0] if own else projected[..., : self.config.n_state]
            q, k = q_and_k[..., : self.config.n_state], q_and_k[..., -self.config.n_state :]
            keys = self.keys(q, k, s.dtype)
            s = F.pad(s, (0, self.constants["N"] - self.config.rank))
        given = {"projected": projected, "keys": keys, "parameters": self.parameters_of_rows(), "s0": s}
        out = recurrence(self.kernel, given, self.constants)
        return out["y"], {"s": out["s_last"][..., : self.constants["RANK"]]}
