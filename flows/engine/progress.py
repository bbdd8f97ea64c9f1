"""Flows emit events as their tasks finish; observers print them. Prefect gets them as progress artifacts."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import copy_context
from logging import Handler, LogRecord
from threading import Lock, Timer
from typing import Any, Protocol, cast
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.context import FlowRunContext
from prefect.futures import PrefectFuture, as_completed
from prefect.logging import get_logger, get_run_logger

from storage.identity import digest_of_bytes
from tasks.running import LOG, stop


class Observer(Protocol):
    """Somebody who wants to know how far a run is."""

    def started(self, stage: str, total: int, done: int, unit: str) -> None:
        """`stage` has `total` units to do, of which an earlier run has `done`."""

    def advanced(self, stage: str, amount: int) -> None:
        """So many more units are done."""

    def finished(self, stage: str, seconds: float) -> None:
        """The stage has ended, well or not."""

    def noted(self, text: str) -> None:
        """Something about the run that its user should know."""


_observers: list[Observer] = []
#: A progress artifact is a call to the server, and four hundred of them take ten seconds.
SECONDS_BETWEEN_UPDATES = 1.0
#: Task runs that flows of this process have waited for; a server of the run's own must not end before it has
#: the records of all of them.
followed: list[UUID] = []


@contextmanager
def observed_by(observer: Observer) -> Iterator[None]:
    """Inside the `with`, flows of this process tell `observer` of their progress, and tasks of what they wait for."""
    _observers.append(observer)
    told = _Told(observer)
    logger = get_logger(LOG)
    logger.addHandler(told)
    try:
        yield
    finally:
        logger.removeHandler(told)
        _observers.remove(observer)


def note(text: str) -> None:
    """Tells observers, and the log of the flow run."""
    get_run_logger().info(text)
    for observer in _observers:
        observer.noted(text)


def follow(
    stage: str, work: Sequence[tuple[PrefectFuture[Any], int]], *, total: int | None = None, unit: str = "images"
) -> list[Any]:
    """Waits for submitted tasks, telling observers and Prefect of each that ends; returns what they returned.

    `work` pairs each future with how many units it does; `total` counts those done before as well. All tasks are
    waited for, so that what can be finished is; then the first failure is raised.
    """
    amounts = dict(work)
    followed.extend(future.task_run_id for future in amounts)
    to_do = sum(amounts.values())
    total = to_do if total is None else total
    if total == 0 and not amounts:
        return []  # a stage that this run has not
    started = told = time.perf_counter()
    done = total - to_do
    for observer in _observers:
        observer.started(stage, total, done, unit)
    artifact = _ProgressArtifact(stage, done, total) if work else None
    try:
        for future in as_completed(list(amounts)):
            future.wait()  # it has ended; this makes it know how
            if not future.state.is_completed():
                continue
            done += amounts[future]
            for observer in _observers:
                observer.advanced(stage, amounts[future])
            if artifact and time.perf_counter() - told > SECONDS_BETWEEN_UPDATES:
                told = time.perf_counter()
                artifact.show(done)
        if artifact:
            artifact.show(done)
    except BaseException as error:
        context = FlowRunContext.get()
        if not isinstance(error, Exception) and context and context.flow_run:
            stop(context.flow_run.id)  # Ctrl-C, or a cancelled run: the runner waits for tasks that are at work
        raise
    finally:
        if artifact:
            artifact.begin.cancel()
        for observer in _observers:
            observer.finished(stage, time.perf_counter() - started)
    return [future.result() for future in amounts]  # raises what a task raised


class _Told(Handler):
    """Gives on to an observer what tasks say that they wait for."""

    def __init__(self, observer: Observer) -> None:
        super().__init__()
        self._observer = observer

    def emit(self, record: LogRecord) -> None:
        """Gives on the text."""
        self._observer.noted(record.getMessage())


def slug(text: str) -> str:
    """An artifact key: lower-case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def slugs(names: Sequence[str]) -> dict[str, str]:
    """An artifact key for each of the names; those that would share one end with a digest."""
    counted = Counter(map(slug, names))

    def key(name: str) -> str:
        plain = slug(name)
        return plain if plain and counted[plain] == 1 else f"{plain}-{digest_of_bytes(name.encode())}".strip("-")

    return {name: key(name) for name in names}


class _ProgressArtifact:
    """Shows in Prefect how far a stage is.

    Made when the stage has lasted for a while or has news: most stages end sooner, and one call is enough for them.
    """

    def __init__(self, stage: str, done: int, total: int) -> None:
        self._key, self._description = f"progress-{slug(stage)}", f"{stage}: {total} in all"
        self._total = max(1, total)
        self._made: UUID | None = None
        self._lock = Lock()
        # In a copy of the context, or the artifact would belong to no flow run.
        self.begin = Timer(SECONDS_BETWEEN_UPDATES, copy_context().run, (self._make_unless_made, done))
        self.begin.daemon = True
        self.begin.start()

    def show(self, done: int) -> None:
        """So many units are done."""
        with self._lock:
            if self._made:
                update_progress_artifact(self._made, self._percent(done))
            else:
                self._make(done)

    def _make_unless_made(self, done: int) -> None:
        with self._lock:
            if not self._made:
                self._make(done)

    def _make(self, done: int) -> None:
        made = create_progress_artifact(self._percent(done), key=self._key, description=self._description)
        self._made = cast(UUID, made)

    def _percent(self, done: int) -> float:
        return 100 * done / self._total
