"""Moments and histograms: numpy's, whatever the blocks."""

from __future__ import annotations

from random import Random

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given

from tasks.dissection.spread import NUM_BINS, Spread
from tests.test_dissection.strategies import QUICK, activation_blocks
from tests.test_dissection.test_streaming import chunked, randoms

Array = npt.NDArray[np.float32]


def spread_of(A: Array, parts: list[slice] | None = None) -> Spread:
    """-inf is ignored."""
    counts = np.isfinite(A)
    low, high = (f(A, axis=0, where=counts, initial=s * np.inf) for f, s in ((np.min, 1), (np.max, -1)))
    total = np.sum(A, axis=0, where=counts, dtype=np.float64)
    spread = Spread(low.astype(np.float64), high.astype(np.float64), total / np.maximum(1, counts.sum(0)))
    for part in parts or [slice(None)]:
        spread.add(A[part])
    return spread


@given(activation_blocks(not_finite=True), randoms)
@QUICK
def test_histograms_and_deviations_are_numpys_whatever_the_blocks(A: Array, random: Random) -> None:
    A[~np.isfinite(A)] = -np.inf
    spread = spread_of(A, chunked(len(A), random))
    for counts, edges, std, q in zip(spread.counts, spread.edges, spread.std, A.T, strict=True):
        q = q[q > -np.inf]
        if len(q):
            expected, bins = np.histogram(q, NUM_BINS)
            assert counts.tolist() == expected.tolist()
            assert np.allclose(edges, bins)
            assert std == pytest.approx(np.std(q.astype(np.float64)), abs=1e-9)
        else:
            assert counts.sum() == 0
            assert np.isnan(edges).all() and np.isnan(std)


def test_many_random_activations_fall_into_numpys_bins() -> None:
    A = np.random.default_rng(0).gamma(0.3, 5.0, (5_000, 3)).astype(np.float32)
    spread = spread_of(A)
    for counts, edges, q in zip(spread.counts, spread.edges, A.T, strict=True):
        assert counts.tolist() == np.histogram(q.astype(np.float64), edges)[0].tolist()
        assert counts.tolist() == np.histogram(q, NUM_BINS)[0].tolist()


@pytest.mark.parametrize("value", [0.0, 2.5, -3e38, 1e-40])
def test_one_activation_has_bins_around_it_with_rising_edges(value: float) -> None:
    spread = spread_of(np.full((7, 1), value, np.float32))
    assert spread.counts.sum() == spread.counts.max() == 7
    assert (np.diff(spread.edges[0]) > 0).all()
    assert spread.edges[0, 0] < np.float32(value) < spread.edges[0, -1]
    assert spread.std.tolist() == [0]


def test_extremes_as_far_apart_as_floats_go_are_counted() -> None:
    spread = spread_of(np.array([[-3e38], [3e38], [0.0]], np.float32))
    assert spread.counts[0, [0, NUM_BINS // 2, -1]].tolist() == [1, 1, 1]


def test_activations_beyond_the_extremes_are_counted_nowhere() -> None:
    low, high = np.array([0.0, -np.inf, 1.0]), np.array([4.0, 4.0, 1.0])
    spread = Spread(low, high, np.zeros(3))
    spread.add(np.array([[0, 3, 1], [4, 9, 1], [-1, 0, 3e38], [1e30, 0, -3e38]], np.float32))
    assert spread.counts.sum(1).tolist() == [2, 0, 2]
    assert np.isnan(spread.edges[1]).all()


def test_a_sample_has_a_deviation_of_its_own() -> None:
    q = np.array([[5], [6], [9]], np.float32)
    spread = Spread(np.array([0.0]), np.array([9.0]), np.array([1.0]))  # of many more
    spread.add(q)
    assert spread.std[0] == pytest.approx(q.std())


def test_a_large_mean_leaves_the_deviation_its_digits() -> None:
    A = (1e4 + np.random.default_rng(0).normal(size=(20_000, 1))).astype(np.float32)
    assert spread_of(A).std[0] == pytest.approx(np.std(A.astype(np.float64)), rel=1e-9)
