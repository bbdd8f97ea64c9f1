"""The figures of a layer's labels without a truth, each beside what labels by chance get."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tasks.dissection.faithfulness import overlap, rank_correlations
from tasks.dissection.metrics import mean
from tasks.evaluation.contrast import contrasts
from tasks.evaluation.figures import Figure, known
from tasks.evaluation.halves import RANKS, HalfLabels, labelled, split
from tasks.evaluation.labels import LabelTable
from tasks.evaluation.shown_concepts import ShownConcepts
from tasks.evaluation.simulation import simulation_correlations
from tasks.finished import FinishedRun

#: A label is above the null where so many of the neurons with shuffled images have none that scores as much.
NULL_QUANTILE = 0.95

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class NeuronLabels:
    """A label for each neuron of a layer, or None; their unit embeddings `[N, D]`, NaN where there is none."""

    texts: tuple[str | None, ...]
    embeddings: Tensor

    def of_others(self, seed: int) -> NeuronLabels:
        """Each neuron with a label gets that of another neuron, in a circle that is drawn at random."""
        places = np.array([i for i, text in enumerate(self.texts) if text is not None], dtype=np.int64)
        order = np.random.default_rng(seed).permutation(places)
        source = np.arange(len(self.texts))
        source[order] = np.roll(order, 1)
        return NeuronLabels(tuple(self.texts[i] for i in source), self.embeddings[torch.from_numpy(source)])


@dataclass(frozen=True)
class Judge:
    """What labels are judged by."""

    run: FinishedRun
    #: Images of the probe set that are known to show concepts.
    shown: ShownConcepts
    #: Images that were recorded for it.
    fresh: ShownConcepts | None
    resamples: int
    seed: int

    def of_run(self, table: LabelTable) -> Iterator[Figure]:
        """Figures of a layer of the run: of what one half of its images says of the other, and of its labels."""
        layer, plan, (first, second) = table.layer, self.run.plan, self.halves
        one, other = (labelled(plan, layer, half, self.seed) for half in (first, second))
        learnt = [self._labels_of_half(one, of.concept_rows[:, 0]) for of in (one.own, one.by_chance)]
        yield from self._judged(layer, second, learnt, "held_out")
        yield from self._judged(layer, self.all_images, self._published(table), "in_sample")
        yield from self._fresh(table)
        yield from self._agreement(one, other)
        yield self._above_null(table)

    def of_given(self, table: LabelTable) -> Iterator[Figure]:
        """Figures of somebody's labels of a layer."""
        yield from self._judged(table.layer, self.all_images, self._published(table), "given")
        yield from self._fresh(table)

    @cached_property
    def halves(self) -> tuple[Tensor, Tensor]:
        """Rows of two halves of the images."""
        return split(self.run.plan.probe.num_images, self.seed)

    @cached_property
    def all_images(self) -> Tensor:
        """Rows of all images of the probe set."""
        return torch.arange(self.run.plan.probe.num_images)

    @cached_property
    def concepts(self) -> Tensor:
        """Unit embeddings `[C, D]` of the run's concepts."""
        return torch.from_numpy(self.run.embed(self.run.concepts))

    def _labels_of_half(self, half: HalfLabels, rows: npt.NDArray[np.int64]) -> NeuronLabels:
        names = self.run.concepts
        texts = tuple(names[row] if live else None for row, live in zip(rows, half.is_live, strict=True))
        embeddings = self.concepts[torch.from_numpy(rows)]
        return NeuronLabels(texts, embeddings.masked_fill(~torch.from_numpy(half.is_live)[:, None], torch.nan))

    def _published(self, table: LabelTable) -> list[NeuronLabels]:
        """First labels of a table, and those of other neurons."""
        num_neurons = self.run.plan.activations.num_neurons[table.layer]
        first = table.first[~table.first["is_dead"]]
        texts: list[str | None] = [None] * num_neurons
        for unit, label in zip(first["unit"], first["label"], strict=True):
            texts[unit] = label
        embeddings = torch.full((num_neurons, self.run.plan.embeddings.num_dimensions), torch.nan)
        if len(first):
            embeddings[torch.tensor(first["unit"].to_numpy())] = torch.from_numpy(
                self.run.embed(first["label"].tolist())
            )
        labels = NeuronLabels(tuple(texts), embeddings)
        return [labels, labels.of_others(self.seed)]

    def _judged(self, layer: str, images: Tensor, labels: Sequence[NeuronLabels], how: str) -> Iterator[Figure]:
        """Of labels and those by chance."""
        correlations = simulation_correlations(self.run.plan, layer, images, [one.embeddings for one in labels])
        yield self._figure(f"{how}_correlation", correlations)
        if self.shown.rows:
            yield from self._contrast(layer, images, labels, self.shown, how)

    def _fresh(self, table: LabelTable) -> Iterator[Figure]:
        if self.fresh is not None:
            yield from self._contrast(
                table.layer, self.all_images, self._published(table), self.fresh, "concept_images"
            )

    def _contrast(
        self, layer: str, images: Tensor, labels: Sequence[NeuronLabels], shown: ShownConcepts, how: str
    ) -> Iterator[Figure]:
        own, chance = contrasts(self.run.plan, layer, images, [one.texts for one in labels], shown, self.seed)
        yield self._figure(f"{how}_auc", (own.auc, chance.auc))
        yield self._figure(f"{how}_mad", (own.mad, chance.mad))

    def _agreement(self, one: HalfLabels, other: HalfLabels) -> Iterator[Figure]:
        """How far the labels of both halves are the same."""
        both = one.is_live & other.is_live
        pairs = [(one.own, other.own), (one.by_chance, other.by_chance)]
        rows = [(a.concept_rows[both], b.concept_rows[both]) for a, b in pairs]
        same = [(a[:, 0] == b[:, 0]).astype(np.float64) for a, b in rows]
        yield self._figure("same_first_label", same)
        yield self._figure(f"overlap_of_{RANKS}", [overlap(a, b) for a, b in rows])
        live = torch.from_numpy(both)
        ranks = [rank_correlations(a.similarities[live], b.similarities[live]) for a, b in pairs]
        yield self._figure("rank_correlation", ranks)
        cosines = [(self.concepts[a[:, 0]] * self.concepts[b[:, 0]]).sum(1).double().numpy() for a, b in rows]
        yield self._figure("label_cosine", cosines)

    def _above_null(self, table: LabelTable) -> Figure:
        quantile = table.first.loc[~table.first["is_dead"], "null_quantile"].to_numpy(dtype=np.float64)
        if np.isnan(quantile).any():
            return Figure("above_null", None, None, None, len(quantile), "the run has none: --null-samples 0")
        above = (quantile > NULL_QUANTILE).astype(np.float64)
        return self._figure("above_null", (above, np.full(len(above), 1 - NULL_QUANTILE)))

    def _figure(self, name: str, of_both: Sequence[Floats]) -> Figure:
        """The mean over the neurons that have a value, and that of labels by chance."""
        values, chance = (found[~np.isnan(found)] for found in of_both)
        note = "" if len(values) else "no neuron has such a label"
        figure = Figure.of(name, mean(values), self.resamples, self.seed, note)
        return replace(figure, by_chance=known(mean(chance).value()))
