"""Reductions declared by their parts: `of` one block, `merge` two, `finish`. Any chunking gives the same.

Shapes: `I` images, `N` neurons, `C` concepts, `K` top images.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


def first_largest(X: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The `min(k, M)` largest of each row of `X [N, M]`, largest first, and their columns; ties to the lower column.

    `torch.topk` takes any of equal values, so that what it takes would depend on the chunking. It is four times
    faster than a stable sort, though, and so only rows in which the last one taken has an equal are sorted.
    """
    k = min(k, X.shape[1])
    values, columns = X.topk(min(k + 1, X.shape[1]), dim=1)  # [N, k + 1]
    if k < X.shape[1]:
        doubtful = (values[:, k - 1] == values[:, k]).nonzero().squeeze(1)
        values, columns = values[:, :k], columns[:, :k]
        if len(doubtful):
            sorted_values, order = X[doubtful].sort(dim=1, descending=True, stable=True)
            values[doubtful], columns[doubtful] = sorted_values[:, :k], order[:, :k]
    return _in_order(values, columns, dim=1)


def _in_order(values: Tensor, positions: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Both by falling value, and by rising position where values are equal."""
    # Two stable sorts, the less significant key first.
    by_position = torch.argsort(positions, dim=dim, stable=True)
    values, positions = values.gather(dim, by_position), positions.gather(dim, by_position)
    by_value = torch.argsort(values, dim=dim, descending=True, stable=True)
    return values.gather(dim, by_value), positions.gather(dim, by_value)


@dataclass(frozen=True)
class TopImages:
    """The `K` most activating images of every neuron, most activating first; ties go to the lower row.

    `values` `[K, N]` are activations, `rows` `[K, N]` (int64) are rows of the probe set. `K` may differ
    between two blocks: a block of 3 rows has only 3 top images to give.
    """

    values: Tensor
    rows: Tensor

    @classmethod
    def of(cls, activations: Tensor, k: int, first_row: int = 0) -> TopImages:
        """Top `min(k, rows)` of a block `[rows, N]` whose first row is row `first_row` of the probe set."""
        values, rows = first_largest(activations.T.contiguous(), k)  # [N, K]
        return cls(values.T.contiguous(), rows.T.contiguous() + first_row)

    def merge(self, other: TopImages, k: int) -> TopImages:
        """Top `k` of two blocks' tops, in whichever order the blocks come."""
        values = torch.cat([self.values, other.values])  # [K1 + K2, N]
        rows = torch.cat([self.rows, other.rows])
        return TopImages(*(part[:k].contiguous() for part in _in_order(values, rows, dim=0)))

    def first(self, k: int) -> TopImages:
        """The first `k` of them, or all where there are fewer."""
        return TopImages(self.values[:k], self.rows[:k])

    @property
    def num_images(self) -> int:
        """How many top images each neuron has: `K`."""
        return self.rows.shape[0]


@dataclass(frozen=True)
class LogMeanExp:
    """`log(mean(exp(x)))` over neurons, as a running maximum and sum, so that no block is held twice.

    `maximum` and `scaled_sum` are `[C]` float64; `count` is the number of rows merged so far.
    """

    maximum: Tensor
    scaled_sum: Tensor
    count: int

    @classmethod
    def of(cls, block: Tensor) -> LogMeanExp:
        """Of a block `[neurons, C]` with at least one neuron."""
        block = block.double()
        maximum = block.amax(dim=0)
        return cls(maximum, (block - maximum).exp().sum(dim=0), block.shape[0])

    def merge(self, other: LogMeanExp) -> LogMeanExp:
        """Of the rows of both."""
        maximum = torch.maximum(self.maximum, other.maximum)
        mine = self.scaled_sum * (self.maximum - maximum).exp()
        theirs = other.scaled_sum * (other.maximum - maximum).exp()
        return LogMeanExp(maximum, mine + theirs, self.count + other.count)

    def finish(self) -> Tensor:
        """`log(mean(exp(x)))` `[C]`, float64."""
        return self.maximum + self.scaled_sum.log() - math.log(self.count)


@dataclass(frozen=True)
class CosineMoments:
    """What the cosine of columns of `P = E_I E_T^T` and `A` is made of, without `P` (equation 1).

    `P^T A = E_T (E_I^T A)` and `‖P[:, m]‖² = t_m^T (E_I^T E_I) t_m`: two sums over images whose size depends neither
    on `I` nor on `C`. All float64: `images [D, D]`, `cross [D, N]`, `neurons [N]` (sums of squares).
    """

    images: Tensor
    cross: Tensor
    neurons: Tensor

    @classmethod
    def of(cls, embeddings: Tensor, activations: Tensor) -> CosineMoments:
        """Of a block of rows: `embeddings [rows, D]`, `activations [rows, N]`."""
        E, A = embeddings.double(), activations.double()
        return cls(E.T @ E, E.T @ A, A.square().sum(0))

    def merge(self, other: CosineMoments) -> CosineMoments:
        """Of the rows of both."""
        return CosineMoments(self.images + other.images, self.cross + other.cross, self.neurons + other.neurons)

    def finish(self, concepts: Tensor) -> Tensor:
        """Cosines `[N, C]` for concept embeddings `[C, D]`; 0 for a neuron that is 0 on every image."""
        T = concepts.double()
        norms = ((T @ self.images) * T).sum(1).clamp(min=0).sqrt()  # [C]
        scale = self.neurons.sqrt()[:, None] * norms  # [N, C]
        return ((T @ self.cross).T / scale.clamp(min=torch.finfo(scale.dtype).tiny)).to(concepts.dtype)


@dataclass(frozen=True)
class Range:
    """Smallest and largest activation of every neuron, `[N]` each."""

    minimum: Tensor
    maximum: Tensor

    @classmethod
    def of(cls, activations: Tensor) -> Range:
        """Of a block `[rows, N]` with at least one row."""
        return cls(activations.amin(0), activations.amax(0))

    def merge(self, other: Range) -> Range:
        """Of the rows of both."""
        return Range(torch.minimum(self.minimum, other.minimum), torch.maximum(self.maximum, other.maximum))

    def finish(self) -> Tensor:
        """Dead neurons `[N]` (bool): the same activation on every image, so no image stands out."""
        return self.minimum == self.maximum
