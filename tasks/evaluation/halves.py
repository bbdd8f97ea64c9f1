"""A run's neurons labelled anew from one half of its images, so that the other half can judge the labels.

The method is the run's, on the rows of a half alone: top images, softmax, prior and all. Beside it the same with the
half's image rows shuffled: what labels come out by chance.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from storage.completion import Rows
from storage.errors import TableError
from tasks.dissection.labels import Labels
from tasks.dissection.panels import score
from tasks.dissection.scorers import Scorer
from tasks.evaluation.chosen import Chosen
from tasks.evaluation.half_scorers import scorers
from tasks.labelling import LabelPlan, blocks

#: Labels of a neuron that two halves are compared by.
RANKS = 5
#: Images of a half at least: fewer tell nothing of the others.
LEAST_IMAGES = 10
#: Concepts, drawn at random, whose similarities two halves are compared by; fewer for a layer of so many neurons that
#: these would be more than 64 MiB.
CONCEPTS_COMPARED, SIMILARITIES_HELD = 1_024, 1 << 24


@dataclass(frozen=True)
class Labelled:
    """What a half gives for a layer's neurons."""

    #: `[N, R]`: the best concepts, best first, as rows of the concept list.
    concept_rows: npt.NDArray[np.int64]
    #: `[N]`: neurons of which some concept has a similarity; of reference rank reorder none may have.
    has_label: npt.NDArray[np.bool_]
    #: `[N, S]`: similarities of the concepts that are compared.
    similarities: Tensor

    def beside(self, other: Labelled) -> Labelled:
        """Both, which are of different neurons; these come first."""
        return Labelled(
            np.concatenate([self.concept_rows, other.concept_rows]),
            np.concatenate([self.has_label, other.has_label]),
            torch.cat([self.similarities, other.similarities]),
        )


@dataclass(frozen=True)
class HalfLabels:
    """A layer labelled from a half, and by chance."""

    own: Labelled
    by_chance: Labelled
    #: `[N]`: neurons with two different activations in the half, and a label.
    is_live: npt.NDArray[np.bool_]

    def beside(self, other: HalfLabels) -> HalfLabels:
        """Both, which are of different neurons; these come first."""
        return HalfLabels(
            self.own.beside(other.own),
            self.by_chance.beside(other.by_chance),
            np.concatenate([self.is_live, other.is_live]),
        )


def split(num_images: int, seed: int) -> tuple[Chosen, Chosen]:
    """Two halves of the images, drawn at random. Raises `TableError` where they would be too small."""
    if num_images < 2 * LEAST_IMAGES:
        raise TableError(
            f"The run has {num_images} images, and two halves of which one judges the labels of the other need "
            f"{2 * LEAST_IMAGES} at least."
        )
    order = torch.randperm(num_images, generator=torch.Generator().manual_seed(seed))
    first, second = order[: num_images // 2], order[num_images // 2 :]
    return Chosen(first.sort().values), Chosen(second.sort().values)


def compared(num_concepts: int, num_neurons: int, seed: int) -> Tensor:
    """The concepts, rising, whose similarities two halves are compared by."""
    most = max(2, min(CONCEPTS_COMPARED, SIMILARITIES_HELD // num_neurons))
    drawn = torch.randperm(num_concepts, generator=torch.Generator().manual_seed(seed))[:most]
    return drawn.sort().values


def labelled(plan: LabelPlan, layer: str, half: Chosen, concepts: Tensor, seed: int) -> HalfLabels:
    """Labels a layer's neurons from a half of the images; `concepts [C, D]` are those of the run, in order.

    In the memory that the run was given, and never all images by all concepts. Raises `ArrayError` where what was
    recorded is damaged.
    """
    num_neurons = plan.activations.num_neurons[layer]
    wanted = compared(len(concepts), num_neurons, seed)
    parts = dict.fromkeys(block.neurons for block in blocks(plan.spec.similarity, num_neurons, len(concepts)))
    return reduce(HalfLabels.beside, (_some(plan, layer, half, part, concepts, wanted, seed) for part in parts))


def _some(
    plan: LabelPlan, layer: str, half: Chosen, neurons: Rows, concepts: Tensor, wanted: Tensor, seed: int
) -> HalfLabels:
    by = scorers(plan, layer, half, neurons, concepts, seed)
    memory = int(plan.spec.memory * 2**30)
    own, by_chance = (_labelled(scorer, concepts, wanted, memory) for scorer in (by.own, by.by_chance))
    return HalfLabels(own, by_chance, by.is_live.numpy() & own.has_label & by_chance.has_label)


def _labelled(scorer: Scorer, concepts: Tensor, wanted: Tensor, memory: int) -> Labelled:
    labels: Labels | None = None
    kept = []
    for start, scored in score(scorer, concepts, memory):
        panel = Labels.of(scored.scores, RANKS, start)
        labels = panel if labels is None else labels.merge(panel, RANKS)
        stop = start + scored.scores.similarity.shape[1]
        kept.append(scored.scores.similarity[:, wanted[(wanted >= start) & (wanted < stop)] - start])
    assert labels is not None  # there is a concept
    return Labelled(labels.concept_rows, labels.similarity[:, 0] > -np.inf, torch.cat(kept, dim=1))
