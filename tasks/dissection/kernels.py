"""The inner loops of SoftWPMI: compiled for float32 on processors, plain torch for the rest."""

from __future__ import annotations

import math
from copy import copy
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from numba import njit
from torch import Tensor
from torch.nn import functional as F

from tasks.dissection.threads import each

#: What a thread scores at once. 4,096 images times 64 float32 are 1 MB, about a core's second cache, and a row of
#: such a tile is four cache lines that the processor fetches together.
IMAGES_PER_TILE, CONCEPTS_PER_TILE = 4_096, 64
#: A tile has more images where a neuron would have fewer than this among them: to add to a sum costs as much.
TERMS_PER_TILE = 16
#: Numbers that torch takes at once: what a processor's caches hold, and what keeps another device busy.
NUMBERS_ON_CPU, NUMBERS_ELSEWHERE = 1 << 21, 1 << 27
#: Largest power of two that a product may reach in float32, whose exponent ends at 127.
LARGEST_EXPONENT = 126

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]
ONE = np.float32(1)
#: Rows of a product that are computed at once.
ROWS_AT_ONCE = 1_024

compiled = njit(nogil=True, fastmath=True, error_model="numpy", cache=True)


class Terms(NamedTuple):
    """What a block of images adds: the images of neuron `neurons[i]` are `ends[i]` to `ends[i + 1]` of the others.

    `neurons [n]`, `ends [n + 1]`, `positions [e]` (within the block), `odds [e]`.
    """

    neurons: Tensor
    ends: Tensor
    positions: Tensor
    odds: Tensor


class LogOfProducts:
    """`Σ_k log(1 + odds[k, n] s[rows[k, n], m])` `[N, C]`, the images of `s [I, C]` coming in blocks.

    Terms are multiplied for as long as the product fits in float32, so that there is one logarithm for many terms.
    """

    def __init__(self, rows: Tensor, odds: Tensor) -> None:
        """`rows [K, N]` (integers) are positions of images; `odds` `[K]` or `[K, N]`, 0 where one does not count."""
        # One sort of integers, the position in front and `k` behind: numpy's is many times as fast as torch's.
        keys = np.left_shift(rows.T.long().cpu().numpy(), 32, order="C")  # [N, K]
        keys |= np.arange(len(rows))
        keys.sort(axis=1)
        # [N, K] both, by rising position: the images of a block are neighbours.
        self.rows = torch.from_numpy((keys >> 32).astype(np.int32))
        of_neuron = (odds.expand_as(rows.T) if odds.ndim == 1 else odds.T).cpu()
        self.odds = of_neuron.gather(1, torch.from_numpy(keys & 0xFFFFFFFF))
        self.starts = torch.zeros(len(self.rows), 1, dtype=torch.int32)  # [N, 1]
        self.largest_odds = float(odds.max())
        images_per_term = (int(rows.max()) + 1) / len(rows)
        self.images_at_once = max(IMAGES_PER_TILE, int(TERMS_PER_TILE * images_per_term))
        self.total: Tensor | None = None

    def anew(self) -> LogOfProducts:
        """The same terms with nothing added yet, for other concepts."""
        other = copy(self)
        other.total, other.starts = None, torch.zeros_like(self.starts)
        return other

    def add(self, s: Tensor, first: int) -> None:
        """The images `first` to `first + B` of `s [B, C]`. Blocks come in rising order, without a gap."""
        if self.total is None:
            self.rows, self.odds, self.starts = (x.to(s.device) for x in (self.rows, self.odds, self.starts))
            self.odds = self.odds.to(s.dtype)
            self.total = zeros(len(self.rows), s)
        for start in range(0, len(s), self.images_at_once):
            self._add(s[start : start + self.images_at_once], first + start, self.total)

    def _add(self, s: Tensor, first: int, total: Tensor) -> None:
        end = torch.full_like(self.starts, first + len(s))
        starts, stops = self.starts, torch.searchsorted(self.rows, end, out_int32=True)  # [N, 1]: a neuron's run
        self.starts = stops
        counts = (stops - starts).squeeze(1)
        neurons = counts.nonzero().squeeze(1)  # [n], those with an image in this block
        if not len(neurons):
            return
        # Their images in one row, which the kernel reads from end to end.
        ends = F.pad(counts[neurons].cumsum(0), (1, 0))  # [n + 1]
        shift = neurons * self.rows.shape[1] + starts[neurons, 0] - ends[:-1]  # [n]
        entries = torch.arange(int(ends[-1]), device=s.device) + shift.repeat_interleave(counts[neurons])  # [e]
        terms = Terms(neurons, ends, self.rows.view(-1)[entries] - first, self.odds.view(-1)[entries])
        add_terms = by_tiles if s.device.type == "cpu" and s.dtype == torch.float32 else by_torch
        add_terms(s, terms, self.largest_odds, total)

    def finish(self) -> Tensor:
        """The sums, of the type of `s`."""
        if self.total is None:
            raise ValueError("no image was added")
        return self.total


def product(X: Tensor, Y: Tensor) -> Tensor:
    """`X Y^T` `[n, m]` of contiguous `X [n, d]` and `Y [m, d]`."""
    if X.device.type != "cpu" or X.dtype != torch.float32 or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return X @ Y.T
    # A convolution of 1 x 1 with rows as pixels, channels last, is the same sums. It runs in oneDNN, which uses
    # AVX-512 on any processor that has it; a product runs in MKL, which does so on Intel's alone: 240 GFLOP/s instead
    # of 145 on two cores of an EPYC. Some rows at a time: it holds them, and what they give, twice.
    out = torch.from_numpy(np.empty((len(X), len(Y)), np.float32))

    def multiply(start: int) -> None:
        rows = slice(start, start + ROWS_AT_ONCE)
        pixels = X[rows][None, None].permute(0, 3, 1, 2)  # [1, d, 1, n]
        out[rows].copy_(F.conv2d(pixels, Y[:, :, None, None]).permute(0, 2, 3, 1)[0, 0])

    each(multiply, range(0, len(X), ROWS_AT_ONCE))
    return out


def zeros(num_neurons: int, s: Tensor) -> Tensor:
    """`[N, C]` of the type of `s [B, C]`."""
    if s.device.type == "cpu" and s.dtype == torch.float32:
        # numpy asks the system for large pages, torch does not: 164 MB are there in 10 ms instead of 35 to 150.
        return torch.from_numpy(np.zeros((num_neurons, s.shape[1]), np.float32))
    return torch.zeros(num_neurons, s.shape[1], dtype=s.dtype, device=s.device)


def terms_together(largest: float) -> int:
    """How many terms of at most `1 + largest` may be multiplied. At least one, whatever the odds."""
    bits_per_term = max(1.0, math.log2(1 + largest))
    return max(1, int(LARGEST_EXPONENT / bits_per_term))


def by_tiles(s: Tensor, terms: Terms, largest_odds: float, total: Tensor) -> None:
    """On the processor, a tile of concepts per thread."""
    shares, sums = s.numpy(), total.numpy()
    arrays = [part.numpy() for part in terms]

    def score(start: int) -> None:
        tile = np.ascontiguousarray(shares[:, start : start + CONCEPTS_PER_TILE])  # [B, c]
        together = terms_together(largest_odds * float(tile.max()))
        add_logarithms(tile, *arrays, together, sums, start)

    each(score, range(0, s.shape[1], CONCEPTS_PER_TILE))


@compiled  # type: ignore[untyped-decorator]
def add_logarithms(
    tile: Floats,
    neurons: Integers,
    ends: Integers,
    positions: npt.NDArray[np.int32],
    odds: Floats,
    together: int,
    total: Floats,
    first_concept: int,
) -> None:  # pragma: no cover (compiled)
    """Adds `Terms` of `tile [B, c]` to `c` columns of `total [N, C]`, a logarithm for every `together` of a neuron.

    `total` comes whole: of a slice of its columns the compiler does not know that neighbours lie side by side, and
    takes logarithms one by one. The product takes four terms at a time: it is loaded and stored a quarter as often.
    """
    num_concepts = tile.shape[1]
    product = np.empty(num_concepts, np.float32)
    for i in range(len(neurons)):
        of_neuron = total[neurons[i]][first_concept : first_concept + num_concepts]
        for start in range(ends[i], ends[i + 1], together):
            stop = min(start + together, ends[i + 1])
            fours = stop - (stop - start) % 4
            for m in range(num_concepts):
                product[m] = ONE
            for k in range(start, fours, 4):
                a, b, c, d = odds[k], odds[k + 1], odds[k + 2], odds[k + 3]
                s, t = tile[positions[k]], tile[positions[k + 1]]
                u, v = tile[positions[k + 2]], tile[positions[k + 3]]
                for m in range(num_concepts):
                    product[m] *= (ONE + a * s[m]) * (ONE + b * t[m]) * (ONE + c * u[m]) * (ONE + d * v[m])
            for k in range(fours, stop):
                a, s = odds[k], tile[positions[k]]
                for m in range(num_concepts):
                    product[m] *= ONE + a * s[m]
            for m in range(num_concepts):
                of_neuron[m] += logarithm(product[m])


@compiled  # type: ignore[untyped-decorator]
def logarithm(x: np.float32) -> np.float32:  # pragma: no cover (compiled)
    """Natural logarithm of a positive, finite float32, to 1e-7: one that the compiler can compute 16 at a time.

    The exponent's bits are the integer part of the binary logarithm. For the rest, of 0.7 to 1.4, the polynomial of
    `logf` in Cephes.
    """
    bits = np.float32(x).view(np.int32)
    exponent = (bits - np.int32(0x3F3504F3)) >> np.int32(23)  # 0x3F3504F3 is sqrt(1/2)
    r = np.int32(bits - (exponent << np.int32(23))).view(np.float32) - ONE
    y = np.float32(7.0376836292e-2)
    y = y * r - np.float32(1.1514610310e-1)
    y = y * r + np.float32(1.1676998740e-1)
    y = y * r - np.float32(1.2420140846e-1)
    y = y * r + np.float32(1.4249322787e-1)
    y = y * r - np.float32(1.6668057665e-1)
    y = y * r + np.float32(2.0000714765e-1)
    y = y * r - np.float32(2.4999993993e-1)
    y = y * r + np.float32(3.3333331174e-1)
    return np.float32(exponent) * np.float32(math.log(2)) + (r + r * r * (r * y - np.float32(0.5)))


def by_torch(s: Tensor, terms: Terms, largest_odds: float, total: Tensor) -> None:
    """On any device that torch knows, a block of neurons at a time."""
    neurons, ends, positions, odds = terms
    together = terms_together(largest_odds * float(s.max()))
    longest = int(ends.diff().max())
    numbers = NUMBERS_ON_CPU if s.device.type == "cpu" else NUMBERS_ELSEWHERE
    size = max(1, numbers // (min(longest, together) * s.shape[1]))
    for n in range(0, len(neurons), size):
        stops = ends[n + 1 : n + size + 1, None]  # [n, 1]
        entries = ends[n : n + size + 1][:-1, None] + torch.arange(longest, device=s.device)  # [n, k]
        inside = entries < stops
        entries = entries.where(inside, 0)
        weights = odds[entries].where(inside, 0.0)
        for k in range(0, longest, together):
            of_top = s[positions[entries[:, k : k + together]]]  # [n, k, C]
            factors = of_top.mul_(weights[:, k : k + together, None]).add_(1.0)
            total[neurons[n : n + size]] += factors.prod(dim=1).log_()
