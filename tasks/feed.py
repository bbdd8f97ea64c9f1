"""Images on their way to the models: read, decoded and preprocessed ahead, once for all models that take them."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from types import TracebackType

import torch
from PIL.Image import Image
from torch import Tensor

from storage.completion import Rows, steps
from storage.errors import ShardError
from storage.shards import read_images
from tasks.dissection.threads import stay_alone
from tasks.images import UndecodableError, decode
from tasks.models.errors import ModelError, first_lines
from tasks.models.preprocess import Preprocess
from tasks.shard import ProbeRef

#: Batches being decoded while one waits to be taken: enough that all cores always have an image.
BATCHES_AHEAD = 2
#: How long a thread waits before it looks whether it is still wanted.
SECONDS_BETWEEN_LOOKS = 0.2
#: Images that a message names at most.
NAMED = 3
#: The way out, for an image that a preprocessing does not take: a row of a finished probe set stays a row.
LEAVE_OUT = (
    "Let the preprocessing take every image, or leave these out and run again: move them out of the folder, or give "
    "--probe a .csv list with a column `path` that does not name them."
)


@dataclass(frozen=True)
class Wanted:
    """A range of images and the models that take them."""

    rows: Rows
    models: tuple[str, ...]


@dataclass(frozen=True)
class Batch:
    """Preprocessed images of some rows: `[B, 3, H, W]` by model."""

    rows: Rows
    inputs: dict[str, Tensor]


@dataclass
class Clock:
    """Seconds by what they went into, summed over threads."""

    seconds: dict[str, float] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """The time inside the `with` went into `what`."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.add(what, time.perf_counter() - started)

    def add(self, what: str, seconds: float) -> None:
        """So many more seconds went into `what`."""
        with self._lock:
            self.seconds[what] = self.seconds.get(what, 0.0) + seconds


class _FailedError(Exception):
    """An image that cannot be decoded any more, or that a model's preprocessing does not take."""

    def __init__(self, model: str | None, error: BaseException) -> None:
        super().__init__(f"{type(error).__name__}: {first_lines(error)}" if model else str(error))
        #: The model; None where decoding failed.
        self.model = model


class Feed:
    """Inside its `with`, gives batches in the order wanted, while those that follow are read and decoded.

    `enough` is that of `decode`. Raises `ShardError` where images are not what the index says, `ModelError` where a
    preprocessing fails or gives inputs of different shapes; both name the images.
    """

    def __init__(
        self,
        probe: ProbeRef,
        wanted: Sequence[Wanted],
        preprocess: Mapping[str, Preprocess],
        batch_size: int,
        clock: Clock,
        *,
        enough: int | None = None,
        pinned: bool = False,
    ) -> None:
        self._probe, self._wanted, self._preprocess, self._clock = probe, wanted, preprocess, clock
        self._batch_size, self._enough, self._pinned = batch_size, enough, pinned
        self._ready: queue.Queue[Batch | BaseException | None] = queue.Queue(maxsize=1)
        self._unwanted = threading.Event()
        self._thread = threading.Thread(target=self._work, name="feed", daemon=True)

    def __enter__(self) -> Feed:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._unwanted.set()
        self._thread.join()

    def __iter__(self) -> Iterator[Batch]:
        while True:
            with self._clock.timed("waiting"):
                found = self._ready.get()
            if found is None:
                return
            if isinstance(found, BaseException):
                raise found
            yield found

    def _work(self) -> None:
        try:
            decoding: deque[tuple[Wanted, list[Future[list[Tensor]]]]] = deque()
            for wanted, images in self._read():
                jobs = [_pool().submit(self._decoded, data, wanted.models) for data in images]
                decoding.append((wanted, jobs))
                if len(decoding) > BATCHES_AHEAD and not self._put(self._collated(*decoding.popleft())):
                    return
            while decoding:
                if not self._put(self._collated(*decoding.popleft())):
                    return
            self._put(None)
        except BaseException as error:  # whoever takes the batches is told
            self._put(error)

    def _put(self, item: Batch | BaseException | None) -> bool:
        """Whether it was taken before nobody wanted it any more."""
        while not self._unwanted.is_set():
            try:
                self._ready.put(item, timeout=SECONDS_BETWEEN_LOOKS)
            except queue.Full:
                continue
            return True
        return False

    def _read(self) -> Iterator[tuple[Wanted, list[bytes]]]:
        """Bytes of the images, a batch at a time."""
        for wanted in self._wanted:
            images = read_images(self._probe.folder, self._probe.rows(wanted.rows))
            for rows in steps(wanted.rows, self._batch_size):
                with self._clock.timed("reading"):
                    batch = [data for _, (_, data) in zip(range(len(rows)), images, strict=False)]
                yield Wanted(rows, wanted.models), batch

    def _decoded(self, data: bytes, models: Sequence[str]) -> list[Tensor]:
        """An image as each of the models takes it."""
        if self._unwanted.is_set():
            return []
        with self._clock.timed("decoding"):
            try:
                image = decode(data, self._enough)
            except UndecodableError as error:
                raise _FailedError(None, error) from error
            return [self._preprocessed(model, image) for model in models]

    def _preprocessed(self, model: str, image: Image) -> Tensor:
        try:
            found = self._preprocess[model](image)
            if not isinstance(found, Tensor):
                raise TypeError(f"it gives a {type(found).__name__}, and a network takes a tensor")
            return found
        except Exception as error:  # the user's own code, or what a library says of one image
            raise _FailedError(model, error) from error

    def _collated(self, wanted: Wanted, jobs: Sequence[Future[list[Tensor]]]) -> Batch:
        failed = {wanted.rows.start + i: error for i, job in enumerate(jobs) if (error := job.exception())}
        if failed:
            raise self._in_words(failed, len(jobs))
        images = [job.result() for job in jobs]
        inputs = {}
        for number, model in enumerate(wanted.models):
            inputs[model] = self._stacked([image[number] for image in images], model, wanted.rows)
            if self._pinned:
                inputs[model] = inputs[model].pin_memory()  # or the GPU would wait for the copy
        return Batch(wanted.rows, inputs)

    def _in_words(self, failed: Mapping[int, BaseException], num_images: int) -> BaseException:
        """The error that names the images, by row, that failed as the first of them did."""
        first = next(iter(failed.values()))
        if not isinstance(first, _FailedError):
            return first
        rows = [
            row for row, error in failed.items() if isinstance(error, _FailedError) and error.model == first.model
        ]
        names = self._names(rows[:NAMED])
        said = "; ".join(f"{name}: {failed[row]}" for row, name in zip(rows, names, strict=False))
        more = f"; and {len(rows) - NAMED} more" if len(rows) > NAMED else ""
        error: Exception
        if first.model is None:
            error = ShardError(
                f"{len(rows)} of {num_images} images could be decoded when they were sharded and now cannot: "
                f"{said}{more}. Use the version of Pillow that sharded them, or remove "
                f"{self._probe.folder.url} and run again."
            )
        else:
            error = ModelError(
                f"{self._called(first.model)} fails on {len(rows)} of the {num_images} images of a batch: "
                f"{said}{more}. {LEAVE_OUT}"
            )
        error.__cause__ = first.__cause__
        return error

    def _stacked(self, images: list[Tensor], model: str, rows: Rows) -> Tensor:
        shapes = [tuple(image.shape) for image in images]
        if len(kinds := set(shapes)) == 1:
            return torch.stack(images)
        other = next(number for number, shape in enumerate(shapes) if shape != shapes[0])
        first, second = self._names([rows.start, rows.start + other])
        raise ModelError(
            f"{self._called(model)} gives inputs of {len(kinds)} shapes, and a batch has one: {shapes[0]} of {first} "
            f"and {shapes[other]} of {second}. Let it resize or crop, or give images of one size."
        )

    def _called(self, model: str) -> str:
        preprocess = self._preprocess[model]
        return f"The preprocessing for {model} ({getattr(preprocess, '__name__', type(preprocess).__name__)})"

    def _names(self, rows: Sequence[int]) -> list[str]:
        """What images are called, by their rows, with their sizes."""
        found = self._probe.chosen(rows).itertuples()
        return [f"{image.path} ({image.width} x {image.height} pixels)" for image in found]


@cache
def _pool() -> ThreadPoolExecutor:
    """Threads that decode and preprocess: Pillow works outside the interpreter's lock for most of it."""
    return ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="decode", initializer=stay_alone)
