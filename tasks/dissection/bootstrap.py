"""How sure a figure of some units is: the bootstrap, with units drawn anew."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

#: Share of the resamples that an interval holds, and where it ends.
LEVEL, ENDS = 0.95, (0.025, 0.975)
#: Counts of units that are held at a time: 32 MiB.
COUNTS_HELD = 1 << 22

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Statistic:
    """A figure of `U` units, which may each be counted several times or not at all.

    `of_counts` takes counts `[B, U]`, a row per resample, and gives the figure of each `[B]`: NaN where it is not
    defined.
    """

    num_units: int
    of_counts: Callable[[Counts], Floats]

    def value(self) -> float:
        """The figure of all units, each counted once; NaN where it is not defined, as of no unit."""
        return float(self.of_counts(np.ones((1, self.num_units), dtype=np.int64))[0]) if self.num_units else np.nan

    def interval(self, resamples: int, seed: int) -> tuple[float, float]:
        """Percentile interval of `LEVEL` (Efron & Tibshirani 1993, chapter 13): `(low, high)`.

        `U` units are drawn with replacement, `resamples` times; the same seed draws the same. Both ends are figures
        of a resample, with none between two. Resamples where the figure is not defined are left out; NaN where all
        are, or there is none. What all units share is so in every resample: 20 right of 20 give an interval of no
        width, which says nothing of other units.
        """
        if not self.num_units:
            return np.nan, np.nan
        random = np.random.default_rng(seed)
        at_once = max(1, COUNTS_HELD // self.num_units)
        parts = [
            self.of_counts(_drawn(random, self.num_units, min(at_once, resamples - start)))
            for start in range(0, resamples, at_once)
        ]
        values = np.concatenate(parts) if parts else np.empty(0)
        defined = values[~np.isnan(values)]
        if not len(defined):
            return np.nan, np.nan
        ends = np.quantile(defined, ENDS, method="inverted_cdf")
        return float(ends[0]), float(ends[1])


def _drawn(random: np.random.Generator, num_units: int, resamples: int) -> Counts:
    """How often each unit is drawn, `[resamples, U]`."""
    drawn = random.integers(num_units, size=(resamples, num_units)) + num_units * np.arange(resamples)[:, None]
    return np.bincount(drawn.ravel(), minlength=resamples * num_units).reshape(resamples, num_units)
