"""How labels are judged by activations, against plain formulas."""

from __future__ import annotations

import math
from functools import reduce

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tasks.dissection.faithfulness import Correlation, auc, mad, overlap, rank_correlations
from tests.test_dissection.strategies import QUICK

#: Few different values, so that there are ties.
ACTIVATIONS = st.lists(st.sampled_from([-1.5, 0.0, 0.25, 2.0]), min_size=1, max_size=12)


def of_blocks(X: torch.Tensor, Y: torch.Tensor, size: int) -> Correlation:
    blocks = zip(torch.split(X, size), torch.split(Y, size), strict=True)
    return reduce(Correlation.merge, (Correlation.of(x, y) for x, y in blocks))


@pytest.mark.parametrize("size", [1, 7, 60])
def test_a_correlation_is_pearson_s_in_blocks_of_any_size(size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(60, 3, generator=generator) + 1e4  # a mean that would eat the digits of sums of squares
    Y = X * torch.tensor([1.0, -2.0, 0.0]) + torch.randn(60, 3, generator=generator)
    found = of_blocks(X, Y, size).finish()
    expected = [np.corrcoef(X[:, n].double(), Y[:, n].double())[0, 1] for n in range(3)]
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_an_image_that_does_not_count_for_a_neuron_is_left_out_of_its_correlation() -> None:
    X = torch.tensor([[1.0, 1.0], [2.0, 2.0], [3.0, 9.0], [5.0, 3.0]])
    Y = torch.tensor([[2.0, 1.0], [4.0, 5.0], [-torch.inf, 2.0], [1.0, torch.nan]])
    found = of_blocks(X, Y, 1).finish()
    np.testing.assert_allclose(found[0], np.corrcoef([1, 2, 5], [2, 4, 1])[0, 1])
    np.testing.assert_allclose(found[1], np.corrcoef([1, 2, 9], [1, 5, 2])[0, 1])


def test_what_is_the_same_on_all_images_correlates_with_nothing() -> None:
    X, Y = torch.tensor([[1.0], [2.0], [3.0]]), torch.full((3, 1), 0.1)
    assert np.isnan(of_blocks(X, Y, 2).finish()).all() and np.isnan(of_blocks(Y, X, 3).finish()).all()


@QUICK
@given(ACTIVATIONS, ACTIVATIONS)
def test_auc_is_the_share_of_pairs_that_the_concept_wins(shown: list[float], control: list[float]) -> None:
    won = [1.0 if a > b else 0.5 if a == b else 0.0 for a in shown for b in control]
    assert auc(np.array(shown), np.array(control)) == pytest.approx(sum(won) / len(won))


def test_mad_is_in_standard_deviations_of_the_control() -> None:
    # Of 0, 0, 4, 4 the mean is 2 and the deviation 2.
    assert mad(np.array([5.0, 7.0]), np.array([0.0, 0.0, 4.0, 4.0])) == pytest.approx(2.0)
    assert mad(np.array([0.0]), np.array([0.0, 0.0, 4.0, 4.0])) == pytest.approx(-1.0)
    assert math.isnan(mad(np.array([1.0]), np.array([3.0, 3.0])))


def test_there_is_no_contrast_without_images() -> None:
    nothing, something = np.empty(0), np.array([1.0])
    for of in (auc, mad):
        assert math.isnan(of(nothing, something)) and math.isnan(of(something, nothing))


def test_a_rank_correlation_gives_ties_their_mean_rank() -> None:
    generator = torch.Generator().manual_seed(1)
    X, Y = (torch.randint(0, 5, (4, 30), generator=generator).float() for _ in range(2))
    Y[3] = -X[3]
    ranks = [pd.DataFrame(of.numpy()).rank(axis=1).to_numpy() for of in (X, Y)]
    expected = [np.corrcoef(ranks[0][n], ranks[1][n])[0, 1] for n in range(4)]
    np.testing.assert_allclose(rank_correlations(X, Y), expected, atol=1e-12)
    assert rank_correlations(X, Y)[3] == pytest.approx(-1)
    assert np.isnan(rank_correlations(torch.ones(1, 3), torch.arange(3.0)[None])).all()
    assert np.isnan(rank_correlations(torch.empty(2, 0), torch.empty(2, 0))).all()


def test_an_overlap_counts_common_concepts_wherever_they_stand() -> None:
    assert overlap(np.array([[1, 2, 3], [4, 5, 6]]), np.array([[3, 9, 1], [7, 8, 9]])).tolist() == [2 / 3, 0.0]


def test_the_figures_are_those_of_scipy_and_scikit_learn() -> None:
    stats = pytest.importorskip("scipy.stats", reason="the extra `evaluate` is not installed")
    ranking = pytest.importorskip("sklearn.metrics", reason="the extra `evaluate` is not installed")
    random = np.random.default_rng(2)
    shown, control = random.integers(0, 6, 20).astype(float), random.integers(0, 5, 50).astype(float)
    is_shown = np.repeat([1, 0], [20, 50])
    assert auc(shown, control) == pytest.approx(ranking.roc_auc_score(is_shown, np.concatenate([shown, control])))
    assert auc(shown, control) == pytest.approx(stats.mannwhitneyu(shown, control).statistic / 1_000)
    X, Y = torch.from_numpy(random.integers(0, 6, (2, 40))).float()[:, None]
    assert rank_correlations(X, Y)[0] == pytest.approx(stats.spearmanr(X[0], Y[0]).statistic)
