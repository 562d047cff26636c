"""E71: linear matrix state whose retention gate looks at what the state returns for the key, self-gated readout."""

from elmanctl.families import matrix
from elmanctl.variant import Variant

variant = Variant(
    package=__name__,
    name="E71",
    summary="linear matrix state, retention gate per value row that looks at the memory, self-gated",
    config=matrix.Options,
    rules=matrix.RULES,
)
