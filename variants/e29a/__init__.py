"""E29a: a tanh state beside a tape that it reads and writes by softmax; the readout's gate adds input, what was read, and state."""

from elmanctl.families import tape
from elmanctl.variant import Variant

variant = Variant(
    package=__name__,
    name="E29a",
    summary="tanh state with a tape of slots, read and written by softmax; gate of their sum",
    config=tape.Options,
    rules=tape.RULES,
)
