"""One stream beside the present one on each GPU, for small work that nothing waits for at once. Torch is imported."""

import os

import torch

_beside: dict[torch.device, torch.cuda.Stream] = {}
_marks: dict[torch.device, torch.cuda.Event] = {}


def mark(device: torch.device) -> None:
    """Let what is begun `early` wait for what the present stream has been given by now, and for nothing that comes later."""
    if device.type == "cuda":
        _marks[device] = torch.cuda.current_stream(device).record_event()


def beside(device: torch.device, early: bool = False) -> torch.cuda.Stream | None:
    """Return the stream beside a GPU's present one, which has waited for it, `early` only up to the last `mark`; None where there are no streams.

    A graph's capture wants the present stream to wait for it in the end.
    """
    if device.type != "cuda":
        return None
    if device not in _beside:
        _beside[device] = torch.cuda.Stream(device, priority=int(os.environ.get("TRY_PRIORITY", "0")))
    stream = _beside[device]
    if early and device in _marks and os.environ.get("TRY_EARLY", "1") == "1":
        stream.wait_event(_marks[device])
    else:
        stream.wait_stream(torch.cuda.current_stream(device))
    return stream
