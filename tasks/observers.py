"""What looks at preprocessed images: a CLIP model that embeds them, a network whose layers are recorded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Protocol, cast

import torch
from torch import Tensor

from storage.completion import Rows
from storage.errors import EmbeddingsError
from storage.identity import Identity
from tasks.models.batches import Timed
from tasks.models.clip import Clip, PlacedClip, load_clip
from tasks.models.devices import Placement, placed
from tasks.models.errors import ModelError
from tasks.models.preprocess import Preprocess
from tasks.models.targets import PlacedTarget, Target, load_target
from tasks.observation import Missing, ObservationPlan
from tasks.precomputed import ImageEmbeddingsFile
from tasks.writing import EMBEDDED, Blocks

#: Waits for blocks of images that models look at.
Observed = Callable[[], Blocks]


class Observer(Protocol):
    """A model that images are shown to."""

    @property
    def preprocess(self) -> Preprocess:
        """What makes its inputs."""

    def place(self, device: torch.device) -> None:
        """Puts it on a device that the caller holds."""

    def observe(self, missing: Missing, images: Tensor, batch_size: int, timed: Timed) -> Observed:
        """Begins to look at preprocessed images `[B, 3, H, W]`, `batch_size` at a time, for what a shard group lacks.

        Each forward pass is made inside `timed()`.
        """


class Embedder:
    """The CLIP model of a plan. Raises `ModelError` where this process loads another than was planned with."""

    name: ClassVar[str] = "embedding"

    def __init__(self, plan: ObservationPlan) -> None:
        assert plan.embed is not None and plan.embed.clip is not None and plan.embeddings is not None
        self._spec, named = plan.embed, (plan.embed.clip, plan.embed.clip_checkpoint)
        self._clip: Clip = _as_planned(load_clip, named, plan.embeddings.identity, "CLIP model")
        self.preprocess = self._clip.preprocess

    def place(self, device: torch.device) -> None:
        """See `Observer`."""
        self._placed = placed(PlacedClip, self._clip, Placement.of(self._spec, device))

    def observe(self, missing: Missing, images: Tensor, batch_size: int, timed: Timed) -> Observed:
        """See `Observer`."""
        del missing  # it lacks embeddings
        finish = self._placed.embed_images(images, batch_size, timed)
        return lambda: {EMBEDDED: finish()}


class Recorder:
    """The network of a plan. Raises `ModelError` where this process loads another than was planned with."""

    name: ClassVar[str] = "recording"

    def __init__(self, plan: ObservationPlan) -> None:
        assert plan.record is not None
        self._spec, self._of = plan.record, plan.activations
        # Of the network, recordings of one plan say the same.
        planned = next(iter(self._of.values())).identity
        self._target: Target = _as_planned(load_target, plan.record.network, planned, "network")
        self.preprocess = self._target.preprocess

    def place(self, device: torch.device) -> None:
        """See `Observer`."""
        self._placed = placed(PlacedTarget, self._target, Placement.of(self._spec, device))

    def observe(self, missing: Missing, images: Tensor, batch_size: int, timed: Timed) -> Observed:
        """See `Observer`."""
        layouts = {
            summary: {layer: of.layouts[layer] for name, layer in missing.activations if name == summary}
            for summary, of in self._of.items()
        }
        return cast(Observed, self._placed.record(layouts, images, batch_size, timed))


def precomputed(plan: ObservationPlan, rows: Rows) -> Tensor:
    """Unit embeddings `[len(rows), D]` from the file that holds them."""
    assert plan.embed is not None and plan.embed.image_embeddings is not None and plan.embeddings is not None
    file = ImageEmbeddingsFile.at(plan.embed.image_embeddings)
    if plan.embeddings.identity["precomputed"] != file.digest():
        raise EmbeddingsError(f"{file.url} or its keys have changed since the run began. Run again.")
    return torch.from_numpy(file.rows(plan.probe.rows(rows)["path"].tolist()))


def _as_planned(load: Any, named: tuple[str | None, ...], planned: Identity, what: str) -> Any:
    """The model that `load` gives, which a run was planned with.

    A worker that outlives runs may hold what a file held before: it loads once more. One elsewhere may have another
    file: that raises `ModelError`.
    """
    loaded = load(*named)
    if _differing(loaded.identity, planned):
        load.cache_clear()
        loaded = load(*named)
    if other := _differing(loaded.identity, planned):
        raise ModelError(
            f"A worker loads another {what} {named[0]} than the run was planned with (different: {', '.join(other)}"
            "). Give all machines the same files and versions of libraries, restart the workers where code has "
            "changed, and run again. If this happens again, the network keeps something that is another each time it "
            "is built, such as the time: leave that out of its attributes."
        )
    return loaded


def _differing(loaded: Identity, planned: Identity) -> list[str]:
    return [name for name, value in loaded.items() if planned[name] != value]
