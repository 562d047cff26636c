"""One stream beside the present one on each GPU, for small work that nothing waits for at once. Torch is imported."""

import torch

_beside: dict[torch.device, torch.cuda.Stream] = {}


def beside(device: torch.device) -> torch.cuda.Stream | None:
    """Return the stream beside a GPU's present one, which has waited for it; None, which `torch.cuda.stream` takes, where there are no streams.

    A graph's capture wants the present stream to wait for it in the end.
    """
    if device.type != "cuda":
        return None
    if device not in _beside:
        _beside[device] = torch.cuda.Stream(device)
    stream = _beside[device]
    stream.wait_stream(torch.cuda.current_stream(device))
    return stream
