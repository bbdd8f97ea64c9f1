"""The inner loop of rank reorder: sorted as integers for float32 on processors, plain torch for the rest."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tasks.dissection.kernels import Floats, compiled
from tasks.dissection.threads import each

#: Concepts that a thread sorts at once: 128 times 500 keys of 8 bytes lie in a core's second cache.
SORTED_PER_TILE = 128


def reorder_errors(of_top: Tensor, q: Tensor, p: float) -> Tensor:
    """`Σ_j |q[j] - q[order[j, m]]|^p` `[C]` for `of_top [K, C]` and `q [K]`.

    `order[:, m]` sorts `of_top[:, m]` falling, equal values by rising `j`.
    """
    if of_top.device.type != "cpu" or of_top.dtype != torch.float32:
        order = of_top.T.contiguous().argsort(dim=1, descending=True, stable=True)  # [C, K]
        return (q - q[order]).abs_().pow_(p).sum(1)
    values, activations = of_top.numpy(), q.numpy()
    errors = np.empty(of_top.shape[1], np.float32)

    def sort(start: int) -> None:
        concepts = slice(start, start + SORTED_PER_TILE)
        keys = np.empty((len(errors[concepts]), len(values)), np.uint64)  # [c, K]
        sort_keys(values[:, concepts], keys)
        keys.sort(axis=1)
        add_errors(keys, activations, p, errors[concepts])

    each(sort, range(0, of_top.shape[1], SORTED_PER_TILE))
    return torch.from_numpy(errors)


@compiled  # type: ignore[untyped-decorator]
def sort_keys(values: Floats, keys: npt.NDArray[np.uint64]) -> None:  # pragma: no cover (compiled)
    """Fills `keys [c, K]` for `values [K, c]`: integers that rise where values fall, with `j` in the lower half.

    numpy sorts integers several times as fast as torch sorts values and their positions.
    """
    for j in range(values.shape[0]):
        for m in range(values.shape[1]):
            bits = np.float32(values[j, m]).view(np.uint32)
            if bits == np.uint32(0x80000000):  # -0 is 0
                bits = np.uint32(0)
            # The bits of a negative number rise where it falls; those of a positive one are turned round.
            if bits < np.uint32(0x80000000):
                bits = np.uint32(0x7FFFFFFF) - bits
            keys[m, j] = (np.uint64(bits) << np.uint64(32)) | np.uint64(j)


@compiled  # type: ignore[untyped-decorator]
def add_errors(
    keys: npt.NDArray[np.uint64], q: Floats, p: float, errors: Floats
) -> None:  # pragma: no cover (compiled)
    """Fills `errors [c]` for sorted `keys [c, K]` and `q [K]`."""
    for m in range(keys.shape[0]):
        total = np.float32(0)
        if p == 3.0:
            for j in range(keys.shape[1]):
                d = abs(q[j] - q[np.uint32(keys[m, j])])
                total += d * d * d
        else:
            for j in range(keys.shape[1]):
                total += abs(q[j] - q[np.uint32(keys[m, j])]) ** np.float32(p)
        errors[m] = total
