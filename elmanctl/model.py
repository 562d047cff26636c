"""LadderLM: the only language model. Every variant and every baseline is trained inside it, so that only the layers differ.

* Per sub-layer: `r += x; x = RMSNorm(r); x = layer(x)`; at the end the same add and norm, then the tied head.
* The residual stream `r` is fp32; there is no way to run a layer without the norm before it.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from elmanctl.norms import AddNorm
from elmanctl.variant import Spec

EMBEDDING_STD = 0.02


class LadderLM(nn.Module):
    """A byte language model around one variant.

    Constructs on the meta device too. Parameters: vocab_size * dim + layers + one norm of dim a sub-layer + dim.

    Args:
        spec: variant and options; `spec.layers(dim)` gives the sub-layers of one depth step.
        dim: model width; depth: how often the sub-layers are repeated.
        vocab_size: 256, the bytes.
    """

    def __init__(self, spec: Spec, dim: int, depth: int, vocab_size: int = 256):
        super().__init__()
        self.dim, self.depth, self.vocab_size = dim, depth, vocab_size
        self.embedding = nn.Parameter(torch.empty(vocab_size, dim))
        nn.init.normal_(self.embedding, std=EMBEDDING_STD)
        self.layers = nn.ModuleList(layer for _ in range(depth) for layer in spec.layers(dim))
        self.norms = nn.ModuleList(AddNorm(dim) for _ in self.layers)
        self.final_norm = AddNorm(dim)

    def forward(self, tokens, state=None):
        """Predict the next byte.

        Args:
            tokens: [B, T], any integer dtype.
            state: what an earlier call returned, or None for each layer's initial state.
        Returns:
            logits, [B, T, vocab_size], and the state after the last token: a list with one tree a sub-layer.
        """
        x, residual, after = F.embedding(tokens.long(), self.embedding), None, []
        before = [None] * len(self.layers) if state is None else state
        for norm, layer, carried in zip(self.norms, self.layers, before, strict=True):
            x, residual = norm(x, residual)
            x, last = layer(x, carried)
            after.append(last)
        x, _ = self.final_norm(x, residual)
        return F.linear(x, self.embedding), after

    def loss(self, tokens, state=None):
        """Return the mean cross-entropy, nats per byte in fp32, and the state after the last input.

        Args:
            tokens: [B, T+1]; the first T are inputs, the last T targets.
            state: as in `forward`.
        """
        logits, after = self(tokens[:, :-1], state)
        return F.cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten().long()), after

    def initial_state(self, batch: int, device=None, dtype=torch.float32) -> list:
        """Return the state before the first byte, for `batch` rows."""
        return [layer.initial_state(batch, device, dtype) for layer in self.layers]


def parameter_count(model: nn.Module) -> int:
    """Return the number of parameters, each shared one counted once."""
    return sum(parameter.numel() for parameter in model.parameters())


def expected_initial_loss(dim: int, vocab_size: int = 256) -> float:
    """Return ln V + 0.0002 dim, nats: the untrained loss where the readout is independent of the tied N(0, 0.02) embedding.

    The final norm gives the readout a squared length of dim, so the logits have variance v = dim * 0.02^2, and the mean
    log-sum-exp of V such logits exceeds ln V by v / 2.
    """
    return math.log(vocab_size) + dim * EMBEDDING_STD**2 / 2
