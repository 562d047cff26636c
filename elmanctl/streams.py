"""One stream beside the present one on each GPU, for small work that nothing waits for at once. Torch is imported."""

import contextlib
from collections.abc import Iterator

import torch

_beside: dict[torch.device, torch.cuda.Stream] = {}
_marks: dict[torch.device, torch.cuda.Event] = {}


@contextlib.contextmanager
def marked(device: torch.device) -> Iterator[None]:
    """Let work inside begin `early`: after the place in the present stream where this is entered, or after the last `mark`."""
    _marks.pop(device, None)
    if device.type == "cuda":
        _marks[device] = torch.cuda.current_stream(device).record_event()
    try:
        yield
    finally:
        _marks.pop(device, None)


def mark(device: torch.device) -> None:
    """Say that work which begins `early` had better wait for what the present stream has been given by now. Outside of `marked` nothing."""
    if device in _marks:
        _marks[device] = torch.cuda.current_stream(device).record_event()


def beside(device: torch.device, early: bool = False) -> torch.cuda.Stream | None:
    """Return the stream beside a GPU's present one; None, which `torch.cuda.stream` takes, where there are no streams.

    It has waited for all that the present stream was given so far, `early` only for what it was given before the last mark, for work
    that reads parameters alone. A graph's capture wants the present stream to wait for it in the end.
    """
    if device.type != "cuda":
        return None
    if device not in _beside:
        _beside[device] = torch.cuda.Stream(device)
    stream = _beside[device]
    if early and device in _marks:
        stream.wait_event(_marks[device])
    else:
        stream.wait_stream(torch.cuda.current_stream(device))
    return stream
