"""What models give, on its way into the store: whole Zarr shards, then the marker of the shard group."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from storage import arrays
from storage.completion import Completion, Rows, rows_per_shard, steps
from storage.files import Written
from storage.layer_arrays import array_name
from tasks import summaries
from tasks.dissection.errors import LayerError
from tasks.dissection.threads import stay_alone
from tasks.feed import Clock
from tasks.models.targets import Recorded
from tasks.observation import EMBEDDINGS, ActivationsRef, EmbeddingsRef, Missing, ObservationPlan
from tasks.shard import ProbeRef

#: Name of a block of embeddings; activations are named by summary function and layer.
EMBEDDED = "embeddings"
#: Blocks `[B, D]` and `[B, N]` of the same images, by name.
Blocks = dict[str | Recorded, Tensor]
#: Images with an ignored activation that a marker lists; all of them are counted.
MOST_IGNORED_LISTED = 100
#: Largest value of float16.
LARGEST_HALF = torch.finfo(torch.float16).max


class Writer:
    """Writes blocks in a thread of its own, so that a device need not wait; inside its `with`.

    At most one shard group waits while the next is being filled. What goes wrong is raised by a later call, or at
    the end.
    """

    def __init__(self, plan: ObservationPlan, clock: Clock) -> None:
        self._plan, self._clock = plan, clock
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="writer", initializer=stay_alone)
        self._waiting: deque[Future[None]] = deque()
        self._arrays: dict[str | Recorded, _Array] = {}
        self._has_failed = False
        #: The clock when the last shard group was complete.
        self._before: dict[str, float] = {}

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=error is not None)
        while self._waiting and error is None:
            self._waiting.popleft().result()

    def add(self, missing: Missing, rows: Rows, blocks: Mapping[str | Recorded, Tensor]) -> None:
        """Takes in blocks of some rows of a shard group, which come in order; after the last the group is marked."""
        for name, block in blocks.items():
            if rows.start == missing.rows.start:
                self._arrays[name] = self._array(name, missing.rows)
            for write in self._arrays[name].add(block):
                self._submit(write, len(blocks))
        if rows.stop == missing.rows.stop:
            seconds = self._since_before()
            for name in blocks:
                own = seconds["embedding"] if name == EMBEDDED else seconds["recording"] / _num_recorded(blocks)
                facts = {stage: seconds[stage] / len(blocks) for stage in ("reading", "decoding")}
                self._submit(partial(self._arrays.pop(name).finish, facts | {"inferring": own}), len(blocks))

    def _array(self, name: str | Recorded, rows: Rows) -> _Array:
        if isinstance(name, str):
            assert self._plan.embeddings is not None
            return _Embeddings(self._plan.probe, self._plan.embeddings, rows)
        summary, layer = name
        return _Activations(self._plan.probe, self._plan.activations[summary], layer, rows)

    def _submit(self, write: Callable[[], None], num_arrays: int) -> None:
        def timed() -> None:
            if self._has_failed:
                return  # or a shard group would be marked of which something is not written
            try:
                with self._clock.timed("writing"):
                    write()
            except BaseException:
                self._has_failed = True
                raise

        while len(self._waiting) >= 2 * num_arrays:  # of each array a block, and its end
            self._waiting.popleft().result()
        self._waiting.append(self._pool.submit(timed))

    def _since_before(self) -> dict[str, float]:
        now = dict(self._clock.seconds)
        names = "reading", "decoding", "embedding", "recording"
        since = {name: now.get(name, 0.0) - self._before.get(name, 0.0) for name in names}
        self._before = now
        return since


def _num_recorded(blocks: Mapping[str | Recorded, Tensor]) -> int:
    return sum(name != EMBEDDED for name in blocks)


class _Array:
    """A shard group of one array, filled a batch at a time, written a Zarr shard at a time."""

    def __init__(self, probe: ProbeRef, rows: Rows, columns: int) -> None:
        self.probe, self.rows = probe, rows
        self._shards = iter(steps(rows, rows_per_shard(probe.num_images, columns)))
        self._shard, self._filled = Rows(rows.start, rows.start), 0
        self._block = torch.empty(0, columns)
        self._seconds = 0.0
        #: What the marker vouches for.
        self.files: list[Written] = []

    def add(self, block: Tensor) -> Iterator[Callable[[], None]]:
        """Takes in the next rows `[b, columns]`; gives what there is to write."""
        while len(block):
            if self._filled == len(self._shard):
                self._shard, self._filled = next(self._shards), 0
                self._block = torch.empty(len(self._shard), block.shape[1])
            taken = block[: len(self._shard) - self._filled]
            self._block[self._filled : self._filled + len(taken)] = taken
            self._filled += len(taken)
            block = block[len(taken) :]
            if self._filled == len(self._shard):
                yield partial(self._timed, partial(self.write, self._shard, self._block))

    def finish(self, seconds: Mapping[str, float]) -> None:
        """Marks the shard group; `seconds` is what its time went into before it was written."""
        self._timed(self.complete)
        facts = {"num_images": len(self.rows), "seconds": {**seconds, "writing": self._seconds}}
        self.markers().mark(self.rows.name, facts | self.facts(), self.files)

    def _timed(self, write: Callable[[], None]) -> None:
        started = time.perf_counter()
        write()
        self._seconds += time.perf_counter() - started

    def write(self, rows: Rows, block: Tensor) -> None:
        """Writes a Zarr shard `[rows, columns]`."""
        raise NotImplementedError

    def complete(self) -> None:
        """Writes what belongs to the whole shard group."""

    def markers(self) -> Completion:
        """Where the shard group is marked."""
        raise NotImplementedError

    def facts(self) -> dict[str, Any]:
        """What else the marker says."""
        return {}


class _Embeddings(_Array):
    def __init__(self, probe: ProbeRef, ref: EmbeddingsRef, rows: Rows) -> None:
        super().__init__(probe, rows, ref.num_dimensions)
        self._ref = ref

    def write(self, rows: Rows, block: Tensor) -> None:
        bad = (~block.isfinite()).any(dim=1).nonzero()
        if len(bad):
            path = self.probe.rows(rows)["path"].iloc[int(bad[0])]
            raise LayerError(
                f"The CLIP model gives NaN or infinite values on {len(bad)} of {len(rows)} images (first: {path}). "
                "Check its weights and preprocessing, or use --precision fp32."
            )
        group = self._ref.group()
        self.files += arrays.write_rows(group, EMBEDDINGS, rows, block.numpy())

    def complete(self) -> None:
        self.files += arrays.metadata(self._ref.group(), EMBEDDINGS)

    def markers(self) -> Completion:
        return self._ref.done()


class _Activations(_Array):
    def __init__(self, probe: ProbeRef, ref: ActivationsRef, layer: str, rows: Rows) -> None:
        super().__init__(probe, rows, ref.num_neurons[layer])
        self._ref, self._layer, self._kept = ref, layer, summaries.Kept()
        self._num_ignored = 0
        self._ignored: list[int] = []

    def write(self, rows: Rows, block: Tensor) -> None:
        self._ignore_non_finite(rows, block)
        if self._ref.kept == "float16":
            block = self._halved(block)
        self._kept.add(block.float(), rows.start)
        if self._ref.kept != "top":
            group = self._ref.group()
            self.files += arrays.write_rows(group, array_name(group, self._layer), rows, block.numpy())

    def _ignore_non_finite(self, rows: Rows, block: Tensor) -> None:
        """Puts -inf for what is not finite: NaN would say that a row was lost.

        Raises `LayerError` where nothing is finite: that is no image's fault.
        """
        bad = ~block.isfinite()
        if bad.all() and len(rows) > 1:
            raise LayerError(
                f"Layer {self._layer!r} gives NaN or infinite values on all of {rows} for all of its neurons. "
                "Check the network's weights and preprocessing, or use --precision fp32."
            )
        block[bad] = -torch.inf
        self._num_ignored += int(bad.sum())
        self._ignored += (bad.any(dim=1).nonzero().squeeze(1) + rows.start).tolist()

    def _halved(self, block: Tensor) -> Tensor:
        largest = float(block.masked_fill(block.isinf(), 0).abs().max())
        if largest > LARGEST_HALF:
            raise LayerError(
                f"Layer {self._layer!r} has activations up to {largest:,.0f}, and float16 ends at "
                f"{LARGEST_HALF:,.0f}. Use --activations float32 or top."
            )
        return block.half()

    def complete(self) -> None:
        of = self._ref
        self.files += summaries.write(of.summaries(), self._layer, self.probe.num_images, self.rows, self._kept)
        if of.kept != "top":
            group = of.group()
            self.files += arrays.metadata(group, array_name(group, self._layer))

    def markers(self) -> Completion:
        return self._ref.done(self._layer)

    def facts(self) -> dict[str, Any]:
        return {"ignored": {"activations": self._num_ignored, "images": self._ignored[:MOST_IGNORED_LISTED]}}
