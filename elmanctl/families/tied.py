"""Tensors of the recurrences whose one matrix serves input and state: h[t] = phi(W (x[t] + h[t-1]) + b), y[t] = readout(h[t]), x = silu(u).

The sum is formed before the product: one product in place of two in the forward pass, in the backward pass, and for W's gradient. The
kernel's half is csrc_common/elman/families/tied_recurrence.cuh, the reference's half tied_reference.py. Torch is not imported.
"""

from elmanctl.families import dense
from elmanctl.families.cell import ProductOptions
from elmanctl.kernel import Kernel
from elmanctl.tiles import OTHER_REGISTERS, Product, tiling


def kernel(package: str) -> Kernel:
    """Return the declaration of a tied recurrence's tensors; `package` is `__package__` of the variant's binding.py."""
    return Kernel(
        package=package,
        inputs={"u": "B T D", "W": "D D", "b": "D @acc", "h0": "B D @acc"},
        outputs={"y": "B T D", "h_last": "B D @acc"},
        saved={"h": "B T D @acc"},
        scratch={"exchange": "RING*8*cdiv(B,8)*D"},
        backward_scratch={"exchange": "RING*8*cdiv(B,8)*D"},
        backward_outputs={"d_pre": "B T D", "operand": "B T D", "b_part": "B D @acc"},
        constants={
            "CUBLAS": "1 for one cuBLAS product a step in place of the kernel",
            "SILU": "1 where x is silu(u), 0 where it is u",
        },
        torch_gradients=("W", "b"),
        after_backward="weight_gradients",
        rounds={"operand": "forward", "d_pre": "backward"},
        # A state is T sums over D; the gradients of W and b sum B T products of such.
        terms={"*": "T*D", "W": "B*T*D", "b": "B*T*D"},
        budgets={"registers": 255, "spill_bytes": 0, "shared_bytes": 4096},
        work={"forward": "2*B*T*D*D", "backward": "4*B*T*D*D"},
        rivals=("cudnn_rnn", "cublas_loop", "flashrnn"),
        tiling=tiling(Product(), typical={"B": 32, "D": 1536}, registers=OTHER_REGISTERS),
    )


def constants(config: ProductOptions) -> dict[str, int]:
    """Return the compile-time constants that depend on options: after a convolution the shell takes the silu."""
    return dense.constants(config) | {"SILU": int(not config.conv)}
