"""Threads that compute alone: what they give, and that nothing of it depends on how many there are."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from tasks.dissection import threads
from tasks.dissection.threads import alone, computes_alone, each, in_threads, matmul, start, stay_alone

anyhow = pytest.mark.parametrize("num_threads", [1, 2, 4])


@pytest.fixture
def num_threads() -> int:
    return 2


@pytest.fixture(autouse=True)
def _has_threads(num_threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "NUM_THREADS", num_threads)


@anyhow
def test_results_come_in_order(num_threads: int) -> None:
    assert list(in_threads(lambda part: part * part, range(40))) == [part * part for part in range(40)]


@anyhow
def test_the_first_error_in_order_is_raised(num_threads: int) -> None:
    def fail(part: int) -> None:
        if part >= 3:
            raise ValueError(f"part {part}")

    with pytest.raises(ValueError, match="part 3"):
        each(fail, range(9))


@anyhow
def test_few_parts_are_read_ahead(num_threads: int) -> None:
    read: list[int] = []

    def parts() -> object:
        for part in range(100):
            read.append(part)
            yield part

    for number, _ in enumerate(in_threads(lambda part: part, parts())):  # type: ignore[arg-type]
        assert len(read) - number <= 2 * num_threads + 2


@anyhow
def test_torch_computes_alone_in_each_thread_and_as_before_afterwards(num_threads: int) -> None:
    before = torch.get_num_threads()
    assert set(in_threads(lambda _: torch.get_num_threads(), range(8))) == {1}
    assert computes_alone(torch.get_num_threads)() == 1
    with alone():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


@anyhow
def test_parts_may_have_parts_of_their_own(num_threads: int) -> None:
    def work(part: int) -> int:
        return sum(in_threads(lambda inner: inner * part, range(5)))

    assert list(in_threads(work, range(20))) == [10 * part for part in range(20)]


def test_work_is_shared_out() -> None:
    meet = threading.Barrier(2, timeout=30)
    assert sorted(in_threads(lambda _: meet.wait(), range(2))) == [0, 1]


def test_a_call_that_fails_says_so_when_it_is_waited_for() -> None:
    future = start(lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        future.result()


def test_a_forked_process_has_threads_of_its_own() -> None:
    each(lambda _: None, range(4))
    child = os.fork()
    if not child:
        os._exit(0 if list(in_threads(lambda part: part + 1, range(4))) == [1, 2, 3, 4] else 1)
    assert os.waitpid(child, 0)[1] == 0


@anyhow
def test_a_product_is_the_same_to_the_bit(num_threads: int) -> None:
    torch.manual_seed(0)
    X, Y = torch.randn(70, 300, dtype=torch.float64), torch.randn(300, 700, dtype=torch.float64)
    found = matmul(X, Y)
    torch.testing.assert_close(found, X @ Y)
    with alone():
        assert torch.equal(found, torch.cat([X @ part for part in Y.split(256, dim=1)], dim=1))


def test_a_pool_may_compute_alone_from_its_beginning() -> None:
    with ThreadPoolExecutor(1, initializer=stay_alone) as pool:
        assert pool.submit(torch.get_num_threads).result() == 1
