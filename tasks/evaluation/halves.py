"""A run's neurons labelled anew from one half of its images, so that the other half can judge the labels.

The method is the run's, on the rows of a half alone: top images, softmax, prior and all. Beside it the same with the
half's images shuffled: what labels come out by chance.
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
from tasks.dissection.null import Shuffled
from tasks.dissection.panels import score
from tasks.dissection.similarity import Scores
from tasks.labelling import LabelPlan
from tasks.relabel import aside, of_images, prepare, scorer
from tasks.scoring import concepts_of, panel_memory, repeated_of

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

    labels: Labels
    #: `[N, S]`: similarities of the concepts that are compared.
    similarities: Tensor

    @classmethod
    def of(cls, similarity: Tensor, start: int, wanted: Tensor, is_repeated: Tensor | None) -> Labelled:
        """Of a panel of concepts `[N, W]`, the first of which is number `start`.

        `wanted` are those compared; `is_repeated` `[C]` are those of the whole list that are no labels.
        """
        stop = start + similarity.shape[1]
        here = wanted[(wanted >= start) & (wanted < stop)] - start
        again = None if is_repeated is None else is_repeated[start:stop]
        return cls(Labels.of(Scores(similarity), RANKS, start, again), similarity[:, here])

    def merge(self, other: Labelled) -> Labelled:
        """Of both, which are of the same neurons; the concepts of these come first."""
        labels = self.labels.merge(other.labels, RANKS)
        return Labelled(labels, torch.cat([self.similarities, other.similarities], dim=1))

    def beside(self, other: Labelled) -> Labelled:
        """Both, which are of different neurons; these come first."""
        return Labelled(self.labels.beside(other.labels), torch.cat([self.similarities, other.similarities]))

    @property
    def concept_rows(self) -> npt.NDArray[np.int64]:
        """`[N, R]`: the best concepts, best first, as rows of the concept list."""
        return self.labels.concept_rows

    @property
    def has_label(self) -> npt.NDArray[np.bool_]:
        """`[N]`: neurons of which some concept has a similarity; of reference rank reorder none may have."""
        found: npt.NDArray[np.bool_] = self.labels.similarity[:, 0] > -np.inf
        return found


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


def split(num_images: int, seed: int) -> tuple[Tensor, Tensor]:
    """Rows of two halves of the images, rising, drawn at random. Raises `TableError` where they are too small."""
    if num_images < 2 * LEAST_IMAGES:
        raise TableError(
            f"The run has {num_images} images, and two halves of which one judges the labels of the other need "
            f"{2 * LEAST_IMAGES} at least."
        )
    order = torch.randperm(num_images, generator=torch.Generator().manual_seed(seed))
    first, second = order[: num_images // 2], order[num_images // 2 :]
    return first.sort().values, second.sort().values


def compared(num_concepts: int, num_neurons: int, seed: int) -> Tensor:
    """The concepts, rising, whose similarities two halves are compared by."""
    most = max(2, min(CONCEPTS_COMPARED, SIMILARITIES_HELD // num_neurons))
    drawn = torch.randperm(num_concepts, generator=torch.Generator().manual_seed(seed))[:most]
    return drawn.sort().values


def labelled(plan: LabelPlan, layer: str, half: Tensor, seed: int) -> HalfLabels:
    """Labels a layer's neurons from a half of the images, which are rows `[H]` of the probe set.

    In the memory that the run was given, and never all images by all concepts. Raises `ArrayError` where what was
    recorded is damaged.
    """
    with aside(of_images(plan, half), Shuffled, null_seed=seed) as of:
        prepare(of, layer)
        parts = dict.fromkeys(block.neurons for block in of.blocks(layer))
        return reduce(HalfLabels.beside, (_some(of, layer, part, seed) for part in parts))


def _some(plan: LabelPlan, layer: str, neurons: Rows, seed: int) -> HalfLabels:
    concepts = concepts_of(plan)
    wanted = compared(len(concepts), plan.activations.num_neurons[layer], seed)
    is_dead = plan.neurons(layer)["is_dead"].to_numpy()[neurons.start : neurons.stop]
    panels, is_repeated = [], repeated_of(plan)
    for start, scored in score(scorer(plan, layer, neurons), concepts, panel_memory(plan, layer)):
        own = scored.scores.similarity
        by_chance = torch.full_like(own, -torch.inf)
        by_chance[torch.from_numpy(~is_dead)] = scored.null
        panels.append([Labelled.of(similarity, start, wanted, is_repeated) for similarity in (own, by_chance)])
    own_labels, labels_by_chance = (reduce(Labelled.merge, of) for of in zip(*panels, strict=True))
    is_live = ~is_dead & own_labels.has_label & labels_by_chance.has_label
    return HalfLabels(own_labels, labels_by_chance, is_live)
