"""Reads a report of AddressSanitizer or UBSan: what happened, at which line of which kernel, on which tensor."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath

ADDRESS = re.compile(r"ERROR: AddressSanitizer: (?P<what>[\w-]+)")
ACCESS = re.compile(r"^(?P<kind>READ|WRITE) of size (?P<size>\d+) at (?P<address>0x[0-9a-f]+)", re.MULTILINE)
UNDEFINED = re.compile(r"^(?P<file>\S+?):(?P<line>\d+):\d+: runtime error: (?P<what>.+)$", re.MULTILINE)
FRAME = re.compile(r"^\s*#\d+ 0x[0-9a-f]+ in (?P<function>.+?) (?P<file>/\S+?):(?P<line>\d+)(?::\d+)?$")
MEANINGS = {
    "use-after-poison": "access past the end of shared memory or of a shared array",
    "SEGV": "access to memory that does not exist",
}


@dataclass(frozen=True)
class Frame:
    """One call of a backtrace, inlined ones included."""

    function: str
    file: str
    line: int

    @property
    def place(self) -> str:
        return f"{PurePath(self.file).name}:{self.line}"


def wrapper(file: str) -> bool:
    """Return whether a file is one of the wrappers that kernels call, which says less than the line that calls it."""
    folders = PurePath(file).parent.parts
    return folders[-1:] == ("elman",) or folders[-2:] in (("elman", "host"), ("elman", "device"))


def frames(text: str) -> list[Frame]:
    """Return the first backtrace of a report, down to where the runtime starts a thread."""
    found: list[Frame] = []
    for line in text.splitlines():
        match = FRAME.match(line)
        if match:
            if "fiber_main" in match["function"]:
                break
            found.append(Frame(match["function"], match["file"], int(match["line"])))
        elif found and not line.lstrip().startswith("#"):
            break
    return found


def shorten(function: str) -> str:
    """Return a function's qualified name without its return type, template arguments and parameters."""
    plain = function.replace("(anonymous namespace)::", "").removeprefix("void ")
    return re.split(r"[<(]", plain)[0]


def where(text: str, file: str = "", line: str = "") -> str:
    """Return `at FILE:LINE in KERNEL` from a report's backtrace, else from a file and line."""
    backtrace = frames(text)
    own = [f for f in backtrace if not wrapper(f.file)]
    if own:
        through = "" if own[0] is backtrace[0] else f" (through {backtrace[0].place})"
        return f"at {own[0].place} in {shorten(own[-1].function)}{through}"
    if file:
        return f"at {PurePath(file).name}:{line}"
    return f"at {backtrace[0].place}" if backtrace else "at an unknown place"


def beside(address: int, tensors: Mapping[str, tuple[int, int]]) -> str:
    """Return where an address lies among the tensors of the call, if one is near."""
    best, text = 4096, ""
    for name, (low, size) in tensors.items():
        if low <= address < low + size:
            return f"inside {name}"
        distance = address - (low + size) if address >= low + size else low - address
        if distance < best:
            side = "past the end of" if address >= low + size else "before"
            best, text = distance, f"{distance} bytes {side} {name} ({size} bytes)"
    return text


def read(text: str, tensors: Mapping[str, tuple[int, int]]) -> str:
    """Return a report in one sentence; empty where the text holds none.

    Args:
        text: what the process wrote on stderr.
        tensors: name -> (address, bytes) of the call that ran.
    """
    undefined, address = UNDEFINED.search(text), ADDRESS.search(text)
    if undefined and (not address or undefined.start() < address.start()):
        place = where(text[undefined.end() :], undefined["file"], undefined["line"])
        return f"UndefinedBehaviorSanitizer: {undefined['what'].strip()}, {place}"
    if not address:
        return ""
    parts = [f"AddressSanitizer: {address['what']}"]
    if meaning := MEANINGS.get(address["what"]):
        parts[0] += f" ({meaning})"
    rest = text[address.end() :]
    if access := ACCESS.search(rest):
        near = beside(int(access["address"], 16), tensors)
        parts.append(f"{access['kind'].lower()} of {access['size']} bytes" + (f" {near}" if near else ""))
    return ", ".join([*parts, where(rest)])
