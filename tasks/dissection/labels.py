"""From similarities to labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from tasks.dissection.similarity import Scores


@dataclass(frozen=True)
class Labels:
    """The `R` best concepts of every neuron of a layer, best first; ties go to the concept listed first.

    All arrays are `[N, R]`: `concept_rows` (int64, into the concept list), `similarity`, and where the similarity
    function gives them `log_likelihood` and `log_prior` (float64, natural logarithms).
    """

    concept_rows: npt.NDArray[np.int64]
    similarity: npt.NDArray[np.float64]
    log_likelihood: npt.NDArray[np.float64] | None
    log_prior: npt.NDArray[np.float64] | None

    @classmethod
    def of(cls, scores: Scores, num_ranks: int) -> Labels:
        """The best `min(num_ranks, C)` concepts of each neuron."""
        given = scores.similarity.numpy().astype(np.float64)  # [N, C]
        # No number ranks last, and above what is taken (-inf), so that no concept is a neuron's label twice.
        lowest = np.finfo(np.float64).min
        left = np.nan_to_num(given, nan=lowest, posinf=np.inf, neginf=lowest)  # a copy: it is eaten below
        neurons = np.arange(left.shape[0])
        ranks: list[npt.NDArray[np.int64]] = []
        similarity: list[npt.NDArray[np.float64]] = []
        for _ in range(min(num_ranks, left.shape[1])):
            # argmax takes the first of equals; a partial sort of every row would not say which it takes.
            best = left.argmax(axis=1)  # [N]
            ranks.append(best)
            similarity.append(given[neurons, best])
            left[neurons, best] = -np.inf
        rows = np.stack(ranks, axis=1)  # [N, R]
        return cls(
            rows,
            np.stack(similarity, axis=1),
            _at(scores.log_likelihood, neurons[:, None], rows),
            _at(None if scores.log_prior is None else scores.log_prior[None], np.zeros_like(rows), rows),
        )


def _at(
    values: Tensor | None, neurons: npt.NDArray[np.int64], concepts: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64] | None:
    return None if values is None else values.numpy()[neurons, concepts].astype(np.float64)
