"""The inner loops, compiled and in torch, against logarithms of single terms and plain sorting."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numba.core.errors import TypingError
from torch import Tensor

from tasks.dissection import kernels
from tasks.dissection.kernels import LogOfProducts, logarithm, product
from tasks.dissection.ranks import reorder_errors
from tests.test_dissection.strategies import QUICK

#: The compiled kernel takes float32, the torch one everything else.
both = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def case(num_images: int = 60, num_concepts: int = 150, num_neurons: int = 37, k: int = 50) -> tuple[Tensor, ...]:
    rng = np.random.default_rng(5)
    s = torch.softmax(torch.from_numpy(rng.normal(0, 3, (num_images, num_concepts))).float(), dim=1)
    rows = torch.from_numpy(np.stack([rng.permutation(num_images)[:k] for _ in range(num_neurons)], axis=1))
    odds = torch.linspace(499.0, 30.0, k)
    return s, rows, odds


def term_by_term(s: Tensor, rows: Tensor, odds: Tensor) -> Tensor:
    return sum(torch.log1p(odds[k].double()[..., None] * s[rows[k]].double()) for k in range(len(odds)))  # type: ignore[return-value]


def in_blocks(s: Tensor, rows: Tensor, odds: Tensor, size: int = 1_000) -> Tensor:
    products = LogOfProducts(rows, odds)
    for first in range(0, len(s), size):
        products.add(s[first : first + size], first)
    return products.finish()


@both
@pytest.mark.parametrize("size", [1, 7, 59, 60])
def test_the_blocks_do_not_show(size: int, dtype: torch.dtype) -> None:
    s, rows, odds = case()
    found = in_blocks(s.to(dtype), rows, odds, size)
    assert found.dtype == dtype
    tolerance = 1e-6 if dtype == torch.float32 else 1e-12
    expected = term_by_term(s, rows, odds)
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=4 * tolerance)


@both
def test_blocks_without_an_image_of_any_neuron_add_nothing(dtype: torch.dtype) -> None:
    s, rows, odds = case(num_images=20, k=20)
    padded = torch.cat([torch.rand(30, s.shape[1]), s, torch.rand(30, s.shape[1])]).to(dtype)
    whole = in_blocks(s.to(dtype), rows, odds)
    torch.testing.assert_close(in_blocks(padded, rows + 30, odds, 10), whole, rtol=1e-6, atol=4e-6)


@both
def test_neurons_may_differ_in_their_odds_and_odds_of_0_do_not_count(dtype: torch.dtype) -> None:
    s, rows, _ = case()
    odds = torch.from_numpy(np.random.default_rng(6).uniform(0.0, 500.0, rows.shape))
    odds[10:, 3] = 0.0
    rows[10:, 3] = 0  # the same image again and again
    found = in_blocks(s.to(dtype), rows, odds, 25)
    torch.testing.assert_close(found.double(), term_by_term(s, rows, odds), rtol=1e-5, atol=1e-5)
    few = in_blocks(s.to(dtype), rows[:10, 3:4], odds[:10, 3:4])
    torch.testing.assert_close(found[3:4], few, rtol=1e-6, atol=4e-6)


@pytest.mark.parametrize("width", [1, 64, 149, 1000])
def test_the_tile_does_not_show(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = in_blocks(*case())
    monkeypatch.setattr(kernels, "CONCEPTS_PER_TILE", width)
    # Narrower tiles have lower largest shares: more terms are multiplied between two logarithms.
    torch.testing.assert_close(in_blocks(*case()), whole, rtol=1e-6, atol=4e-6)


@both
@pytest.mark.parametrize("images", [1, 25])
def test_images_at_once_do_not_show(images: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    s, rows, odds = case()
    whole = in_blocks(s.to(dtype), rows, odds)
    monkeypatch.setattr(kernels, "IMAGES_PER_TILE", images)
    monkeypatch.setattr(kernels, "TERMS_PER_TILE", 1)
    torch.testing.assert_close(in_blocks(s.to(dtype), rows, odds), whole, rtol=1e-6, atol=4e-6)


@pytest.mark.parametrize("numbers", [1, 20_000])
def test_how_much_torch_takes_at_once_does_not_show(numbers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    s, rows, odds = case()
    whole = in_blocks(s.double(), rows, odds)
    monkeypatch.setattr(kernels, "NUMBERS_ON_CPU", numbers)
    assert torch.equal(in_blocks(s.double(), rows, odds), whole)


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_the_number_of_threads_does_not_show(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = in_blocks(*case())
    monkeypatch.setattr("tasks.dissection.threads.NUM_THREADS", threads)
    assert torch.equal(in_blocks(*case()), whole)


@both
@pytest.mark.parametrize("largest", [1e-3, 499.0, 1e6, 1e30])
def test_products_never_leave_float32(largest: float, dtype: torch.dtype) -> None:
    # One concept fits every image (s = 1), so every term is as large as terms get.
    s, rows, odds = case()
    s[:, 0] = 1.0
    found = in_blocks(s.to(dtype), rows, odds * (largest / 499.0))
    torch.testing.assert_close(found.double(), term_by_term(s, rows, odds * (largest / 499.0)), rtol=1e-5, atol=1e-5)


@both
def test_no_image_of_a_neuron_fits_a_concept(dtype: torch.dtype) -> None:
    s, rows, odds = case()
    s[:, 3] = 0.0
    assert in_blocks(s.to(dtype), rows, odds)[:, 3].tolist() == [0.0] * 37


def test_nothing_added_is_said() -> None:
    with pytest.raises(ValueError, match="no image"):
        LogOfProducts(*case()[1:]).finish()


def test_what_a_thread_raises_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise TypingError("in a thread")

    monkeypatch.setattr(kernels, "add_logarithms", fails)
    with pytest.raises(TypingError, match="in a thread"):
        in_blocks(*case())


def test_logarithms_keep_seven_digits() -> None:
    x = np.concatenate([np.geomspace(1.0, 2.0**126, 2_000), np.linspace(1.0, 4.0, 2_000)]).astype(np.float32)
    found = np.array([logarithm(value) for value in x])
    np.testing.assert_allclose(found, np.log(x.astype(np.float64)), rtol=1.5e-7, atol=1e-7)


def plainly_reordered(of_top: Tensor, q: Tensor, p: float) -> Tensor:
    order = of_top.argsort(dim=0, descending=True, stable=True)  # [K, C]
    return (q[:, None].double() - q[order].double()).abs().pow(p).sum(0)


#: Few values, so that ties are everywhere, both zeros among them, or any of float32.
similarities = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=20),
    elements=st.one_of(st.sampled_from([-1.0, -0.0, 0.0, 0.25, 3e38, -3e38]), st.floats(-1e6, 1e6, width=32)),
)


@both
@given(similarities, st.sampled_from([1.0, 2.0, 2.5, 3.0]))
@QUICK
def test_errors_are_those_of_a_stable_sort(dtype: torch.dtype, of_top: np.ndarray, p: float) -> None:  # type: ignore[type-arg]
    values = torch.from_numpy(of_top).to(dtype)
    q = torch.linspace(2.0, -1.0, len(values), dtype=dtype)
    found = reorder_errors(values, q, p)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), plainly_reordered(values, q, p), rtol=2e-6, atol=1e-6)


def test_errors_of_many_concepts_and_ties() -> None:
    values = torch.from_numpy(np.random.default_rng(7).integers(-5, 6, (300, 200)).astype(np.float32) / 8)
    q = torch.rand(300, generator=torch.Generator().manual_seed(0)).sort(descending=True).values
    torch.testing.assert_close(
        reorder_errors(values, q, 3.0).double(), plainly_reordered(values, q, 3.0), rtol=1e-6, atol=0.0
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("n", "m", "d"), [(1, 1, 1), (7, 1, 5), (1, 9, 512), (300, 70, 512)])
def test_a_product_is_the_sum_over_the_last_axis(dtype: torch.dtype, n: int, m: int, d: int) -> None:
    generator = torch.Generator().manual_seed(n)
    X, Y = (torch.randn(rows, d, generator=generator).to(dtype) for rows in (n, m))
    found = product(X, Y)
    assert (found.dtype, found.shape, found.is_contiguous()) == (dtype, (n, m), True)
    torch.testing.assert_close(found.double(), X.double() @ Y.double().T, rtol=1e-5, atol=1e-6 * d)
