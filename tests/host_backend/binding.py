"""Tensors of the planted kernels. The length of `choice` says which of them runs."""

from elmanctl.kernel import Kernel

kernel = Kernel(
    package=__package__,
    inputs={"x": "N", "choice": "WHICH @int32"},
    outputs={"y": "N"},
    scratch={"counter": "1 @int32", "words": "N @int32"},
    dtypes=("float32",),
)
