"""Labelling a layer by panels of concepts: exact, in the memory given."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from tasks.dissection.labels import Labels
from tasks.dissection.scorers import Scored, Scorer

#: A panel is a multiple of this wide, the kernel's tile.
NARROWEST = 64


@dataclass(frozen=True)
class Labelled:
    """Best labels of every neuron among some concepts; similarity of the best of each null neuron `[S]`."""

    labels: Labels
    null_best: Tensor
    #: `[N, C]`, where they are kept.
    similarities: Tensor | None = None

    def merge(self, other: Labelled, num_ranks: int) -> Labelled:
        """The best of both, which are of the same neurons and of different concepts."""
        labels = self.labels.merge(other.labels, num_ranks)
        return Labelled(labels, torch.maximum(self.null_best, other.null_best))

    def beside(self, other: Labelled) -> Labelled:
        """Both, which are of different neurons."""
        return Labelled(self.labels.beside(other.labels), torch.cat([self.null_best, other.null_best]))


def label(
    scorer: Scorer,
    concepts: Tensor,
    num_ranks: int,
    memory: int,
    *,
    first_concept: int = 0,
    is_repeated: Tensor | None = None,
    keep: bool = False,
) -> Labelled:
    """The best `num_ranks` of the concepts `[C, D]` for every neuron.

    `memory` is in bytes. `first_concept` is the number of the first one in the concept list; those that are repeated
    `[C]` are no labels. All similarities are given too where they are to be kept.
    """
    kept = []
    labelled: Labelled | None = None
    for start, scored in score(scorer, concepts, memory):
        again = None if is_repeated is None else is_repeated[start : start + scored.scores.similarity.shape[1]]
        labels = Labels.of(scored.scores, num_ranks, first_concept + start, again)
        panel = Labelled(labels, scored.null.amax(1))
        labelled = panel if labelled is None else labelled.merge(panel, num_ranks)
        if keep:
            kept.append(scored.scores.similarity)
    assert labelled is not None  # there is a concept
    return Labelled(labelled.labels, labelled.null_best, torch.cat(kept, dim=1) if keep else None)


def score(scorer: Scorer, concepts: Tensor, memory: int) -> Iterator[tuple[int, Scored]]:
    """Scores of one panel of concepts after the other, each with the number of its first concept."""
    width = panel_width(scorer.floats_per_concept, memory)
    for start in range(0, len(concepts), width):
        yield start, scorer(concepts[start : start + width])


def panel_width(floats_per_concept: int, memory: int) -> int:
    """How many concepts are scored at a time in so many bytes."""
    return max(NARROWEST, memory // (4 * floats_per_concept) // NARROWEST * NARROWEST)
