"""Reductions declared by their parts: `of` one block, `merge` two, `finish`. Any chunking gives the same.

Shapes: `I` images, `N` neurons, `C` concepts, `K` top images.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


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
        # torch.topk breaks ties as it likes, so equal activations would depend on the chunking. A stable
        # sort does not, and sorting is not what labelling spends its time on.
        values, order = torch.sort(activations, dim=0, descending=True, stable=True)  # [rows, N]
        return cls(values[:k].contiguous(), order[:k] + first_row)

    def merge(self, other: TopImages, k: int) -> TopImages:
        """Top `k` of two blocks' tops, in whichever order the blocks come."""
        values = torch.cat([self.values, other.values])  # [K1 + K2, N]
        rows = torch.cat([self.rows, other.rows])
        # Two stable sorts, the less significant key first: by row, then by falling activation.
        by_row = torch.argsort(rows, dim=0, stable=True)
        values, rows = values.gather(0, by_row), rows.gather(0, by_row)
        by_value = torch.argsort(values, dim=0, descending=True, stable=True)[:k]  # [k, N]
        return TopImages(values.gather(0, by_value), rows.gather(0, by_value))

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
