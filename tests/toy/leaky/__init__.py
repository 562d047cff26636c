"""A leaky integrator, h[t] = a h[t-1] + x[t]: the smallest kernel that has every part. Used by the tests of build, launch and ops."""

from dataclasses import dataclass

from elmanctl.variant import Variant


@dataclass(frozen=True)
class Config:
    pass


variant = Variant(package=__name__, name="Leaky", summary="leaky integrator for tests", config=Config)
