"""Reductions declared by their parts: `of` one block, `merge` two, `finish`. Any chunking gives the same.

Shapes: `I` images, `N` neurons, `C` concepts, `K` top images.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from tasks.dissection.threads import each, in_threads, matmul

#: Rows of a matrix, and concepts, that one thread works on.
ROWS_PER_PART = 256


def first_largest(X: Tensor, k: int, positions: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The `min(k, M)` largest of each row of `X [N, M]`, largest first, and where they stand; ties to the lower.

    They stand at `positions [N, M]` (int64, all different in a row), by default their columns. `torch.topk` takes any
    of equal values, so that what it takes would depend on the chunking. It is four times faster than a stable sort,
    though, and so only rows in which the last one taken has an equal are looked at again.
    """

    def of_some(rows: slice) -> tuple[Tensor, Tensor]:
        return _first_largest(X[rows], k, None if positions is None else positions[rows])

    parts = in_threads(of_some, _parts(len(X)))
    values, where = zip(*parts, strict=True)
    return torch.cat(values), torch.cat(where)


def _parts(length: int) -> list[slice]:
    return [slice(start, start + ROWS_PER_PART) for start in range(0, max(1, length), ROWS_PER_PART)]


def _first_largest(X: Tensor, k: int, positions: Tensor | None) -> tuple[Tensor, Tensor]:
    k = min(k, X.shape[1])
    values, columns = X.topk(min(k + 1, X.shape[1]), dim=1)  # [N, k + 1]
    if k < X.shape[1]:
        doubtful = (values[:, k - 1] == values[:, k]).nonzero().squeeze(1)
        values, columns = values[:, :k], columns[:, :k]
        if len(doubtful):
            some, last = X[doubtful], values[doubtful, -1:]
            where = torch.arange(X.shape[1]) if positions is None else positions[doubtful]
            # All that are larger, then equals from the lowest position on.
            key = torch.where(some == last, -1 - where, torch.iinfo(torch.int64).min)  # [doubtful, M]
            columns[doubtful] = key.masked_fill_(some > last, 0).topk(k, dim=1).indices
            values[doubtful] = some.gather(1, columns[doubtful])
    return _in_order(values, columns if positions is None else positions.gather(1, columns))


def _in_order(values: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Both `[N, K]` by falling value, and by rising position where values are equal."""
    # The less significant key first, and then a stable sort.
    positions, by_position = positions.sort(dim=1)
    values, by_value = values.gather(1, by_position).sort(dim=1, descending=True, stable=True)
    return values, positions.gather(1, by_value)


@dataclass(frozen=True)
class TopImages:
    """The `K` most activating images of every neuron, most activating first; ties go to the lower row.

    `values` `[K, N]` are activations, `rows` `[K, N]` (int64) are rows of the probe set. `K` may differ
    between two blocks: a block of 3 rows has only 3 top images to give. An activation of -inf stands for an image
    that does not count for this neuron; it comes last, where there are too few others.
    """

    values: Tensor
    rows: Tensor

    @classmethod
    def of(cls, activations: Tensor, k: int, first_row: int = 0) -> TopImages:
        """Top `min(k, rows)` of a block `[rows, N]` whose first row is row `first_row` of the probe set."""
        values, rows = first_largest(activations.T.contiguous(), k)  # [N, K]
        return cls(values.T.contiguous(), rows.T.contiguous() + first_row)

    def merge(self, *others: TopImages, k: int) -> TopImages:
        """Top `k` of several blocks' tops, in whichever order the blocks come."""
        values = torch.cat([self.values, *(other.values for other in others)])  # [K1 + K2 + …, N]
        rows = torch.cat([self.rows, *(other.rows for other in others)])
        values, rows = first_largest(values.T.contiguous(), k, rows.T.contiguous())  # [N, K]
        return TopImages(values.T.contiguous(), rows.T.contiguous())

    def beside(self, other: TopImages) -> TopImages:
        """Both, which are of different neurons; these come first."""
        return TopImages(torch.cat([self.values, other.values], 1), torch.cat([self.rows, other.rows], 1))

    def first(self, k: int) -> TopImages:
        """The first `k` of them, or all where there are fewer."""
        return TopImages(self.values[:k], self.rows[:k])

    @property
    def num_images(self) -> int:
        """How many top images each neuron has: `K`."""
        return self.rows.shape[0]

    @property
    def num_neurons(self) -> int:
        """`N`."""
        return self.rows.shape[1]


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
        """Of a block of rows: `embeddings [rows, D]`, `activations [rows, N]`; one of -inf adds nothing."""
        E, A = embeddings.double(), activations.double()
        A = A.masked_fill(A.isneginf(), 0)
        return cls(E.T @ E, matmul(E.T, A), A.square().sum(0))

    def merge(self, other: CosineMoments) -> CosineMoments:
        """Of the rows of both."""
        return CosineMoments(self.images + other.images, self.cross + other.cross, self.neurons + other.neurons)

    def finish(self, concepts: Tensor) -> Tensor:
        """Cosines `[N, C]` for concept embeddings `[C, D]`; 0 for a neuron that is 0 on every image."""
        cosines = concepts.new_empty(len(self.neurons), len(concepts))

        def finish(some: slice) -> None:
            T = concepts[some].double()  # [c, D]
            norms = ((T @ self.images) * T).sum(1).clamp(min=0).sqrt()  # [c]
            scale = self.neurons.sqrt()[:, None] * norms  # [N, c]
            cosines[:, some] = ((T @ self.cross).T / scale.clamp(min=torch.finfo(scale.dtype).tiny)).to(cosines)

        each(finish, _parts(len(concepts)))
        return cosines


@dataclass(frozen=True)
class Statistics:
    """What every neuron's finite activations are like, `[N]` each.

    `count` (int64) says how many there are, `minimum` and `maximum` (float32) are their extremes, +inf and -inf where
    there is none, and `total` (float64) is their sum.
    """

    count: Tensor
    minimum: Tensor
    maximum: Tensor
    total: Tensor

    @classmethod
    def of(cls, activations: Tensor) -> Statistics:
        """Of a block `[rows, N]` with at least one row."""
        total = activations.sum(0, dtype=torch.float64)
        if total.isfinite().all():  # so is every activation, as nearly always: a third of the time
            count = torch.full_like(total, len(activations), dtype=torch.int64)
            return cls(count, activations.amin(0), activations.amax(0), total)
        ignored = ~activations.isfinite()
        return cls(
            (~ignored).sum(0),
            activations.masked_fill(ignored, math.inf).amin(0),
            activations.masked_fill(ignored, -math.inf).amax(0),
            activations.masked_fill(ignored, 0).sum(0, dtype=torch.float64),
        )

    def merge(self, other: Statistics) -> Statistics:
        """Of the rows of both."""
        return Statistics(
            self.count + other.count,
            torch.minimum(self.minimum, other.minimum),
            torch.maximum(self.maximum, other.maximum),
            self.total + other.total,
        )

    def beside(self, other: Statistics) -> Statistics:
        """Both, which are of different neurons; these come first."""
        pairs = ((getattr(self, one.name), getattr(other, one.name)) for one in fields(self))
        return Statistics(*map(torch.cat, pairs))

    @property
    def mean(self) -> Tensor:
        """Mean finite activation `[N]`, float64; 0 where there is none."""
        return self.total / self.count.clamp(min=1)

    @property
    def is_dead(self) -> Tensor:
        """Dead neurons `[N]` (bool): no two different finite activations, so no image stands out."""
        return self.maximum <= self.minimum
