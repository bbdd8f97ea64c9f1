"""Forward passes of a placed network: how many images at a time, and side by side on a CPU."""

from __future__ import annotations

import copy
import inspect
import queue
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import wait
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import partial
from threading import Lock
from typing import Any, cast

import torch
from torch import Tensor, nn

from tasks.dissection.threads import alone, start
from tasks.models.devices import Placement
from tasks.models.errors import ModelError, first_lines

#: Outputs of a network by name, each `[B, N]`.
Outputs = dict[Any, Tensor]
#: A forward pass over preprocessed images `[B, 3, H, W]`.
Forward = Callable[[Tensor], Outputs]
#: Measures the time spent inside its `with`.
Timed = Callable[[], AbstractContextManager[None]]


class Batches:
    """Forward passes of a placed network, as many images at a time as fit: halved where memory ends, tried again.

    On a CPU each pass is computed by one thread, and as many passes run side by side as the process has threads:
    the last digits of an activation would otherwise depend on the number of cores.
    """

    def __init__(self, what: str, placement: Placement) -> None:
        self.what, self.placement = what, placement
        #: The largest batch that may fit.
        self.largest = sys.maxsize

    def start(self, forward: Forward, images: Tensor, size: int, timed: Timed = nullcontext) -> Callable[[], Outputs]:
        """Begins the passes over preprocessed images `[B, 3, H, W]`; returns a function that waits for their outputs.

        These are float32 on the CPU. Each pass is made inside `timed()`. It always has `size` images, or as many as
        fit, the last one repeated where there are fewer: a short batch may be multiplied in another order, so that
        last digits would differ.
        Raises `ModelError` where one image alone does not fit, or the network does not run in this precision.
        """
        forward = partial(_timed, timed, forward)
        if self.placement.device.type != "cpu" or self.placement.compile:
            outputs = self._one_by_one(forward, images, size)
            return lambda: outputs
        fitting = min(size, self.largest)
        passes = [start(partial(_pass, forward, part, fitting)) for part in torch.split(images, fitting)]

        def finish() -> Outputs:
            try:
                return _joined([one.result() for one in passes])
            except RuntimeError as error:
                for one in passes:
                    one.cancel()
                wait(passes)  # their memory is free before smaller ones take some
                self._make_room(fitting, images, error)
                with alone():
                    return self._one_by_one(forward, images, size)

        return finish

    def _one_by_one(self, forward: Forward, images: Tensor, size: int) -> Outputs:
        parts: list[Outputs] = []
        first = 0
        while first < len(images):
            fitting = min(size, self.largest)
            part = images[first : first + fitting]
            try:
                parts.append(_pass(forward, part, fitting))
            except RuntimeError as error:  # torch's own of too little memory is one
                self._make_room(fitting, images, error)
                continue
            first += len(part)
        return _joined(parts)

    def _make_room(self, size: int, images: Tensor, error: RuntimeError) -> None:
        """Halves the batches where `error` is of too little memory, and raises what it is where not."""
        if not _is_out_of_memory(error):
            # Of torch's compiler, all errors are of kinds of its own.
            if type(error).__module__.startswith("torch."):
                raise ModelError(
                    f"The {self.what} cannot be compiled ({first_lines(error)}). Leave out --compile."
                ) from error
            if self.placement.precision == "fp32":
                raise error
            raise ModelError(
                f"The {self.what} does not run in {self.placement.precision} ({first_lines(error)}). "
                "Use --precision fp32."
            ) from error
        if size == 1:
            raise ModelError(
                f"One image of shape {list(images.shape[1:])} alone is too much for the memory of "
                f"{self.placement.device} with the {self.what} ({first_lines(error)}). Use --precision bf16, fewer "
                "layers, or another --device."
            ) from error
        self.largest = min(self.largest, -(-size // 2))
        if self.placement.device.type == "cuda":
            torch.cuda.empty_cache()


@torch.inference_mode()
def _pass(forward: Forward, part: Tensor, size: int) -> Outputs:
    """A forward pass over images that are filled up to `size`."""
    short = size - len(part)
    filled = torch.cat([part, part[-1:].expand(short, *part.shape[1:])]) if short else part
    return {name: value[: len(part)].float().cpu() for name, value in forward(filled).items()}


def _timed(timed: Timed, forward: Forward, images: Tensor) -> Outputs:
    with timed():
        return forward(images)


def _joined(parts: Sequence[Outputs]) -> Outputs:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


class Replicas:
    """Copies of a network, one for each pass that runs at the same time; they share its weights.

    Hooks, and whatever a network keeps of its inputs, belong to one pass. Where a copy would not be a network of its
    own, passes take turns with the network itself.
    """

    def __init__(self, model: nn.Module) -> None:
        self._free: queue.SimpleQueue[nn.Module] = queue.SimpleQueue()
        #: What copies are made of, and no pass uses; None where passes take turns.
        self._model: nn.Module | None = model
        self._lock = Lock()
        if _holds_closures(model):
            self._take_turns(model)

    @contextmanager
    def one(self) -> Iterator[nn.Module]:
        """A copy that no other pass uses inside the `with`."""
        model = self._taken()
        try:
            yield model
        finally:
            self._free.put(model)

    def _taken(self) -> nn.Module:
        with suppress(queue.Empty):
            return self._free.get_nowait()
        with self._lock:
            if self._model is not None:
                try:
                    shared = {id(weight): weight for weight in self._model.parameters()}
                    return copy.deepcopy(self._model, cast(dict[int, Any], shared))
                except Exception:  # whatever a module raises that cannot be copied
                    self._take_turns(self._model)
        return self._free.get()

    def _take_turns(self, model: nn.Module) -> None:
        self._model = None
        self._free.put(model)


def _holds_closures(model: nn.Module) -> bool:
    """True if a module has hooks or functions of its own that may refer to the network: a copy would share them."""
    return any(
        module._forward_hooks
        or module._forward_pre_hooks
        or any(inspect.isfunction(value) and value.__closure__ for value in vars(module).values())
        for module in model.modules()
    )


def _is_out_of_memory(error: RuntimeError) -> bool:
    # The CPU's allocator and MPS say it in a RuntimeError of no kind of its own.
    said = str(error)
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in said or "can't allocate memory" in said
