"""Threads that work side by side, each of which computes alone.

torch splits a sum among its threads, and the last digits depend on how many there are: a machine with four cores
would give other bytes than one with two, and a run in threads other bytes than one in processes. Here one thread
makes each sum. The parts that threads share out have sizes that do not depend on the number of threads.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache, wraps
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

Part = TypeVar("Part")
Result = TypeVar("Result")
Given = ParamSpec("Given")

#: Threads of this process: those that torch had when it was imported (OMP_NUM_THREADS, or one for each core).
NUM_THREADS = torch.get_num_threads()
#: Parts that are read ahead of those at work, for each thread.
PARTS_AHEAD = 1
#: Columns of a matrix product that one thread computes.
COLUMNS_PER_PART = 256
_here = threading.local()


@contextmanager
def alone() -> Iterator[None]:
    """Inside the `with`, torch computes in the calling thread alone."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def stay_alone() -> None:
    """From now on torch computes in the calling thread alone: for the threads of a pool, as they begin."""
    torch.set_num_threads(1)


def computes_alone(function: Callable[Given, Result]) -> Callable[Given, Result]:
    """Decorates a function inside which torch computes in the calling thread alone."""

    @wraps(function)
    def call(*args: Given.args, **kwargs: Given.kwargs) -> Result:
        with alone():
            return function(*args, **kwargs)

    return call


def start(function: Callable[[], Result]) -> Future[Result]:
    """Begins a call in another thread, which computes alone; done at once where there is only one thread."""
    if NUM_THREADS > 1 and not _is_in_pool():
        return _pool(os.getpid(), NUM_THREADS).submit(function)
    future: Future[Result] = Future()
    try:
        with alone():
            future.set_result(function())
    except Exception as error:
        future.set_exception(error)
    return future


def in_threads(function: Callable[[Part], Result], parts: Iterable[Part]) -> Iterator[Result]:
    """Results of a function for each part, in order; a bounded number of parts is read ahead.

    The function computes alone. It works side by side only where it leaves the interpreter's lock.
    """
    waiting: deque[Future[Result]] = deque()
    try:
        for part in parts:
            waiting.append(start(lambda part=part: function(part)))  # type: ignore[misc]
            if len(waiting) > (1 + PARTS_AHEAD) * NUM_THREADS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def each(function: Callable[[Part], None], parts: Iterable[Part]) -> None:
    """Calls a function for each part, as `in_threads` does, and waits for all of them."""
    for _ in in_threads(function, parts):
        pass


def matmul(X: Tensor, Y: Tensor) -> Tensor:
    """`X @ Y` for matrices, the columns of `Y` shared out among threads."""
    out = X.new_empty(len(X), Y.shape[1])

    def multiply(start: int) -> None:
        columns = slice(start, start + COLUMNS_PER_PART)
        out[:, columns] = X @ Y[:, columns]

    each(multiply, range(0, Y.shape[1], COLUMNS_PER_PART))
    return out


def _is_in_pool() -> bool:
    # A thread of the pool that waited for others of the pool could wait for itself.
    return getattr(_here, "is_in_pool", False)


@cache
def _pool(process: int, num_threads: int) -> ThreadPoolExecutor:
    del process  # after a fork, the threads of the parent are not there
    # Not numba's own threads: two layers labelled at once would enter them together, which they do not allow.
    return ThreadPoolExecutor(num_threads, thread_name_prefix="compute", initializer=_enter_pool)


def _enter_pool() -> None:
    _here.is_in_pool = True
    stay_alone()
