"""Which devices work, one task at a time on each, and how networks compute there."""

from __future__ import annotations

import copy
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from storage.leases import FileLease
from tasks.models.errors import ModelError
from tasks.parameters import EngineSpec, Precision

#: Data types of networks by precision.
DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
#: Images that are decoded, and that GPUs take, at a time where the user does not say.
IMAGES_PER_BATCH = {"cuda": 256, "mps": 64, "cpu": 64}
#: Pixels of a pass on a CPU. Of so many, the first layers of usual networks give arrays below the 32 MiB from which
#: on glibc asks the system for each array's memory anew: a ResNet-50 then takes half the time.
PIXELS_PER_PASS = 8 * 224 * 224

#: How long a task sleeps before it asks again whether a device is free.
SECONDS_BETWEEN_ASKING = 0.02


def choose_devices(wanted: str) -> tuple[torch.device, ...]:
    """The devices for `auto` (all GPUs, or the CPU), `cpu`, `cuda` (all of them), `cuda:1`, `cuda:0,1`, `mps`.

    Raises `ModelError` where one is not there.
    """
    num_cuda = len(cuda_devices())
    if wanted == "auto":
        wanted = "cuda" if num_cuda else "mps" if torch.backends.mps.is_available() else "cpu"
    kind, colon, numbers = wanted.partition(":")
    indices = numbers.split(",") if colon else []
    if kind not in ("cpu", "cuda", "mps") or (colon and kind != "cuda") or not all(map(str.isdecimal, indices)):
        raise ModelError(f"There is no device {wanted!r}. Use auto, cpu, cuda, cuda:1, cuda:0,1 or mps.")
    if kind == "cuda":
        chosen = sorted({int(index) for index in indices} if colon else range(num_cuda))
        if not chosen or chosen[-1] >= num_cuda:
            raise ModelError(f"There is no device {wanted}: this machine shows {num_cuda} CUDA devices.")
        return tuple(torch.device("cuda", index) for index in chosen)
    if kind == "mps" and not torch.backends.mps.is_available():
        raise ModelError("There is no device mps on this machine.")
    return (torch.device(kind),)


def images_per_pass(device: torch.device, images: Tensor, most: int) -> int:
    """How many of preprocessed images `[B, 3, H, W]` a device takes at a time where the user does not say."""
    if device.type != "cpu":
        return most
    return max(1, min(most, PIXELS_PER_PASS // images[0, 0].numel()))


def cuda_devices() -> tuple[torch.device, ...]:
    """The GPUs of this machine."""
    num_cuda = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return tuple(torch.device("cuda", index) for index in range(num_cuda))


@contextmanager
def held_device(
    wanted: str, *, shared: bool = False, asks: Callable[[], None] = lambda: None
) -> Iterator[torch.device]:
    """The first of the wanted devices that is free, which nobody else has inside the `with`.

    Two tasks on one device would share its memory and gain nothing, and the hooks of two recordings would meet in
    one model. A GPU is held among all processes of the machine, unless it is `shared` with those of other runs;
    another device among the threads of this one. The kernel frees it at once, even after `kill -9`, and it says which
    GPU is free: a limit of Prefect's, which counts those of a fleet, does neither.
    `asks` is called as long as none is free, and may raise.
    """
    devices = choose_devices(wanted)
    while True:
        for device in devices:
            with _held_if_free(device, shared) as is_ours:
                if is_ours:
                    yield device
                    return
        asks()
        time.sleep(SECONDS_BETWEEN_ASKING)


def check_devices(wanted: str, shared: bool) -> None:
    """Raises `ModelError` where one of the wanted devices is not there, or cannot be held."""
    for device in choose_devices(wanted):
        with _held_if_free(device, shared):
            pass


@contextmanager
def _held_if_free(device: torch.device, shared: bool = False) -> Iterator[bool]:
    # Not functools.cache: it would give two threads that ask first, at once, a lock each.
    lock = _locks.setdefault(device, Lock())
    if not lock.acquire(blocking=False):
        yield False
        return
    try:
        if device.type != "cuda" or shared:
            yield True
            return
        lease = _lease(device)
        try:
            yield lease is not None
        finally:
            if lease:
                lease.release()
    finally:
        lock.release()


_locks: dict[torch.device, Lock] = {}


def _lease(device: torch.device) -> FileLease | None:
    # A file for each GPU and user, by its UUID: processes may see GPUs under other numbers (CUDA_VISIBLE_DEVICES).
    uuid = torch.cuda.get_device_properties(device).uuid
    path = Path(tempfile.gettempdir()) / f"clip-dissect-{os.getuid()}-{uuid}.lock"
    try:
        return FileLease.take(path)
    except (OSError, NotImplementedError) as error:
        raise ModelError(
            f"{device} is held by a lock on {path}, which cannot be had ({error}). Set TMPDIR to a folder of this "
            "machine that all its runs can write to, or share GPUs with other runs (--share-devices)."
        ) from error


@dataclass(frozen=True)
class Placement:
    """Where and how a network computes."""

    device: torch.device
    precision: Precision = "fp32"
    #: Maps are kept pixel by pixel, which convolutions of GPUs are fastest with.
    channels_last: bool = False
    #: Networks are compiled before they run.
    compile: bool = False

    @classmethod
    def of(cls, spec: EngineSpec, device: torch.device) -> Placement:
        """What a spec asks for, on a device."""
        return cls(device, spec.precision, spec.channels_last, spec.compile)

    def place(self, model: nn.Module) -> nn.Module:
        """A network of the CPU in float32 as it is used here: itself where nothing is to be changed, else a copy."""
        if self.device.type == "cuda" and self.precision == "fp32":
            # TensorFloat-32 keeps 10 bits of 23, and results would depend on the batch size beyond the fifth digit.
            torch.backends.cudnn.allow_tf32 = False
        if self == Placement(torch.device("cpu")):
            return model
        placed = copy.deepcopy(model)
        if self.precision != "fp32":
            placed = placed.to(DTYPES[self.precision])
        if self.channels_last:
            # Not .to(memory_format=...), which refuses the five-dimensional weights of video networks.
            for module in placed.modules():
                if isinstance(module, nn.Conv2d):
                    module.to(memory_format=torch.channels_last)
        return placed.to(self.device)

    def inputs(self, images: Tensor) -> Tensor:
        """Preprocessed images `[B, 3, H, W]` as the network here takes them."""
        images = images.to(self.device, DTYPES[self.precision], non_blocking=True)
        return images.contiguous(memory_format=torch.channels_last) if self.channels_last else images


class Placed(Protocol):
    """A model on a device."""

    def __init__(self, source: Any, placement: Placement) -> None: ...

    def stands_for(self, source: Any, placement: Placement) -> bool:
        """Whether it is just this."""


PlacedT = TypeVar("PlacedT", bound=Placed)
_placed: dict[tuple[type[Placed], torch.device], Any] = {}


def placed(kind: type[PlacedT], source: Any, placement: Placement) -> PlacedT:
    """A model on a device that the caller holds, put there once; it takes the place of another of its kind."""
    key = kind, placement.device
    found: PlacedT | None = _placed.get(key)
    if found is None or not found.stands_for(source, placement):
        found = None
        _placed.pop(key, None)  # its memory is free before the next one takes some
        found = _placed[key] = kind(source, placement)
    return found
