"""Ctrl-C and SIGTERM: a run stops after the present step; asked twice, or outside the loop, at once.

An interrupt while torch is imported waits until that is done: torch's C++ code would end the process with SIGABRT.
"""

import os
import signal
import sys
import threading

INTERRUPTED = "Interrupted. What was finished before is kept."
AGAIN_SECONDS = 0.05

MESSAGE = b"\nStopping after this step; once more stops at once.\n"


def install() -> None:
    """Let Ctrl-C raise KeyboardInterrupt, but not inside the import of torch."""

    def handle(number, frame) -> None:
        spec = getattr(sys.modules.get("torch"), "__spec__", None)
        if spec is None or not getattr(spec, "_initializing", False):
            raise KeyboardInterrupt
        signal.setitimer(signal.ITIMER_REAL, AGAIN_SECONDS)

    signal.signal(signal.SIGINT, handle)
    signal.signal(signal.SIGALRM, handle)


class Interrupt:
    """A context in which a signal sets `requested` while `gentle`, and raises KeyboardInterrupt otherwise.

    Outside of the main thread, where Python delivers no signals, it changes nothing.
    """

    def __init__(self):
        self.requested = False
        self.gentle = False
        self._previous = {}

    def __enter__(self) -> "Interrupt":
        if threading.current_thread() is threading.main_thread():
            self._previous = {s: signal.signal(s, self._handle) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *error) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number, frame) -> None:
        if self.requested or not self.gentle:
            raise KeyboardInterrupt
        self.requested = True
        os.write(2, MESSAGE)  # not through a console: the signal may have come while that was printing
