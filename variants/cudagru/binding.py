"""Tensors of the cudagru kernel: W [U_z; U_r] multiplies the state, N = U_n what the reset gate leaves of it."""

from elmanctl.families.gated import REGISTERS, constants
from elmanctl.kernel import Kernel
from elmanctl.tiles import Product, tiling

__all__ = ["constants", "kernel"]

kernel = Kernel(
    package=__package__,
    inputs={"wx": "B T 3*D", "W": "2*D D", "N": "D D", "h0": "B D @acc"},
    outputs={"y": "B T D", "h_last": "B D @acc"},
    saved={"kept": "B T 4*D @acc", "reset": "B T D"},
    scratch={"exchange": "RING*8*cdiv(B,8)*2*D"},
    backward_scratch={"exchange": "RING*8*cdiv(B,8)*3*D"},
    backward_outputs={"former": "B T D"},
    constants={"CUBLAS": "1 for cuBLAS products in each step in place of the kernel"},
    torch_gradients=("W", "N"),
    after_backward="weight_gradients",
    rounds={"h_operand": "forward", "d_pre": "backward"},
    # A state is T sums over D; the gradient of a matrix sums B T products of such.
    terms={"*": "T*D", "W": "B*T*D", "N": "B*T*D"},
    budgets={"registers": 255, "spill_bytes": 0, "shared_bytes": 4096},
    work={"forward": "6*B*T*D*D", "backward": "12*B*T*D*D"},
    rivals=("cublas_loop",),
    tiling=tiling(Product(sums=2), Product("N_"), typical={"B": 32, "D": 768}, registers=REGISTERS),
)
