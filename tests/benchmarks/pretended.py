"""Observing without images: a task sleeps for each shard group, then marks it as a real one does.

Loaded by the workers of `tests.benchmarks.orchestration`, `dask worker --preload tests.benchmarks.pretended`.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator

from storage.completion import Completion
from tasks import observe
from tasks.feed import Clock
from tasks.observation import Missing, ObservationPlan
from tasks.running import Counter
from tasks.writing import Writer

#: Seconds a shard group takes; how many threads of this process take twice as long. For the workers.
SECONDS, SLOW = "PRETENDED_SECONDS", "PRETENDED_SLOW"


def pretended_pass(seconds: float, num_slow: int = 0) -> Callable[..., None]:
    """What stands in for a task's pass: it sleeps `seconds` for a shard group, in the first threads twice as long."""
    threads: dict[int, None] = {}

    def sleep_and_mark(
        plan: ObservationPlan, work: list[Missing], writer: Writer, clock: Clock, counter: Counter
    ) -> None:
        threads.setdefault(threading.get_ident())
        is_slow = threading.get_ident() in list(threads)[:num_slow]
        for missing in work:
            with clock.timed("embedding"):
                time.sleep(seconds * (1 + is_slow))
            with clock.timed("writing"):
                for markers in _markers(plan, missing):
                    markers.mark(missing.rows.name, {"num_images": len(missing.rows), "pretended": True})
            counter.add(len(missing.rows))

    return sleep_and_mark


def _markers(plan: ObservationPlan, missing: Missing) -> Iterator[Completion]:
    if plan.embeddings:
        yield plan.embeddings.done()
    for summary, layer in missing.activations:
        yield plan.activations[summary].done(layer)


def dask_setup(worker: object) -> None:
    """Called by Dask when a worker starts."""
    observe._pass = pretended_pass(float(os.environ[SECONDS]), int(os.environ[SLOW]))
