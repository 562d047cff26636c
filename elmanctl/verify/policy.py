"""The numbers of the rule, in one place, so that a receipt can name the rule that it was given under. Torch is not imported.

What they mean is said where they are used: tolerance.py, rounding.py, truth.py, prove/proof.py.
"""

import hashlib

FACTOR = 2.0  # error over floor
ACCUMULATION = 2.0  # of the accumulation term
WINDOW = 8  # time steps
SMALLEST = 4  # elements of a group
AMPLE = 48  # elements of a group of one index of an axis
TAIL = 4.0  # of the floor's spread
UNITS = 4.0  # unit roundoffs of noise on every operation
ROUNDINGS = ((9, 12), (10**9, 8))  # (T up to, evaluations that make the floor)
LAYER_ROUNDINGS = 6
LIVE = 1e-6  # relative change of the output that a live option exceeds in fp64
SCORE = 0.95  # of kernel mutants that must die; of truth mutants all must
UNDERFLOW = True  # the accumulator's smallest normal number is added to each limit


def digest() -> str:
    """Return a hash over the rule."""
    numbers = {name: value for name, value in sorted(globals().items()) if name.isupper()}
    return hashlib.sha256(repr(numbers).encode()).hexdigest()
