"""Any texts scored for single neurons of a labelled layer, as if they stood on the run's concept list."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from storage.completion import Rows
from storage.layout import Store
from tasks.dissection.panels import score
from tasks.dissection.scorers import PmiScorer, Scorer, log_normaliser
from tasks.label import find_top_images, sum_softmax
from tasks.labelling import WITH_PRIOR, Block, LabelPlan
from tasks.scoring import concepts_of, forget, images_of, panel_memory, scorer_of, used_images

#: Null neurons of a neuron that is scored without the others of its layer: that neuron with shuffled images.
NULL_OF_ONE = 100


@dataclass(frozen=True)
class TextScorer:
    """Scores texts for a layer's neurons by the plan's similarity function, from what is stored."""

    plan: LabelPlan
    layer: str

    def listed(self, neuron: int) -> Tensor:
        """Similarities of a neuron with all concepts of the list `[C]`, as the run has them."""
        own, _ = self._score(neuron, self._scorer(neuron), concepts_of(self.plan))
        return own

    def further(self, neuron: int, words: Tensor, texts: Tensor) -> tuple[Tensor, Tensor]:
        """Similarities with some concepts of the list, `words` `[W, D]`, and with further `texts` `[T, D]`.

        The softmax is over the list and the texts. Gives those of the neuron `[W + T]`, and of null neurons
        `[S, W + T]`, of which there are none where the run has none.
        """
        scorer = self._scorer(neuron)
        if isinstance(scorer, PmiScorer):
            images = images_of(self.plan, used_images(self.plan, self.layer))
            more = log_normaliser(images, texts, self.plan.hyperparameters["a"])
            scorer = replace(scorer, log_normaliser=torch.logaddexp(scorer.log_normaliser, more))
        return self._score(neuron, scorer, torch.cat([words, texts]))

    def _scorer(self, neuron: int) -> Scorer:
        return scorer_of(self.plan, self.layer, self._block(neuron))

    def _score(self, neuron: int, scorer: Scorer, texts: Tensor) -> tuple[Tensor, Tensor]:
        row = neuron - self._block(neuron).neurons.start
        panels = [
            (scored.scores.similarity[row], scored.null)
            for _, scored in score(scorer, texts, panel_memory(self.plan, self.layer))
        ]
        return torch.cat([own for own, _ in panels]), torch.cat([null for _, null in panels], dim=1)

    def _block(self, neuron: int) -> Block:
        """The neurons that are scored with this one: all where they have a prior in common."""
        num_neurons = self.plan.activations.num_neurons[self.layer]
        alone = Rows(neuron, neuron + 1)
        neurons = Rows(0, num_neurons) if self.plan.spec.similarity in WITH_PRIOR else alone
        return Block(neurons, Rows(0, self.plan.num_concepts))


@dataclass(frozen=True)
class _Aside(LabelPlan):
    """A plan whose steps leave what they find in another store than that of its inputs."""

    aside: Store

    @property
    def store(self) -> Store:
        return self.aside


@contextmanager
def text_scorer(plan: LabelPlan, layer: str) -> Iterator[TextScorer]:
    """A scorer of texts, inside the `with`; what it finds of the layer lies in a temporary folder meanwhile."""
    with TemporaryDirectory(prefix="clip-dissect-") as folder:
        given = {field.name: getattr(plan, field.name) for field in fields(plan)}
        if plan.spec.similarity not in WITH_PRIOR:
            # Scored alone, a neuron has its share of the layer's null neurons, which may be none.
            most = min(plan.spec.null_samples, NULL_OF_ONE) * plan.activations.num_neurons[layer]
            given["spec"] = plan.spec.model_copy(update={"null_samples": most})
        of = _Aside(**given, aside=Store.at(folder))
        find_top_images.fn(of, layer)
        for part in of.softmax_parts(layer):
            sum_softmax.fn(of, layer, part)
        try:
            yield TextScorer(of, layer)
        finally:
            forget()
