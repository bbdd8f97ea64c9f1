"""Each neuron's nearest others of its layer: by correlation of activations, by cosine of vectors.

Blocks of neurons against all, in the memory given: `[N, N]` is never held. Shapes: `S` images, `N` neurons, `D`
dimensions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tasks.dissection.streaming import first_largest
from tasks.dissection.threads import matmul

#: Decimals of a similarity. Sums in another order differ in the fifteenth, and so give the same neighbours.
DECIMALS = 6
#: Activations that differ by no more than this share of the largest one are one, but for rounding.
SAME = 1e-6
#: Numbers `[b, N]` that a block of neurons takes, in float64: products, two sums of squares, and what sorting takes.
MATRICES = 8


@dataclass(frozen=True)
class Neighbours:
    """The nearest of every neuron, nearest first; of equally near ones the lower number first.

    `neurons [N, k]` (int64) are -1 and `values [N, k]` (float64) NaN where there are fewer.
    """

    neurons: Tensor
    values: Tensor


def by_correlation(A: Tensor, k: int, memory: int) -> Neighbours:
    """By Pearson's correlation of activations `A [S, N]`, in `memory` bytes beside `A` in float64.

    An activation of -inf stands for an image that does not count for this neuron: two neurons are correlated over
    the images that count for both, if these are at least half of all. A neuron with one activation has no neighbours,
    and is nobody's.
    """
    counts = A.isfinite()  # [S, N]
    largest = A.masked_fill(~counts, -torch.inf).amax(0)
    smallest = A.masked_fill(~counts, torch.inf).amin(0)
    live = largest - smallest > SAME * torch.maximum(largest.abs(), smallest.abs())  # [N]
    mean = A.double().masked_fill(~counts, 0).sum(0) / counts.sum(0).clamp(min=1)
    Z = (A.double() - mean).masked_fill_(~counts, 0)
    Z /= Z.square().mean(0).sqrt().masked_fill(~live, 1)  # [S, N]
    if bool(counts.all()):
        return _nearest(lambda block: matmul(Z[:, block].T, Z) / len(Z), live, k, memory)
    M = counts.double()
    S = Z.square()

    def correlated(block: slice) -> Tensor:
        z, m, s = Z[:, block].T, M[:, block].T, S[:, block].T
        num = matmul(m, M)  # [b, N], images that count for both
        one, other = matmul(z, M), matmul(m, Z)  # sums over these
        mine, theirs = matmul(s, M) * num - one.square(), matmul(m, S) * num - other.square()
        # A neuron may have one activation on those images alone.
        is_told = (2 * num >= len(Z)) & (torch.minimum(mine, theirs) > SAME * num.square())
        found = (matmul(z, Z) * num - one * other) / (mine * theirs).clamp(min=0).sqrt()
        return found.masked_fill(~is_told, -torch.inf)

    return _nearest(correlated, live, k, memory)


def by_cosine(V: Tensor, live: Tensor, k: int, memory: int) -> Neighbours:
    """By cosine of vectors `V [N, D]` of the neurons that are `live [N]` (bool), in `memory` bytes beside them."""
    unit = V.double()
    unit = unit / unit.norm(dim=1, keepdim=True).clamp(min=torch.finfo(unit.dtype).tiny)
    return _nearest(lambda block: matmul(unit[block], unit.T), live, k, memory)


def _nearest(similarities: Callable[[slice], Tensor], live: Tensor, k: int, memory: int) -> Neighbours:
    """The `k` nearest by what `similarities` gives of a block of neurons to all, `[b, N]`."""
    num_neurons = len(live)
    step = max(1, memory // (8 * MATRICES * num_neurons))
    parts = []
    for start in range(0, num_neurons, step):
        block = slice(start, min(start + step, num_neurons))
        found = similarities(block).round_(decimals=DECIMALS).masked_fill_(~live, -torch.inf)
        found[~live[block]] = -torch.inf
        found[torch.arange(len(found)), torch.arange(block.start, block.stop)] = -torch.inf  # itself
        parts.append(first_largest(found, k))
    values, neurons = (torch.cat(part) for part in zip(*parts, strict=True))  # [N, min(k, N)]
    absent = values == -torch.inf
    return Neighbours(neurons.masked_fill(absent, -1), values.masked_fill(absent, torch.nan))
