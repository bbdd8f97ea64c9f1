"""From similarities to labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tasks.dissection.similarity import Scores
from tasks.dissection.streaming import first_largest

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Labels:
    """The `R` best concepts of every neuron of a layer, best first; ties go to the concept listed first.

    All arrays are `[N, R]`: `concept_rows` (int64, into the concept list), `similarity`, and where the similarity
    function gives them `log_likelihood` and `log_prior` (float64, natural logarithms).
    """

    concept_rows: npt.NDArray[np.int64]
    similarity: Floats
    log_likelihood: Floats | None
    log_prior: Floats | None

    @classmethod
    def of(cls, scores: Scores, num_ranks: int, first_concept: int = 0, is_repeated: Tensor | None = None) -> Labels:
        """The best `min(num_ranks, C)` of the concepts scored, the first of which is number `first_concept`.

        A concept that `is_repeated` `[C]` is no label, and has the similarity -inf: its text stands further up.
        """
        similarity = scores.similarity
        if is_repeated is not None:
            similarity = similarity.masked_fill(is_repeated, -torch.inf)
        # No number ranks last: topk would take it for the largest.
        lowest = torch.finfo(similarity.dtype).min
        _, rows = first_largest(similarity.nan_to_num(lowest, posinf=torch.inf, neginf=lowest), num_ranks)
        return cls(
            rows.numpy() + first_concept,
            _float64(similarity.gather(1, rows)),
            None if scores.log_likelihood is None else _float64(scores.log_likelihood.gather(1, rows)),
            None if scores.log_prior is None else _float64(scores.log_prior[rows]),
        )

    def merge(self, other: Labels, num_ranks: int) -> Labels:
        """The best of both, which are of the same neurons and of different concepts."""
        ranked = np.concatenate([np.nan_to_num(part.similarity, nan=-np.inf) for part in (self, other)], axis=1)
        concepts = np.concatenate([self.concept_rows, other.concept_rows], axis=1)
        # By concept, then by falling similarity; the second sort is stable, so equal ones stay in concept order.
        by_concept = np.argsort(concepts, axis=1, kind="stable")
        falling = np.argsort(-np.take_along_axis(ranked, by_concept, axis=1), axis=1, kind="stable")
        best = np.take_along_axis(by_concept, falling, axis=1)[:, :num_ranks]

        def taken(mine: Floats | None, theirs: Floats | None) -> Floats | None:
            if mine is None or theirs is None:
                return None
            return np.take_along_axis(np.concatenate([mine, theirs], axis=1), best, axis=1)

        similarity = taken(self.similarity, other.similarity)
        assert similarity is not None
        return Labels(
            np.take_along_axis(concepts, best, axis=1),
            similarity,
            taken(self.log_likelihood, other.log_likelihood),
            taken(self.log_prior, other.log_prior),
        )

    def beside(self, other: Labels) -> Labels:
        """Both, which are of different neurons; these come first."""

        def joined(mine: Floats | None, theirs: Floats | None) -> Floats | None:
            return None if mine is None or theirs is None else np.concatenate([mine, theirs])

        return Labels(
            np.concatenate([self.concept_rows, other.concept_rows]),
            np.concatenate([self.similarity, other.similarity]),
            joined(self.log_likelihood, other.log_likelihood),
            joined(self.log_prior, other.log_prior),
        )


def _float64(values: Tensor) -> Floats:
    return values.double().numpy()
