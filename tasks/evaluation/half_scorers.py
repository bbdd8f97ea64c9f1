"""Scorers of a layer's neurons by half of a run's images: as they are, and with the half's image rows shuffled."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from storage.completion import Rows
from tasks import recorded
from tasks.dissection.scorers import (
    CosCubedScorer,
    CosScorer,
    PmiScorer,
    RankReorderScorer,
    Scorer,
    by_position,
    log_normaliser,
    used_rows,
)
from tasks.dissection.streaming import CosineMoments, Statistics, TopImages
from tasks.evaluation.chosen import Chosen, activations_of, both
from tasks.labelling import WITH_PRIOR, LabelPlan, hyperparameters
from tasks.scoring import images_of

#: Neurons whose activations are read at a time: 64 MiB of a shard group.
NEURONS_AT_A_TIME = 1_024


@dataclass(frozen=True)
class HalfScorers:
    """What scores neurons by a half, and by chance."""

    own: Scorer
    by_chance: Scorer
    #: `[n]` (bool): neurons with two different activations in the half.
    is_live: Tensor


def scorers(plan: LabelPlan, layer: str, half: Chosen, neurons: Rows, concepts: Tensor, seed: int) -> HalfScorers:
    """Of some neurons of a layer, by the similarity function of the run; `concepts [C, D]` are all of them."""
    parameters = hyperparameters(plan.spec, len(half))
    if "top_k" not in parameters:
        return _cosine_scorers(plan, layer, half, neurons, parameters, seed)
    top, is_live = _top_images(plan, layer, half, neurons, parameters["top_k"])

    def scorer(rows: Tensor) -> Scorer:
        return _top_scorer(plan, TopImages(top.values, rows[top.rows]), parameters, concepts, is_live)

    return HalfScorers(scorer(half.rows), scorer(half.shuffled(seed)), is_live)


def _top_images(plan: LabelPlan, layer: str, half: Chosen, neurons: Rows, k: int) -> tuple[TopImages, Tensor]:
    """Top images, by their place `[K, n]` in the half, and which neurons `[n]` are live."""
    parts = [
        _top_images_of_some(plan, layer, half, Rows(n, min(n + NEURONS_AT_A_TIME, neurons.stop)), k)
        for n in range(neurons.start, neurons.stop, NEURONS_AT_A_TIME)
    ]
    return reduce(TopImages.beside, (top for top, _ in parts)), torch.cat([is_live for _, is_live in parts])


def _top_images_of_some(plan: LabelPlan, layer: str, half: Chosen, neurons: Rows, k: int) -> tuple[TopImages, Tensor]:
    top: TopImages | None = None
    statistics: Statistics | None = None
    first = 0
    for block in activations_of(plan.activations, plan.probe.num_images, layer, half, neurons):
        best, of_block = TopImages.of(block, k, first), Statistics.of(block)
        top = top.merge(best, k=k) if top else best
        statistics = statistics.merge(of_block) if statistics else of_block
        first += len(block)
    assert top is not None and statistics is not None  # a half has an image
    return top, ~statistics.is_dead


def _top_scorer(
    plan: LabelPlan, top: TopImages, parameters: dict[str, Any], concepts: Tensor, is_live: Tensor
) -> Scorer:
    spec, rows = plan.spec, used_rows(top)
    images = images_of(plan, rows)
    if spec.similarity not in WITH_PRIOR:
        return RankReorderScorer(images, len(rows), by_position(top, rows), top.num_neurons, parameters, spec.variant)
    return PmiScorer(
        images,
        log_normaliser(images, concepts, parameters["a"]),
        by_position(top, rows),
        top.num_neurons,
        0,
        parameters,
        spec.variant,
        spec.similarity == "soft_wpmi",
        is_live if spec.variant == "paper" else None,
    )


def _cosine_scorers(
    plan: LabelPlan, layer: str, half: Chosen, neurons: Rows, parameters: dict[str, Any], seed: int
) -> HalfScorers:
    def shuffled() -> Iterator[tuple[Tensor, Tensor]]:
        # Within what is read together, as null neurons are: all of them would have to be in memory.
        generator = torch.Generator().manual_seed(seed)
        for E, A in both(plan, layer, half, neurons):
            yield E[torch.randperm(len(E), generator=generator)], A

    def in_order() -> Iterator[tuple[Tensor, Tensor]]:
        return both(plan, layer, half, neurons)

    statistics = reduce(
        Statistics.merge,
        map(Statistics.of, activations_of(plan.activations, plan.probe.num_images, layer, half, neurons)),
    )
    if plan.spec.similarity == "cos":
        own, by_chance = (
            CosScorer(reduce(CosineMoments.merge, (CosineMoments.of(E, A) for E, A in blocks())), len(neurons))
            for blocks in (in_order, shuffled)
        )
        return HalfScorers(own, by_chance, ~statistics.is_dead)
    total = sum(E.double().sum(0) for E in recorded.embeddings(plan.embeddings, plan.probe.num_images, half.rows))
    mean = statistics.mean
    largest = torch.maximum(statistics.maximum - mean, mean - statistics.minimum)
    own_cubed, cubed_by_chance = (
        CosCubedScorer(
            blocks, torch.as_tensor(total) / len(half), mean, largest, len(neurons), parameters["min_norm"]
        )
        for blocks in (in_order, shuffled)
    )
    return HalfScorers(own_cubed, cubed_by_chance, ~statistics.is_dead)
