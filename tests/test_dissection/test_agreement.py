"""Agreement of raters, against an example from the literature and slow loops."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from tasks.dissection.agreement import Floats, equal_share, krippendorff_alpha, opposite_share

_ = np.nan
#: Four observers, twelve units, with gaps: Krippendorff 2011, section C; section E gives alpha of it as ordinal.
KRIPPENDORFF = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, _, _, _],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, _, 3],
        [_, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, _],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, _],
    ]
)


def pairs(ratings: Floats) -> list[tuple[float, float]]:
    return [
        (a, b) for unit in ratings.T for a, b in combinations(unit.tolist(), 2) if not (np.isnan(a) or np.isnan(b))
    ]


def slow_alpha(ratings: Floats) -> float:
    """Observed over expected disagreement, from ranks: no coincidence matrix."""
    units = [unit[~np.isnan(unit)] for unit in ratings.T]
    units = [unit for unit in units if len(unit) > 1]
    everything = np.concatenate(units)

    def distance(a: float, b: float) -> float:
        low, high = min(a, b), max(a, b)
        between = ((everything >= low) & (everything <= high)).sum()
        return float(between - ((everything == a).sum() + (everything == b).sum()) / 2) ** 2

    def disagreement(values: Floats) -> float:
        return sum(distance(a, b) for a in values for b in values) / (len(values) - 1)

    return 1 - sum(map(disagreement, units)) / disagreement(everything)


def test_alpha_is_that_of_krippendorff_s_own_example() -> None:
    assert round(krippendorff_alpha(KRIPPENDORFF), 3) == 0.815


@pytest.mark.parametrize("seed", range(5))
def test_alpha_is_that_of_slow_loops(seed: int) -> None:
    random = np.random.default_rng(seed)
    ratings = random.integers(1, 6, size=(4, 15)).astype(float)
    ratings[random.random(ratings.shape) < 0.3] = np.nan
    assert krippendorff_alpha(ratings) == pytest.approx(slow_alpha(ratings))


def test_alpha_takes_the_order_of_values_alone_and_units_and_raters_in_any_order() -> None:
    expected = krippendorff_alpha(KRIPPENDORFF)
    assert krippendorff_alpha(KRIPPENDORFF**3 - 7) == pytest.approx(expected)
    assert krippendorff_alpha(KRIPPENDORFF[::-1, ::-1]) == pytest.approx(expected)


def test_alpha_of_full_agreement_is_one_and_of_what_cannot_be_known_nan() -> None:
    assert krippendorff_alpha(np.array([[1.0, 2, 3], [1, 2, 3]])) == 1
    assert np.isnan(krippendorff_alpha(np.array([[1.0, _], [_, 2]])))
    assert np.isnan(krippendorff_alpha(np.full((2, 3), 1.0)))
    assert np.isnan(krippendorff_alpha(np.empty((0, 0))))


def test_shares_are_those_of_all_pairs() -> None:
    every = pairs(KRIPPENDORFF)
    assert equal_share(KRIPPENDORFF) == pytest.approx(sum(a == b for a, b in every) / len(every))
    opposite = sum({a, b} == {1, 4} for a, b in every) / len(every)
    assert opposite_share(KRIPPENDORFF, 1, 4) == pytest.approx(opposite) and opposite > 0
    assert np.isnan(equal_share(np.array([[1.0, _]])))
