"""The builds that the host backend knows: plain, under AddressSanitizer and UBSan, and with the race check.

A flavour is a target of the one builder: its flags and its further runtime files are part of the key like those of any other.
"""

from dataclasses import dataclass

HOST = "host"
ASAN, RACE = "host-asan", "host-race"
_ADDRESS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer", "-g")


@dataclass(frozen=True)
class Flavour:
    """One host build.

    Args:
        kernel: further compiler flags of the kernel's file.
        runtime: further flags of the runtime's files and of the link.
        parts: files of `elman/host` that are linked besides the runtime.
        preload: libraries of the compiler that a process must have loaded before anything else, without `lib` and `.so`.
    """

    kernel: tuple[str, ...] = ()
    runtime: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    preload: tuple[str, ...] = ()


FLAVOURS = {
    HOST: Flavour(),
    ASAN: Flavour(kernel=_ADDRESS, runtime=_ADDRESS, preload=("asan", "ubsan")),
    # libtsan is not linked: race.cc answers the calls. Full debug information tells a wrapper's line from its caller's.
    RACE: Flavour(kernel=("-fsanitize=thread", "-g"), parts=("race.cc",)),
}


def is_host(target: str) -> bool:
    """Return whether a target is compiled by g++."""
    return target in FLAVOURS


def family(target: str) -> str:
    """Return `host` for every host build, else the target: what `float64@host` in a binding refers to."""
    return HOST if is_host(target) else target
