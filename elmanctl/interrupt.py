"""Ctrl-C and SIGTERM: stop after the present step; asked twice, or outside the loop, stop at once."""

import os
import signal
import threading

MESSAGE = b"\nStopping after this step; once more stops at once.\n"


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
