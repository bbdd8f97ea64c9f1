"""Labels: the best concepts of every neuron, ties to the concept listed first."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tasks.dissection.labels import Labels
from tasks.dissection.similarity import Scores, cos, soft_wpmi
from tests.test_dissection.strategies import QUICK

tied_scores = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=8),
    elements=st.sampled_from([-433.5, -1.0, 0.0, 0.25, 7.0]),
)


@given(tied_scores, st.integers(1, 10))
@QUICK
def test_ranks_are_a_stable_sort_by_falling_similarity(scores: npt.NDArray[np.float32], num_ranks: int) -> None:
    labels = Labels.of(Scores(torch.from_numpy(scores)), num_ranks)
    expected = [sorted(range(len(row)), key=lambda m, row=row: (-row[m], m))[:num_ranks] for row in scores]
    assert labels.concept_rows.tolist() == expected
    assert labels.similarity.tolist() == [[row[m] for m in best] for row, best in zip(scores, expected, strict=True)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_scores_are_left_as_they_were(dtype: torch.dtype) -> None:
    similarity = torch.tensor([[1.0, 3.0, 2.0]], dtype=dtype)
    Labels.of(Scores(similarity), 3)
    assert similarity.tolist() == [[1.0, 3.0, 2.0]]


def test_a_label_says_what_its_similarity_is_made_of() -> None:
    generator = torch.Generator().manual_seed(0)
    P, A = torch.rand(30, 6, generator=generator), torch.rand(30, 4, generator=generator)
    labels = Labels.of(soft_wpmi(P, A, top_k=10, lam=0.7), 3)
    assert labels.log_likelihood is not None
    assert labels.log_prior is not None
    assert labels.log_prior.shape == (4, 3)
    np.testing.assert_allclose(
        labels.similarity, labels.log_likelihood - 0.7 * labels.log_prior, rtol=1e-5, atol=1e-5
    )


def test_a_cosine_has_no_likelihood_and_no_prior() -> None:
    labels = Labels.of(cos(torch.eye(3), torch.eye(3)), 1)
    assert labels.concept_rows.tolist() == [[0], [1], [2]]
    assert labels.log_likelihood is None
    assert labels.log_prior is None


def test_a_similarity_that_is_no_number_is_never_the_label() -> None:
    # Rank reorder as published takes a root of the mean P of the top images, NaN where that is negative.
    labels = Labels.of(Scores(torch.tensor([[0.1, math.nan, 0.3]])), 2)
    assert labels.concept_rows.tolist() == [[2, 0]]


def test_no_concept_is_a_neurons_label_twice() -> None:
    labels = Labels.of(Scores(torch.tensor([[0.5, -math.inf, -math.inf]])), 3)
    assert labels.concept_rows.tolist() == [[0, 1, 2]]


@given(
    hnp.arrays(np.float32, (3, 7), elements=st.sampled_from([-1.0, 0.0, 0.25, 7.0])),
    st.lists(st.booleans(), min_size=6, max_size=6),
    st.integers(1, 8),
    st.integers(1, 6),
)
@QUICK
def test_repeated_concepts_are_no_labels_in_whatever_panels(
    scores: npt.NDArray[np.float32], repeated: list[bool], num_ranks: int, width: int
) -> None:
    is_repeated, similarity = torch.tensor([False, *repeated]), torch.from_numpy(scores)
    parts = [
        Labels.of(Scores(similarity[:, at : at + width]), num_ranks, at, is_repeated[at : at + width])
        for at in range(0, 7, width)
    ]
    labels = parts[0]
    for part in parts[1:]:
        labels = labels.merge(part, num_ranks)
    once = (~is_repeated).nonzero()[:, 0]
    alone = Labels.of(Scores(similarity[:, once]), num_ranks)
    found = alone.concept_rows.shape[1]
    assert labels.concept_rows[:, :found].tolist() == once[torch.from_numpy(alone.concept_rows)].tolist()
    assert labels.similarity[:, :found].tolist() == alone.similarity.tolist()
    assert np.isneginf(labels.similarity[:, found:]).all()
