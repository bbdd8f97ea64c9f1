"""Any texts scored for single neurons of a labelled layer, as if they stood on the run's concept list."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from storage.completion import Rows
from tasks.dissection.panels import score
from tasks.dissection.scorers import PmiScorer, Scored, Scorer, log_normaliser
from tasks.labelling import WITH_PRIOR, LabelPlan
from tasks.relabel import aside, prepare, scorer
from tasks.scoring import concepts_of, panel_memory

#: Null neurons of a neuron that is scored without the others of its layer: that neuron with shuffled images.
NULL_OF_ONE = 100


@dataclass(frozen=True)
class TextScorer:
    """Scores texts for a layer's neurons by the plan's similarity function, from what is stored."""

    plan: LabelPlan
    layer: str

    def listed(self, neurons: Sequence[int]) -> Tensor:
        """Similarities of some neurons with all concepts of the list `[n, C]`, as the run has them."""
        concepts = concepts_of(self.plan)
        if self._is_joint:
            rows = list(neurons)
            panels = self._panels(self._of_layer, concepts)
            return torch.cat([scored.scores.similarity[rows] for scored in panels], dim=1)
        alone = (
            torch.cat([of.scores.similarity for of in self._panels(self._alone(n), concepts)], 1) for n in neurons
        )
        return torch.cat(list(alone))

    def further(self, neuron: int, words: Tensor, texts: Tensor) -> tuple[Tensor, Tensor]:
        """Similarities with some concepts of the list, `words` `[W, D]`, and with further `texts` `[T, D]`.

        The softmax is over the list and the texts. Gives those of the neuron `[W + T]`, and of null neurons
        `[S, W + T]`, of which there are none where the run has none.
        """
        scorer, row = (self._of_layer, neuron) if self._is_joint else (self._alone(neuron), 0)
        if isinstance(scorer, PmiScorer):
            more = log_normaliser(scorer.images, texts, self.plan.hyperparameters["a"])
            scorer = replace(scorer, log_normaliser=torch.logaddexp(scorer.log_normaliser, more))
        panels = [(of.scores.similarity[row], of.null) for of in self._panels(scorer, torch.cat([words, texts]))]
        return torch.cat([own for own, _ in panels]), torch.cat([null for _, null in panels], dim=1)

    @property
    def _is_joint(self) -> bool:
        """Whether the neurons of a layer have a prior in common, and are scored together."""
        return self.plan.spec.similarity in WITH_PRIOR

    @cached_property
    def _of_layer(self) -> Scorer:
        return scorer(self.plan, self.layer, Rows(0, self.plan.activations.num_neurons[self.layer]))

    def _alone(self, neuron: int) -> Scorer:
        return scorer(self.plan, self.layer, Rows(neuron, neuron + 1))

    def _panels(self, scorer: Scorer, texts: Tensor) -> Iterator[Scored]:
        return (scored for _, scored in score(scorer, texts, panel_memory(self.plan, self.layer)))


@contextmanager
def text_scorer(plan: LabelPlan, layer: str) -> Iterator[TextScorer]:
    """A scorer of texts, inside the `with`; what it finds of the layer lies in a temporary folder meanwhile."""
    samples = plan.spec.null_samples
    if plan.spec.similarity not in WITH_PRIOR:
        # Scored alone, a neuron has its share of the layer's null neurons, which may be none.
        samples = min(samples, NULL_OF_ONE) * plan.activations.num_neurons[layer]
    with aside(plan, null_samples=samples) as of:
        prepare(of, layer)
        yield TextScorer(of, layer)
