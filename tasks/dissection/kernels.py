"""The inner loop of SoftWPMI: compiled for float32 on processors, plain torch for other types and devices."""

from __future__ import annotations

import math
import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import numpy.typing as npt
import torch
from numba import njit
from torch import Tensor

#: Concepts of a tile: 64 float32 of 10,000 images are 2.5 MB, about what a core's second cache holds, and a row of
#: a tile is four cache lines that the processor fetches together.
CONCEPTS_PER_TILE = 64
#: Neurons that torch scores at once: a `[100, 16, 1000]` block of float32 is 6 MB.
TORCH_NEURONS, TORCH_CONCEPTS = 16, 1_000
#: Largest power of two that a product may reach in float32, whose exponent ends at 127. The product starts below 2.
LARGEST_EXPONENT = 126

Floats = npt.NDArray[np.float32]


def log_of_products(s: Tensor, rows: Tensor, odds: Tensor) -> Tensor:
    """`Σ_k log(1 + odds_k s[rows[k, n], m])` `[N, C]`, of the type of `s`, for `s [I, C]`, `rows [K, N]`, `odds [K]`.

    Terms are multiplied for as long as the product fits in float32, so that there is one logarithm for many terms.
    """
    # How many of the largest terms fit: log2(1 + odds) bits each. At least one, whatever the odds.
    together = max(1, int(LARGEST_EXPONENT / math.log2(1 + float(odds.max()))))
    if s.device.type == "cpu" and s.dtype == torch.float32:
        return by_tiles(s, rows, odds, together)
    return by_torch(s, rows, odds, together)


def by_tiles(s: Tensor, rows: Tensor, odds: Tensor, together: int) -> Tensor:
    """On the processor, a tile of concepts per thread."""
    of_neuron = np.ascontiguousarray(rows.T.numpy().astype(np.int32))  # [N, K]
    weights, shares = odds.float().numpy(), s.numpy()
    out = torch.empty(len(of_neuron), s.shape[1])

    def score(start: int) -> None:
        tile = np.ascontiguousarray(shares[:, start : start + CONCEPTS_PER_TILE])  # [I, c]
        mantissa = np.empty((len(of_neuron), tile.shape[1]), np.float32)  # [N, c]
        exponent = np.empty_like(mantissa)
        multiply_terms(tile, of_neuron, weights, together, mantissa, exponent)
        logarithm = torch.from_numpy(mantissa).log_().add_(torch.from_numpy(exponent), alpha=math.log(2))
        out[:, start : start + CONCEPTS_PER_TILE] = logarithm

    # `map` in a list: an error in a thread is raised here.
    list(_pool(torch.get_num_threads()).map(score, range(0, s.shape[1], CONCEPTS_PER_TILE)))
    return out


@njit(nogil=True, fastmath=True, error_model="numpy", cache=True)  # type: ignore[untyped-decorator]
def multiply_terms(
    tile: Floats,
    of_neuron: npt.NDArray[np.int32],
    odds: Floats,
    together: int,
    mantissa: Floats,
    exponent: Floats,
) -> None:  # pragma: no cover (compiled)
    """Fills `mantissa` (in `[1, 2)`) and `exponent`, `[N, c]` each: `Π_k (1 + odds_k tile[of_neuron[n, k], m])`.

    After every `together` terms the exponent bits of the product are moved into a count of their own: that is
    the integer part of its binary logarithm, without computing one.
    """
    num_neurons, num_images = of_neuron.shape
    num_concepts = tile.shape[1]
    bits = mantissa.view(np.int32)
    for n in range(num_neurons):
        product, product_bits, count = mantissa[n], bits[n], exponent[n]
        for m in range(num_concepts):
            product[m] = 1.0
            count[m] = 0.0
        for start in range(0, num_images, together):
            for k in range(start, min(start + together, num_images)):
                of_image, weight = tile[of_neuron[n, k]], odds[k]
                for m in range(num_concepts):
                    product[m] *= np.float32(1.0) + weight * of_image[m]
            for m in range(num_concepts):
                count[m] += np.float32((product_bits[m] >> 23) - 127)
                product_bits[m] = (product_bits[m] & 0x7FFFFF) | 0x3F800000


def by_torch(s: Tensor, rows: Tensor, odds: Tensor, together: int) -> Tensor:
    """On any device that torch knows, a block of neurons and concepts at a time."""
    num_images, num_neurons = rows.shape
    out = torch.empty(num_neurons, s.shape[1], dtype=s.dtype, device=s.device)
    odds = odds.to(s)
    for c in range(0, s.shape[1], TORCH_CONCEPTS):
        tile = s[:, c : c + TORCH_CONCEPTS].contiguous()  # [I, c]
        for n in range(0, num_neurons, TORCH_NEURONS):
            total = torch.zeros_like(out[n : n + TORCH_NEURONS, c : c + TORCH_CONCEPTS])
            for k in range(0, num_images, together):
                of_top = tile[rows[k : k + together, n : n + TORCH_NEURONS].to(s.device)]  # [k, n, c]
                terms = of_top.mul_(odds[k : k + together, None, None]).add_(1.0)
                total += terms.prod(dim=0).log_()
            out[n : n + TORCH_NEURONS, c : c + TORCH_CONCEPTS] = total
    return out


@cache
def _pool(num_threads: int) -> ThreadPoolExecutor:
    # Not numba's own threads: two layers labelled at once would enter them together, which they do not allow.
    return ThreadPoolExecutor(min(num_threads, os.cpu_count() or 1), thread_name_prefix="score")
