"""Labelling a layer by panels of concepts: exact, in the memory given, and never with a whole `P [I, C]`.

The prior of a concept needs every neuron but no other concept, so a panel of concepts is scored to its end (all
neurons, prior, similarity) and only each neuron's best labels are kept. What is held at a time is `[U, W]` and
`[N, W]`, where `U` is the number of images that are a top image of some neuron and `W` the panel's width. Only the
softmax over all concepts joins panels, by one number per image that a first pass finds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from tasks.dissection.labels import Labels
from tasks.dissection.similarity import SIMILARITIES, Scores, Variant
from tasks.dissection.streaming import CosineMoments, TopImages

#: A panel is a multiple of this wide, the kernel's tile.
NARROWEST = 64
#: Float32 that a panel needs per concept: of each image the product and its softmax, of each neuron its
#: likelihood twice, its similarity twice, and what sorting takes.
FLOATS_PER_IMAGE, FLOATS_PER_NEURON = 3, 6


@dataclass(frozen=True)
class Problem:
    """One layer to label: what stands for its neurons, and what they may be called.

    `images [U, D]`: unit embeddings of the images that count. `concepts [C, D]`: those of the concepts. `neurons`:
    top images whose rows are rows of `images`; or activations `[U, N]`; or for cos their moments, which need no
    `images`.
    """

    images: Tensor
    concepts: Tensor
    neurons: TopImages | Tensor | CosineMoments

    @property
    def num_neurons(self) -> int:
        """`N`."""
        neurons = self.neurons
        if isinstance(neurons, CosineMoments):
            return len(neurons.neurons)
        return (neurons.rows if isinstance(neurons, TopImages) else neurons).shape[1]


def used_rows(top: TopImages) -> tuple[Tensor, TopImages]:
    """Rows `[U]` (rising) that are a top image of some neuron, and the top images by position among them."""
    rows: Tensor = top.rows.unique()  # type: ignore[no-untyped-call]
    return rows, TopImages(top.values, torch.searchsorted(rows, top.rows))


def label(
    problem: Problem,
    similarity: str,
    num_ranks: int,
    memory: int,
    *,
    variant: Variant = "paper",
    **hyperparameters: Any,
) -> Labels:
    """The best `num_ranks` labels of every neuron by the similarity function of that name; `memory` in bytes."""
    parts = (
        Labels.of(scores, num_ranks, start)
        for start, scores in score(problem, similarity, memory, variant=variant, **hyperparameters)
    )
    return reduce(lambda mine, other: mine.merge(other, num_ranks), parts)


def score(
    problem: Problem, similarity: str, memory: int, *, variant: Variant = "paper", **hyperparameters: Any
) -> Iterator[tuple[int, Scores]]:
    """Scores of one panel of concepts after the other, each with the number of its first concept."""
    width = panel_width(len(problem.images), problem.num_neurons, memory)
    panels = [(start, problem.concepts[start : start + width]) for start in range(0, len(problem.concepts), width)]
    if isinstance(problem.neurons, CosineMoments):
        for start, concepts in panels:
            yield start, Scores(problem.neurons.finish(concepts))
        return
    function = SIMILARITIES[similarity]
    if similarity in ("soft_wpmi", "wpmi") and len(panels) > 1:
        a = hyperparameters.get("a", (function.__kwdefaults__ or {})["a"])
        hyperparameters["log_normaliser"] = log_normaliser(problem.images, [part for _, part in panels], a)
    for (start, _), P in zip(panels, products(problem.images, [part for _, part in panels]), strict=True):
        yield start, function(P, problem.neurons, variant=variant, **hyperparameters)


def log_normaliser(images: Tensor, panels: list[Tensor], a: float) -> Tensor:
    """`log Σ_m exp(a P[x, m])` `[U]` over the concepts of all panels."""
    parts = (_log_sum_of_exponentials(P, a) for P in products(images, panels))
    return reduce(torch.logaddexp, parts)


def _log_sum_of_exponentials(P: Tensor, a: float) -> Tensor:
    """`log Σ_m exp(a P[x, m])` `[U]`; `P` is overwritten. (`torch.logsumexp` would hold a copy of it.)"""
    largest = P.amax(dim=1, keepdim=True)
    return P.sub_(largest).mul_(a).exp_().sum(dim=1).log_().add_(largest.squeeze(1), alpha=a)


def products(images: Tensor, panels: list[Tensor]) -> Iterator[Tensor]:
    """`P [U, W]` of one panel of concepts after the other, in the same memory: each is gone when the next comes."""
    into = torch.empty(len(images) * len(panels[0]), dtype=images.dtype)
    for concepts in panels:
        yield torch.mm(images, concepts.T, out=into[: len(images) * len(concepts)].view(len(images), -1))


def panel_width(num_images: int, num_neurons: int, memory: int) -> int:
    """How many concepts are scored at a time in so many bytes."""
    bytes_per_concept = 4 * (FLOATS_PER_IMAGE * num_images + FLOATS_PER_NEURON * num_neurons)
    return max(NARROWEST, memory // bytes_per_concept // NARROWEST * NARROWEST)
