"""Which device works, and one forward pass at a time on it."""

from __future__ import annotations

from threading import Lock

import torch

from tasks.models.errors import ModelError


def choose_device(wanted: str) -> torch.device:
    """The device for `auto`, `cpu`, `cuda`, `cuda:1`, `mps`. Raises `ModelError` where it is not there."""
    if wanted == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(wanted)
    except RuntimeError as error:
        raise ModelError(f"There is no device {wanted!r}. Use auto, cpu, cuda, cuda:1 or mps.") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ModelError(f"There is no device {wanted}: this machine shows {torch.cuda.device_count()} CUDA devices.")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ModelError("There is no device mps on this machine.")
    return device


_locks: dict[torch.device, Lock] = {}


def device_lock(device: torch.device) -> Lock:
    """Held around each forward pass: two on one device would share its memory and gain nothing, and the hooks
    of two recordings would meet in one model."""
    # Not functools.cache: it would give two threads that ask first, at once, a lock each.
    return _locks.setdefault(device, Lock())
