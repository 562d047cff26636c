"""LadderLM: the only language model. Every variant and every baseline is trained inside it, so that only the layers differ.

* Per sub-layer: `r += x; x = RMSNorm(r); x = layer(x)`; at the end the same add and norm, then the tied head.
* The residual stream `r` is fp32; there is no way to run a layer without the norm before it.
* Layer checkpointing and loss chunking (recompute.py) change what is kept for the backward pass, and nothing else.
"""

import contextlib
import math

import torch
import torch.nn.functional as F
from torch import nn

from elmanctl.errors import UserError
from elmanctl.norms import AddNorm, Rows
from elmanctl.recompute import chunked_loss, recomputed
from elmanctl.together import ahead, prepared
from elmanctl.variant import Spec

EMBEDDING_STD = 0.02


class LadderLM(nn.Module):
    """A byte language model around one variant.

    Constructs on the meta device too. Parameters: vocab_size * dim + layers + one norm of dim a sub-layer + dim.

    Args:
        spec: variant and options; `spec.layers(dim)` gives the sub-layers of one depth step.
        dim: model width; depth: how often the sub-layers are repeated.
        vocab_size: 256, the bytes.
        checkpoint_layers: of the depth steps, the first so many run again in the backward pass, from their inputs. The first: when
            their turn comes, the activations of all others are gone.
        loss_chunks: parts of the positions that `loss` takes one after the other; 1 for all at once.
    Raises:
        UserError: for more checkpointed layers than there are.
    """

    def __init__(
        self,
        spec: Spec,
        dim: int,
        depth: int,
        vocab_size: int = 256,
        checkpoint_layers: int = 0,
        loss_chunks: int = 1,
    ):
        super().__init__()
        if checkpoint_layers > depth:
            raise UserError(
                f"checkpoint_layers is {checkpoint_layers}, but the model has {depth} layers. Give {depth} for all of them."
            )
        self.dim, self.depth, self.vocab_size = dim, depth, vocab_size
        self.embedding = nn.Parameter(torch.empty(vocab_size, dim))
        nn.init.normal_(self.embedding, std=EMBEDDING_STD)
        self.layers = nn.ModuleList(layer for _ in range(depth) for layer in spec.layers(dim))
        self.norms = nn.ModuleList(AddNorm(dim) for _ in self.layers)
        self.final_norm = AddNorm(dim)
        self.recomputed = checkpoint_layers * len(self.layers) // depth  # sub-layers
        self.loss_chunks = loss_chunks

    def forward(self, tokens, state=None):
        """Predict the next byte.

        Args:
            tokens: [B, T], any integer dtype.
            state: what an earlier call returned, or None for each layer's initial state.
        Returns:
            logits, [B, T, vocab_size], and the state after the last token: a list with one tree a sub-layer.
        """
        x, after = self.hidden(tokens, state)
        return F.linear(x, self.embedding), after

    def hidden(self, tokens, state=None):
        """Return what the head reads, [B, T, dim], and the state after the last token; arguments as in `forward`."""
        x, residual, after = Rows(self.embedding, tokens), None, []
        before = [None] * len(self.layers) if state is None else state
        with prepared(self.layers[self.recomputed :], self.embedding):
            for number, (norm, layer, carried) in enumerate(zip(self.norms, self.layers, before, strict=True)):
                again = number < self.recomputed
                with contextlib.nullcontext() if again else ahead(layer, self.embedding):
                    x, residual = norm(x, residual)
                    x, last = recomputed(layer, x, carried) if again else layer(x, carried)
                after.append(last)
        x, _ = self.final_norm(x, residual, keep=False)
        return x, after

    def loss(self, tokens, state=None):
        """Return the mean cross-entropy, nats per byte in fp32, and the state after the last input.

        Args:
            tokens: [B, T+1]; the first T are inputs, the last T targets.
            state: as in `forward`.
        """
        x, after = self.hidden(tokens[:, :-1], state)
        return chunked_loss(x.flatten(0, 1), self.embedding, tokens[:, 1:].flatten().long(), self.loss_chunks), after

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
