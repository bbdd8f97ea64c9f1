"""How a neuron's activations spread: moments and a histogram, of blocks of images in turn.

Shapes: `I` images, `N` neurons, `B` bins.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

#: Bins of a histogram, of one width.
NUM_BINS = 32
#: What a bin of a neuron with one activation is as wide as, at least, on both sides of it; as numpy has it.
HALF_WIDTH = 0.5
#: Share of a number that moves it to another one, in float64 with room to spare.
NEXT = 1e-9

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]
Activations = npt.NDArray[np.float32]

# Without fastmath, which takes for granted that nothing is infinite.
_compiled = njit(nogil=True, error_model="numpy", cache=True)


class Spread:
    """Standard deviation and histogram of every neuron, whose extremes and mean are known.

    An activation of -inf stands for an image that does not count for this neuron.
    """

    def __init__(self, minimum: Floats, maximum: Floats, mean: Floats) -> None:
        """`[N]` each, of the finite activations; a neuron without any has a minimum above its maximum."""
        self._has_any = np.isfinite(minimum) & (minimum <= maximum)
        self._low = np.where(self._has_any, minimum, np.inf)  # no activation reaches it
        self._high = high = np.where(self._has_any, maximum, np.inf)
        half = np.maximum(HALF_WIDTH, np.abs(self._low) * NEXT)
        is_one = self._low == high
        with np.errstate(invalid="ignore"):  # inf - inf, of those without any
            self._first = np.where(is_one, self._low - half, self._low)
            self._width = np.where(is_one, 2 * half, high - self._low) / NUM_BINS
        self._mean = mean
        self.counts: Counts = np.zeros((len(mean), NUM_BINS), np.int64)
        self._sums, self._squares = np.zeros(len(mean)), np.zeros(len(mean))

    def add(self, block: Activations) -> None:
        """Takes in activations `[rows, N]`; one beyond the extremes, which there cannot be, would count for none."""
        bins = self._low, self._high, self._first, self._width
        _add(block, *bins, self._mean, self.counts, self._sums, self._squares)

    @property
    def edges(self) -> Floats:
        """Edges of the bins `[N, B + 1]`, rising; NaN for a neuron without any finite activation.

        A bin has its lower edge and not its upper one; the last has both.
        """
        with np.errstate(invalid="ignore"):
            edges: Floats = self._first[:, None] + self._width[:, None] * np.arange(NUM_BINS + 1)
        edges[~self._has_any] = np.nan
        return edges

    @property
    def std(self) -> Floats:
        """Standard deviation `[N]` of the activations taken in; NaN where there is none."""
        num = self.counts.sum(1)
        with np.errstate(invalid="ignore"):
            variance = self._squares / num - (self._sums / num) ** 2
        deviation: Floats = np.sqrt(np.maximum(variance, 0))
        return deviation


@_compiled  # type: ignore[untyped-decorator]
def _add(
    block: Activations,
    low: Floats,
    high: Floats,
    first: Floats,
    width: Floats,
    mean: Floats,
    counts: Counts,
    sums: Floats,
    squares: Floats,
) -> None:
    last = counts.shape[1] - 1
    for i in range(block.shape[0]):
        for j in range(block.shape[1]):
            x = np.float64(block[i, j])
            if low[j] <= x <= high[j]:  # or a number beyond the bins would be written to somebody else's
                difference = x - mean[j]
                sums[j] += difference
                squares[j] += difference * difference
                counts[j, min(int((x - first[j]) / width[j]), last)] += 1
