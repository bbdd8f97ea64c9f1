"""Nearest neurons: those of a plain correlation, of pairs one by one."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tasks.dissection.neighbours import Neighbours, by_correlation, by_cosine
from tests.test_dissection.strategies import QUICK, activation_blocks

Array = npt.NDArray[np.float32]
MUCH = 1 << 24


def expected(A: Array, k: int) -> list[list[tuple[int, float]]]:
    """By numpy, a pair at a time; ties to the lower number."""
    found: list[list[tuple[int, float]]] = []
    for i, q in enumerate(A.T):
        pairs = []
        for j, other in enumerate(A.T):
            both = np.isfinite(q) & np.isfinite(other)
            x, y = q[both].astype(np.float64), other[both].astype(np.float64)
            if i != j and 2 * len(x) >= len(q) and np.ptp(x) > 0 and np.ptp(y) > 0:
                pairs.append((-round(float(np.corrcoef(x, y)[0, 1]), 6), j))
        found.append([(j, -r) for r, j in sorted(pairs)[:k]])
    return found


def listed(of: Neighbours) -> list[list[tuple[int, float]]]:
    return [
        [(j, r) for j, r in zip(neurons, values, strict=True) if j >= 0]
        for neurons, values in zip(of.neurons.tolist(), of.values.tolist(), strict=True)
    ]


def drawn(num_images: int = 60, num_neurons: int = 30) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(num_images, num_neurons, generator=generator)


@given(activation_blocks(not_finite=True), st.integers(1, 5))
@QUICK
def test_neighbours_are_those_of_plain_correlations(A: Array, k: int) -> None:
    A[~np.isfinite(A)] = -np.inf
    for one, other in zip(listed(by_correlation(torch.from_numpy(A), k, MUCH)), expected(A, k), strict=True):
        assert [r for _, r in one] == pytest.approx([r for _, r in other], abs=2e-6)


@pytest.mark.parametrize("ignored", [0, 40])
def test_neighbours_of_many_neurons_are_those_of_plain_correlations(ignored: int) -> None:
    A = drawn() + drawn(60, 1)
    A.view(-1)[torch.randperm(A.numel(), generator=torch.Generator().manual_seed(1))[:ignored]] = -torch.inf
    found = listed(by_correlation(A, 5, MUCH))
    for one, other in zip(found, expected(A.numpy(), 5), strict=True):
        assert [j for j, _ in one] == [j for j, _ in other]
        assert [r for _, r in one] == pytest.approx([r for _, r in other], abs=2e-6)


@pytest.mark.parametrize("ignored", [False, True])
def test_neighbours_do_not_depend_on_the_memory(ignored: bool) -> None:
    A = drawn()
    if ignored:
        A[3, 5] = -torch.inf
    whole = by_correlation(A, 5, MUCH)
    for memory in (0, 8 * 8 * 30 * 7):
        part = by_correlation(A, 5, memory)
        assert torch.equal(part.neurons, whole.neurons) and torch.equal(part.values, whole.values)


def test_a_copy_is_nearest_and_of_several_the_first() -> None:
    A = drawn(50, 4)
    A = torch.cat([A, 3 * A[:, :1] + 1, -A[:, :1], A[:, :1] / 7], 1)
    found = listed(by_correlation(A, 3, MUCH))
    assert found[0][:2] == [(4, 1.0), (6, 1.0)]
    assert found[4][:2] == [(0, 1.0), (6, 1.0)]
    assert [j for j, _ in found[5]] != [0]


def test_a_neuron_with_one_activation_has_no_neighbours_and_is_nobodys() -> None:
    A = drawn(50, 4)
    A[:, 1], A[:, 2] = 7.0, 1e4 * (1 + 1e-7 * A[:, 2])
    found = listed(by_correlation(A, 3, MUCH))
    assert [[j for j, _ in of] for of in found] == [[3], [], [], [0]]


def test_neurons_that_have_few_images_in_common_are_no_neighbours() -> None:
    A = drawn(50, 3)
    A[:, 1] = A[:, 0]
    A[2:, 1] = -torch.inf  # two images are always on a line
    A[:10, 2] = -torch.inf
    assert [[j for j, _ in of] for of in listed(by_correlation(A, 2, MUCH))] == [[2], [], [0]]


@pytest.mark.parametrize("shape", [(1, 1), (1, 3), (5, 1)])
def test_too_few_images_or_neurons_give_no_neighbours(shape: tuple[int, int]) -> None:
    found = by_correlation(torch.ones(shape), 5, MUCH)
    assert listed(found) == [[]] * shape[1]


def test_cosines_are_of_live_neurons_alone() -> None:
    V = torch.tensor([[1.0, 0], [2, 2], [0, 3], [0, 0], [5, 0]])
    found = listed(by_cosine(V, torch.tensor([True, True, True, False, True]), 2, MUCH))
    half = round(math.sqrt(0.5), 6)
    assert found == [[(4, 1.0), (1, half)], [(0, half), (2, half)], [(1, half), (0, 0.0)], [], [(0, 1.0), (1, half)]]
