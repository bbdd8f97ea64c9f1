"""The inner loop of SoftWPMI, compiled and in torch, against logarithms of single terms."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numba.core.errors import TypingError
from torch import Tensor

from tasks.dissection import kernels
from tasks.dissection.kernels import by_tiles, by_torch, log_of_products

Kernel = Callable[[Tensor, Tensor, Tensor, int], Tensor]
both = pytest.mark.parametrize("kernel", [by_tiles, by_torch])


def case(num_images: int = 60, num_concepts: int = 150, num_neurons: int = 37, k: int = 50) -> tuple[Tensor, ...]:
    rng = np.random.default_rng(5)
    s = torch.softmax(torch.from_numpy(rng.normal(0, 3, (num_images, num_concepts))).float(), dim=1)
    rows = torch.from_numpy(np.stack([rng.permutation(num_images)[:k] for _ in range(num_neurons)], axis=1))
    odds = torch.linspace(499.0, 30.0, k)
    return s, rows, odds


def term_by_term(s: Tensor, rows: Tensor, odds: Tensor) -> Tensor:
    return sum(torch.log1p(odds[k].double() * s[rows[k]].double()) for k in range(len(odds)))  # type: ignore[return-value]


@both
@pytest.mark.parametrize("together", [1, 2, 7, 13])
def test_how_many_terms_are_multiplied_does_not_show(kernel: Kernel, together: int) -> None:
    torch.testing.assert_close(kernel(*case(), together).double(), term_by_term(*case()), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("width", [1, 64, 149, 1000])
def test_the_tile_does_not_show(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = by_tiles(*case(), 13)
    monkeypatch.setattr(kernels, "CONCEPTS_PER_TILE", width)
    assert torch.equal(by_tiles(*case(), 13), whole)


@pytest.mark.parametrize("threads", [1, 2])
def test_the_number_of_threads_does_not_show(threads: int) -> None:
    whole, before = log_of_products(*case()), torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        assert torch.equal(log_of_products(*case()), whole)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("largest", [1e-3, 499.0, 1e6, 1e30])
def test_products_never_leave_float32(largest: float) -> None:
    # One concept fits every image (s = 1), so every term is as large as terms get.
    s, rows, odds = case()
    s[:, 0] = 1.0
    found = log_of_products(s, rows, odds * (largest / 499.0))
    torch.testing.assert_close(found.double(), term_by_term(s, rows, odds * (largest / 499.0)), rtol=1e-5, atol=1e-5)


def test_no_image_of_a_neuron_fits_a_concept() -> None:
    s, rows, odds = case()
    s[:, 3] = 0.0
    assert log_of_products(s, rows, odds)[:, 3].tolist() == [0.0] * 37


def test_what_a_thread_raises_is_raised() -> None:
    s, rows, odds = case()
    with pytest.raises(TypingError):
        by_tiles(s, rows, odds.reshape(5, 10), 13)
