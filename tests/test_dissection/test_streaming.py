"""Any chunking, merged in any order and any grouping, gives what the whole gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tasks.dissection.streaming import CosineMoments, LogMeanExp, Statistics, TopImages
from tests import reference
from tests.test_dissection.strategies import QUICK, activation_blocks

Array = npt.NDArray[np.floating]
Part = TypeVar("Part")

randoms = st.randoms(use_true_random=False)


def chunked(num_rows: int, random: Random) -> list[slice]:
    """Cuts of all sizes, from one chunk to one row each."""
    cuts = sorted(random.sample(range(1, num_rows), random.randint(0, num_rows - 1)))
    return [slice(start, stop) for start, stop in zip([0, *cuts], [*cuts, num_rows], strict=True)]


def merged(parts: Sequence[Part], merge: Callable[[Part, Part], Part], random: Random) -> Part:
    """Two parts at a time, whichever come, until one is left."""
    waiting = list(parts)
    while len(waiting) > 1:
        random.shuffle(waiting)
        waiting.append(merge(waiting.pop(), waiting.pop()))
    return waiting[0]


class TestTopImages:
    @given(activation_blocks(), st.integers(1, 20), randoms)
    @QUICK
    def test_any_chunking_merged_in_any_order_gives_the_whole(self, A: Array, k: int, random: Random) -> None:
        parts = [TopImages.of(torch.from_numpy(A[rows]), k, first_row=rows.start) for rows in chunked(len(A), random)]
        top = merged(parts, lambda one, other: one.merge(other, k=k), random)
        assert top.rows.T.tolist() == [reference.top_images(q, k) for q in A.T]
        assert torch.equal(top.values, torch.from_numpy(A).gather(0, top.rows))
        assert top.num_images == min(k, len(A))

    @given(activation_blocks(), st.integers(1, 20), randoms)
    @QUICK
    def test_many_blocks_are_merged_at_once_as_one_by_one(self, A: Array, k: int, random: Random) -> None:
        parts = [TopImages.of(torch.from_numpy(A[rows]), k, first_row=rows.start) for rows in chunked(len(A), random)]
        random.shuffle(parts)
        top = parts[0].merge(*parts[1:], k=k)
        assert top.rows.T.tolist() == [reference.top_images(q, k) for q in A.T]

    def test_an_image_that_does_not_count_comes_last(self) -> None:
        A = torch.tensor([[-torch.inf], [-3.0], [-torch.inf], [-2.0]])
        assert TopImages.of(A, 3).rows.T.tolist() == [[3, 1, 0]]
        assert TopImages.of(A[2:], 3, 2).merge(TopImages.of(A[:2], 3), k=3).rows.T.tolist() == [[3, 1, 0]]

    @given(activation_blocks(), st.integers(1, 20), st.integers(0, 10**12))
    @QUICK
    def test_a_block_counts_its_rows_from_the_probe_sets_first(self, A: Array, k: int, first_row: int) -> None:
        block = torch.from_numpy(A)
        assert torch.equal(TopImages.of(block, k, first_row).rows, TopImages.of(block, k).rows + first_row)

    def test_of_a_dead_neurons_many_equal_images_the_first_rows_are_kept(self) -> None:
        # Of a handful of equals torch's sort keeps the order unasked; of hundreds it does not.
        dead = torch.zeros(500, 3)
        blocks = [TopImages.of(dead, 100, first_row) for first_row in (0, 500, 1_000)]
        assert blocks[0].rows.T.tolist() == [list(range(100))] * 3
        last_first = blocks[2].merge(blocks[1], k=100).merge(blocks[0], k=100)
        assert torch.equal(last_first.rows, blocks[0].rows)


class TestLogMeanExp:
    @given(
        hnp.arrays(np.float64, hnp.array_shapes(min_dims=2, max_dims=2, max_side=8), elements=st.floats(-900, 900)),
        randoms,
    )
    @QUICK
    def test_any_chunking_merged_in_any_order_gives_the_prior_of_equation_7(self, x: Array, random: Random) -> None:
        parts = [LogMeanExp.of(torch.from_numpy(x[rows])) for rows in chunked(len(x), random)]
        whole = merged(parts, LogMeanExp.merge, random)
        assert whole.count == len(x)
        np.testing.assert_allclose(whole.finish(), reference.log_prior(x.tolist()), rtol=1e-12, atol=1e-12)

    def test_float32_likelihoods_are_averaged_in_float64(self) -> None:
        x = torch.linspace(-433.0, -432.0, 2_000)[:, None]
        expected = reference.log_prior(x.tolist())
        np.testing.assert_allclose(LogMeanExp.of(x).finish(), expected, rtol=1e-14)


class TestStatistics:
    @given(activation_blocks(not_finite=True), randoms)
    @QUICK
    def test_any_chunking_merged_in_any_order_gives_those_of_the_finite_activations(
        self, A: Array, random: Random
    ) -> None:
        parts = [Statistics.of(torch.from_numpy(A[rows])) for rows in chunked(len(A), random)]
        whole = merged(parts, Statistics.merge, random)
        finite = [[float(value) for value in q if np.isfinite(value)] for q in A.T]
        assert whole.count.tolist() == [len(q) for q in finite]
        assert whole.minimum.tolist() == [min(q, default=np.inf) for q in finite]
        assert whole.maximum.tolist() == [max(q, default=-np.inf) for q in finite]
        assert whole.total.tolist() == [sum(q) for q in finite]
        assert whole.mean.tolist() == [sum(q) / max(len(q), 1) for q in finite]
        assert whole.is_dead.tolist() == [len(set(q)) < 2 for q in finite]

    def test_a_neuron_constant_in_every_chunk_is_dead_only_if_the_constants_agree(self) -> None:
        chunks = [torch.tensor([[0.0, 1.0]] * 3), torch.tensor([[0.0, 2.0]] * 3)]
        assert Statistics.of(chunks[0]).merge(Statistics.of(chunks[1])).is_dead.tolist() == [True, False]

    def test_sums_are_made_in_float64(self) -> None:
        statistics = Statistics.of(torch.tensor([[2.0**25], [1.0], [1.0]]))
        assert statistics.total.tolist() == [2.0**25 + 2]
        assert (statistics.total.dtype, statistics.mean.dtype) == (torch.float64, torch.float64)
        assert (statistics.count.dtype, statistics.maximum.dtype) == (torch.int64, torch.float32)


class TestCosineMoments:
    def test_an_activation_that_does_not_count_adds_nothing(self) -> None:
        E, A = torch.tensor([[1.0, 0.0], [0.6, 0.8]]), torch.tensor([[2.0, 1.0], [-torch.inf, 3.0]])
        expected = CosineMoments.of(E, torch.tensor([[2.0, 1.0], [0.0, 3.0]])).finish(E)
        assert torch.equal(CosineMoments.of(E, A).finish(E), expected)
