"""Some of a probe set's images: what was recorded and embedded of them, a shard group at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from storage.completion import Rows
from tasks import recorded
from tasks.labelling import LabelPlan
from tasks.observation import ActivationsRef


@dataclass(frozen=True)
class Chosen:
    """Images by their rows `[H]` of the probe set, rising."""

    rows: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    @classmethod
    def all(cls, num_images: int) -> Chosen:
        """Every image."""
        return cls(torch.arange(num_images))

    def within(self, rows: Rows) -> Tensor:
        """Which rows of a range are chosen, counted from its start."""
        first, last = torch.searchsorted(self.rows, torch.tensor([rows.start, rows.stop]))
        return self.rows[first:last] - rows.start

    def shuffled(self, seed: int) -> Tensor:
        """The rows `[H]` in another order."""
        return self.rows[torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))]


def activations_of(
    ref: ActivationsRef, num_images: int, layer: str, chosen: Chosen, neurons: Rows
) -> Iterator[Tensor]:
    """Activations `[b, n]` on the images chosen, a shard group that has some at a time.

    Raises `ArrayError` where they are damaged or lost.
    """
    for rows, block in recorded.activations(ref, num_images, layer, slice(neurons.start, neurons.stop)):
        here = chosen.within(rows)
        if len(here):
            yield block if len(here) == len(block) else block[here]


def both(plan: LabelPlan, layer: str, chosen: Chosen, neurons: Rows) -> Iterator[tuple[Tensor, Tensor]]:
    """Embeddings `[b, D]` and activations `[b, n]` of the images chosen. Raises as `activations_of` does."""
    num_images = plan.probe.num_images
    embeddings = recorded.embeddings(plan.embeddings, num_images, chosen.rows)
    return zip(embeddings, activations_of(plan.activations, num_images, layer, chosen, neurons), strict=True)
