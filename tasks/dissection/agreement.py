"""How far raters agree. Ratings are `[R, U]`, of `R` raters on `U` units, NaN where a rater did not rate a unit."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def krippendorff_alpha(ratings: Floats) -> float:
    """Krippendorff's alpha of ordinal ratings `[R, U]`, missing ones NaN: 1 is perfect agreement, 0 that of chance.

    α = 1 − (n − 1) · Σ_{c<k} o_ck δ²_ck / Σ_{c<k} n_c n_k δ²_ck, where o_ck counts the pairs of ratings c and k of
    one unit by two raters, those of a unit with m ratings weighing 1 / (m − 1) each; n_c = Σ_k o_ck, n = Σ_c n_c, and
    δ_ck = Σ_{g=c}^{k} n_g − (n_c + n_k) / 2, the ranks that lie between c and k (K. Krippendorff, "Computing
    Krippendorff's Alpha-Reliability", University of Pennsylvania, 2011, sections C and E). Only the order of the
    values counts. NaN where no unit has two ratings, or all ratings are the same.
    """
    counts = _value_counts(ratings)
    counts = counts[counts.sum(axis=1) > 1]  # [U', V]: a unit with one rating says nothing of agreement
    if not len(counts):
        return np.nan
    of_unit = counts.sum(axis=1, keepdims=True)
    # Each rating is paired with every other of its unit, and not with itself.
    coincidences = (counts / (of_unit - 1)).T @ counts - np.diag((counts / (of_unit - 1)).sum(axis=0))  # [V, V]
    frequencies = coincidences.sum(axis=1)  # [V]
    middles = np.cumsum(frequencies) - frequencies / 2
    distances = (middles[:, None] - middles[None, :]) ** 2  # [V, V] δ²
    expected = float((np.outer(frequencies, frequencies) * distances).sum())
    observed = float((coincidences * distances).sum())
    if expected == 0:
        return np.nan
    return 1 - (float(frequencies.sum()) - 1) * observed / expected


def equal_share(ratings: Floats) -> float:
    """Share of pairs of ratings `[R, U]` of one unit that are equal (A.10: 68.4 %); NaN where there is no pair."""
    counts = _value_counts(ratings)
    return _share((counts * (counts - 1) / 2).sum(), counts)


def opposite_share(ratings: Floats, low: float, high: float) -> float:
    """Share of pairs of ratings `[R, U]` of one unit that are `low` and `high` (A.10: 2.4 %); NaN without a pair."""
    counts = _value_counts(ratings)
    return _share((np.sum(ratings == low, axis=0) * np.sum(ratings == high, axis=0)).sum(), counts)


def _value_counts(ratings: Floats) -> Floats:
    """How often each unit has each value that occurs, the values rising, `[U, V]`."""
    values = np.unique(ratings[~np.isnan(ratings)])
    counts: Floats = (ratings[:, :, None] == values).sum(axis=0).astype(np.float64)
    return counts


def _share(num_pairs: float, counts: Floats) -> float:
    of_unit = counts.sum(axis=1)
    total = float((of_unit * (of_unit - 1) / 2).sum())
    return float(num_pairs) / total if total else np.nan
