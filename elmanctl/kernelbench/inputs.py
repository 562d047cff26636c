"""What a layer gives its kernel: the layer runs once on noise, and the call is taken as it was made."""

from dataclasses import dataclass

import torch
from torch import Tensor

from elmanctl import launch, ops
from elmanctl.errors import UserError
from elmanctl.kernel import Kernel
from elmanctl.step import autocast
from elmanctl.variant import Spec


@dataclass(frozen=True)
class Call:
    """One call of a kernel: its declaration, constants, and input tensors by name."""

    kernel: Kernel
    constants: dict[str, int]
    inputs: dict[str, Tensor]

    @property
    def sizes(self) -> dict[str, int]:
        """Return run-time dimensions and constants by name."""
        return self.kernel.sizes(self.inputs, self.constants)

    def forward(self) -> dict[str, Tensor]:
        """Run the forward pass; return outputs and saved tensors."""
        return launch.run_forward(self.kernel, self.constants, self.inputs)

    def upstream(self, outputs: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
        """Return noise as gradients of the outputs, `d_<output>` by name."""
        generator = torch.Generator(next(iter(outputs.values())).device).manual_seed(seed)
        return {
            f"d_{s.name}": torch.empty_like(outputs[s.name]).normal_(generator=generator)
            for s in self.kernel.output_specs
            if s.name in outputs
        }

    def both(self, upstream: dict[str, Tensor]) -> dict[str, Tensor]:
        """Run forward and backward with every gradient, those that torch makes included."""
        return launch.run_backward(self.kernel, self.constants, self.inputs | self.forward(), upstream)


def capture(spec: Spec, dim: int, batch: int, length: int, device: torch.device, seed: int) -> Call:
    """Return the kernel call of one layer of width `dim` on noise [batch, length, dim], as in training.

    Raises:
        UserError: for a layer that calls no kernel, or more than one.
    """
    torch.manual_seed(seed)
    spec.check(dim, relaxed=("dim",))  # one alignment for all models matters where they are compared
    layers = torch.nn.ModuleList(spec.layers(dim)).to(device)
    x = torch.randn(batch, length, dim, device=device)
    with ops.recorded() as calls, torch.no_grad(), autocast(device):
        for layer in layers:
            layer(x)
    if len(calls) != 1:
        raise UserError(f"{spec.name} calls {len(calls)} kernels in a layer; one is timed at a time.")
    kernel, inputs, constants = calls[0]
    given = {name: tensor.detach().contiguous() for name, tensor in inputs.items() if tensor is not None}
    return Call(kernel, dict(constants), given)


def least_bytes(call: Call, both: bool) -> int:
    """Return the bytes a pass must move if each declared tensor is read or written once: inputs, outputs and saved ones; for
    `both` also the gradients, and inputs and saved tensors a second time."""
    kernel, sizes, scalar = call.kernel, call.sizes, launch.compute_dtype(call.kernel, call.inputs)
    if kernel.chosen:
        sizes |= launch.build_constants(kernel, call.constants, sizes, scalar, next(iter(call.inputs.values())))
    moved = [*kernel.input_specs, *kernel.output_specs, *kernel.saved_specs]
    if both:
        moved += [*kernel.input_specs, *kernel.saved_specs, *kernel.output_gradient_specs, *kernel.gradient_specs]
    return sum(
        torch.Size(tensor.shape(sizes)).numel() * getattr(torch, tensor.dtype(scalar)).itemsize
        for tensor in moved
        if tensor.present(call.constants)
    )
