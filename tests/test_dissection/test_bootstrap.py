"""Intervals of figures: by units drawn anew."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.dissection import bootstrap
from tasks.dissection.bootstrap import Statistic
from tasks.dissection.metrics import mean, median, roc_auc


def by_loop(values: list[float], figure: object, resamples: int, seed: int) -> tuple[float, float]:
    """The same, one resample after another, on the units themselves rather than on counts of them."""
    random = np.random.default_rng(seed)
    drawn = random.integers(len(values), size=(resamples, len(values)))
    found = sorted(figure([values[i] for i in row]) for row in drawn)  # type: ignore[operator]
    return found[int(np.ceil(0.025 * resamples)) - 1], found[int(np.ceil(0.975 * resamples)) - 1]


@pytest.mark.parametrize("figure", [(mean, np.mean), (median, np.median)], ids=["mean", "median"])
def test_an_interval_is_that_of_a_loop_over_resamples(figure: tuple[object, object]) -> None:
    values = np.random.default_rng(3).exponential(size=17)
    ours = figure[0](values).interval(resamples=200, seed=5)  # type: ignore[operator]
    assert ours == pytest.approx(by_loop(values.tolist(), figure[1], 200, 5))


def test_resamples_that_are_worked_out_in_parts_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    statistic = mean(np.random.default_rng(0).random(30))
    whole = statistic.interval(resamples=100, seed=1)
    monkeypatch.setattr(bootstrap, "COUNTS_HELD", 7 * 30)
    assert statistic.interval(resamples=100, seed=1) == whole
    assert statistic.interval(resamples=100, seed=2) != whole


def test_the_interval_of_a_share_has_the_width_of_its_standard_error() -> None:
    low, high = mean(np.arange(1000) < 700).interval(resamples=1000, seed=0)
    assert low < 0.7 < high
    assert (high - low) / (2 * 1.96 * np.sqrt(0.7 * 0.3 / 1000)) == pytest.approx(1, abs=0.1)


def test_resamples_without_a_figure_are_left_out() -> None:
    # One right unit of three: every third resample or so has none of it.
    statistic = roc_auc(np.array([3.0, 2.0, 1.0]), np.array([True, False, False]))
    assert statistic.interval(resamples=50, seed=0) == (1.0, 1.0)


def test_no_units_no_resamples_and_no_figure_give_no_interval() -> None:
    undefined = roc_auc(np.array([1.0, 2.0]), np.array([True, True]))
    for statistic, resamples in [(mean(np.empty(0)), 10), (mean(np.ones(3)), 0), (undefined, 10)]:
        assert np.isnan(statistic.interval(resamples, seed=0)).all()
    assert np.isnan(undefined.value()) and np.isnan(Statistic(0, lambda counts: counts[:, 0] * 1.0).value())
