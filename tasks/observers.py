"""What looks at preprocessed images: a CLIP model that embeds them, a network whose layers are recorded."""

from __future__ import annotations

from typing import ClassVar, Protocol, cast

import torch
from torch import Tensor

from storage.completion import Rows
from storage.errors import EmbeddingsError
from storage.identity import Identity
from tasks.models.clip import PlacedClip, load_clip
from tasks.models.devices import Placement, placed
from tasks.models.errors import ModelError
from tasks.models.preprocess import Preprocess
from tasks.models.targets import PlacedTarget, load_target
from tasks.observation import Missing, ObservationPlan
from tasks.precomputed import ImageEmbeddingsFile
from tasks.writing import EMBEDDED, Blocks


class Observer(Protocol):
    """A model that images are shown to."""

    @property
    def preprocess(self) -> Preprocess:
        """What makes its inputs."""

    def place(self, device: torch.device) -> None:
        """Puts it on a device that the caller holds."""

    def observe(self, missing: Missing, images: Tensor, batch_size: int) -> Blocks:
        """What a shard group lacks of preprocessed images `[B, 3, H, W]`, `batch_size` at a time."""


class Embedder:
    """The CLIP model of a plan. Raises `ModelError` where this process loads another than was planned with."""

    name: ClassVar[str] = "embedding"

    def __init__(self, plan: ObservationPlan) -> None:
        assert plan.embed is not None and plan.embed.clip is not None and plan.embeddings is not None
        self._spec, planned = plan.embed, plan.embeddings.identity
        self._clip = load_clip(plan.embed.clip, plan.embed.clip_checkpoint)
        if not _is_planned(self._clip.identity, planned):
            load_clip.cache_clear()
            self._clip = load_clip(plan.embed.clip, plan.embed.clip_checkpoint)
            _refuse_unplanned(self._clip.identity, planned, f"CLIP model {self._clip.name}")
        self.preprocess = self._clip.preprocess

    def place(self, device: torch.device) -> None:
        """See `Observer`."""
        self._placed = placed(PlacedClip, self._clip, Placement.of(self._spec, device))

    def observe(self, missing: Missing, images: Tensor, batch_size: int) -> Blocks:
        """See `Observer`."""
        del missing  # it lacks embeddings
        return {EMBEDDED: self._placed.embed_images(images, batch_size)}


class Recorder:
    """The network of a plan. Raises `ModelError` where this process loads another than was planned with."""

    name: ClassVar[str] = "recording"

    def __init__(self, plan: ObservationPlan) -> None:
        assert plan.record is not None
        self._spec, self._of = plan.record, plan.activations
        identities = [of.identity for of in plan.activations.values()]
        self._target = load_target(plan.record.target, plan.record.checkpoint)
        if not all(_is_planned(self._target.identity, planned) for planned in identities):
            load_target.cache_clear()
            self._target = load_target(plan.record.target, plan.record.checkpoint)
            _refuse_unplanned(self._target.identity, identities[0], f"network {self._target.name}")
        self.preprocess = self._target.preprocess

    def place(self, device: torch.device) -> None:
        """See `Observer`."""
        self._placed = placed(PlacedTarget, self._target, Placement.of(self._spec, device))

    def observe(self, missing: Missing, images: Tensor, batch_size: int) -> Blocks:
        """See `Observer`."""
        layouts = {
            summary: {layer: of.layouts[layer] for name, layer in missing.activations if name == summary}
            for summary, of in self._of.items()
        }
        return cast(Blocks, self._placed.record(layouts, images, batch_size))


def precomputed(plan: ObservationPlan, rows: Rows) -> Tensor:
    """Unit embeddings `[len(rows), D]` from the file that holds them."""
    assert plan.embed is not None and plan.embed.image_embeddings is not None and plan.embeddings is not None
    file = ImageEmbeddingsFile.at(plan.embed.image_embeddings)
    if plan.embeddings.identity["precomputed"] != file.digest():
        raise EmbeddingsError(f"{file.url} or its keys have changed since the run began. Run again.")
    return torch.from_numpy(file.rows(plan.probe.rows(rows)["path"].tolist()))


def _is_planned(loaded: Identity, planned: Identity) -> bool:
    return all(planned[name] == value for name, value in loaded.items())


def _refuse_unplanned(loaded: Identity, planned: Identity, what: str) -> None:
    """A worker that outlives runs may hold what a file held before, and one elsewhere may have another file."""
    if not _is_planned(loaded, planned):
        other = ", ".join(name for name, value in loaded.items() if planned[name] != value)
        raise ModelError(
            f"A worker loads another {what} than the run was planned with (different: {other}). Give all machines "
            "the same files, restart the workers where code has changed, and run again."
        )
