"""The upper range of a neuron: the largest activations, and images drawn from them."""

from __future__ import annotations

from random import Random

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tasks.dissection.ranges import RANGES, Keys, Largest, drawn, in_range, keys_of, num_certain, of_keys
from tests import reference
from tests.test_dissection.strategies import QUICK, activation_blocks
from tests.test_dissection.test_streaming import chunked, randoms

Array = npt.NDArray[np.float32]


def rows_of(keys: Keys) -> list[list[int]]:
    found: list[list[int]] = of_keys(keys)[1].tolist()
    return found


def largest(A: Array, m: int, parts: list[slice]) -> Keys:
    found = Largest(A.shape[1], m)
    for part in parts:
        found.add(A[part], part.start)
    return found.finish()


@given(activation_blocks(), st.integers(1, 20), randoms)
@QUICK
def test_the_largest_are_the_top_images_whatever_the_blocks(A: Array, m: int, random: Random) -> None:
    keys = largest(A, m, chunked(len(A), random))
    assert rows_of(keys) == [reference.top_images(q, m) for q in A.T]
    assert np.array_equal(of_keys(keys)[0], np.take_along_axis(A.T, of_keys(keys)[1], 1))


@given(hnp.arrays(np.float32, 9, elements=st.floats(allow_nan=False, width=32)))
@QUICK
def test_keys_are_in_the_order_of_activations_and_give_them_back(q: Array) -> None:
    rows = np.arange(len(q)) + 2**31
    keys = keys_of(q, rows)
    values, numbers = of_keys(keys)
    assert np.array_equal(values, q) and numbers.tolist() == rows.tolist()
    assert np.argsort(keys).tolist() == np.argsort(-q.astype(np.float64), kind="stable").tolist()


def test_blocks_of_which_few_are_large_give_the_largest_of_many() -> None:
    A = np.random.default_rng(0).normal(size=(3_000, 5)).astype(np.float32).round(1)
    A[7], A[:, 4] = -np.inf, 0
    keys = largest(A, 150, [slice(i, i + 100) for i in range(0, 3_000, 100)])
    assert rows_of(keys) == [reference.top_images(q, 150) for q in A.T]


@pytest.mark.parametrize(
    ("num_images", "sizes"),
    [(0, [0, 0, 0]), (1, [1, 1, 1]), (99, [1, 1, 4]), (999, [1, 9, 49]), (2_000, [2, 20, 100])],
)
def test_a_range_is_a_share_of_the_images_and_at_least_one(num_images: int, sizes: list[int]) -> None:
    assert [int(in_range(num_images, thousandths)) for thousandths in RANGES.values()] == sizes


def test_as_many_are_sure_as_come_before_what_is_not_known() -> None:
    A = np.array([[5, 1, 1], [4, 9, 1], [3, 8, 1], [2, 7, 1], [6, 0, 1], [0, 0, 1]], np.float32)
    parts = [largest(A[:4], 2, [slice(0, 4)]), keys_of(A[4:].T.copy(), np.arange(4, 6))]
    # The first part has more than its two largest: 3 and less, 7 and less, and ones of higher rows.
    assert num_certain(parts, [False, True]).tolist() == [3, 2, 2]
    assert num_certain(parts, [True, True]).tolist() == [4, 4, 4]
    assert num_certain(parts, [False, False]).tolist() == [3, 2, 2]  # also where the other part has more than two


@given(st.lists(st.integers(0, 3_000), min_size=1, max_size=300), st.integers(0, 1_000))
@QUICK
def test_draws_are_different_images_of_their_range_and_all_of_a_small_one(counts: list[int], first: int) -> None:
    num_images = np.array(counts)
    found = drawn(first, num_images, num_images)
    for number, thousandths in enumerate(RANGES.values()):
        for chosen, size in zip(found[:, number], in_range(num_images, thousandths), strict=True):
            real = chosen[chosen >= 0]
            assert len(real) == min(size, found.shape[2]) == len(set(real))
            assert (chosen[: len(real)] == np.sort(real)).all() and (real < size).all()


def test_every_image_of_a_range_is_drawn_as_often() -> None:
    num_images = np.full(20_000, 200)
    five_percent = drawn(0, num_images, num_images)[:, 2]  # 5 of 10
    counts = np.bincount(five_percent.ravel(), minlength=10)
    assert counts.sum() == 100_000 and np.abs(counts - 10_000).max() < 350  # five standard deviations


def test_a_neurons_draws_do_not_depend_on_who_is_looked_at_with_it() -> None:
    num_images = np.full(500, 1_000)
    whole = drawn(0, num_images, num_images)
    for first, stop in ((0, 1), (100, 300), (127, 129), (384, 500)):
        part = num_images[first:stop]
        assert np.array_equal(drawn(first, part, part), whole[first:stop])
    assert len(np.unique(whole[:, 2], axis=0)) > 400  # and differ from neuron to neuron


def test_of_a_range_that_is_not_known_to_its_end_none_is_drawn() -> None:
    found = drawn(0, np.array([2_000, 2_000]), np.array([100, 19]))
    assert (found >= 0).any(axis=2).tolist() == [[True, True, True], [True, False, False]]
