"""Flows emit events as their tasks finish; observers print them. Prefect gets them as progress artifacts."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from logging import Handler, LogRecord
from queue import Empty, Queue
from typing import Any, Protocol, cast
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.context import FlowRunContext
from prefect.futures import PrefectFuture
from prefect.logging import get_logger, get_run_logger

from flows.engine.cluster import Lookout, patience
from flows.engine.pace import Pace
from storage.identity import digest_of_bytes
from tasks.parameters import EngineSpec
from tasks.running import LOG, TOPIC, reported, stop


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
#: How often it is counted what tasks have done that are still at work.
SECONDS_BETWEEN_LOOKS = 0.5
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
    """Tells observers, and the log of the flow run where there is one."""
    if FlowRunContext.get():
        get_run_logger().info(text)
    for observer in _observers:
        observer.noted(text)


def follow(
    stage: str, work: Sequence[tuple[PrefectFuture[Any], int]], *, total: int | None = None, unit: str = "images"
) -> list[Any]:
    """Waits for submitted tasks, telling observers and Prefect of what they have done; returns what they returned.

    `work` pairs each future with how many units it does; `total` counts those done before as well. All tasks are
    waited for, so that what can be finished is; then the first failure is raised.
    """
    amounts = dict(work)
    followed.extend(future.task_run_id for future in amounts)
    to_do = sum(amounts.values())
    total = to_do if total is None else total
    if total == 0 and not amounts:
        return []  # a stage that this run has not
    pace = Pace(total, total - to_do, unit)
    for observer in _observers:
        observer.started(stage, total, pace.before, unit)
    counts, artifact = _Counts(amounts), _ProgressArtifact(stage)
    try:
        with _heard_from_workers() as lookout:
            for _ in _ended_or_due(list(amounts), counts):
                lookout()
                _tell(stage, counts.total - pace.now)
                pace.now = counts.total
                artifact.show_at_times(pace)
        if work:
            artifact.show(pace)
    except BaseException as error:
        context = FlowRunContext.get()
        if not isinstance(error, Exception) and context and context.flow_run:
            stop(context.flow_run.id)  # Ctrl-C, or a cancelled run: the runner waits for tasks that are at work
        raise
    finally:
        counts.forget()
        for observer in _observers:
            observer.finished(stage, time.perf_counter() - pace.began)
    return [future.result() for future in amounts]  # raises what a task raised


def _tell(stage: str, amount: int) -> None:
    if amount:
        for observer in _observers:
            observer.advanced(stage, amount)


def _ended_or_due(futures: Sequence[PrefectFuture[Any]], counts: _Counts) -> Iterator[None]:
    """Counts whenever a task has ended, and every now and then; gives after each count, until all have ended."""
    ended: Queue[PrefectFuture[Any]] = Queue()
    for future in futures:
        future.add_done_callback(ended.put)
    left = len(futures)
    while left:
        with suppress(Empty):
            counts.end(ended.get(timeout=SECONDS_BETWEEN_LOOKS))
            left -= 1
        counts.look()
        yield


@contextmanager
def _heard_from_workers() -> Iterator[Callable[[], object]]:
    """Inside, what tasks on Dask workers report is put where those of this process put it.

    Gives what to call at times: it says when no worker is left, and raises `ClusterError` when that lasts too long.
    """
    context = FlowRunContext.get()
    client = getattr(context.task_runner, "client", None) if context else None  # of a Dask task runner
    if context is None or client is None:
        yield lambda: None
        return
    address = str(getattr(context.task_runner, "address", None) or client.scheduler.address)
    lookout = Lookout(client, address, patience.get(address, EngineSpec.model_fields["dask_wait"].default), note)

    def hear(event: tuple[float, Mapping[str, Any]]) -> None:
        task_run, done = event[1]["task_run"], event[1]["done"]
        reported[UUID(task_run)] = done

    client.subscribe_topic(TOPIC, hear)
    try:
        yield lookout.look
    finally:
        client.unsubscribe_topic(TOPIC)


class _Counts:
    """How many units each task has done: as it reports while it works, all of its own when it has completed.

    A task that begins again, its worker lost, counts no unit twice: its count stays until it has come further. One
    that has failed counts for nothing: what it finished, a rerun will find.
    """

    def __init__(self, amounts: Mapping[PrefectFuture[Any], int]) -> None:
        self._amounts = {future.task_run_id: amount for future, amount in amounts.items()}
        self._open = dict.fromkeys(self._amounts, 0)
        self._ended = 0

    @property
    def total(self) -> int:
        """Units of all tasks."""
        return self._ended + sum(self._open.values())

    def look(self) -> None:
        """Takes what tasks have reported."""
        for task_run, before in self._open.items():
            self._open[task_run] = max(before, min(reported.get(task_run, 0), self._amounts[task_run]))

    def end(self, future: PrefectFuture[Any]) -> None:
        """A task has ended, well or not."""
        future.wait()  # it has ended; this makes it know how
        del self._open[future.task_run_id]
        if future.state.is_completed():
            self._ended += self._amounts[future.task_run_id]

    def forget(self) -> None:
        """Leaves nothing behind of what was reported."""
        for task_run in self._amounts:
            reported.pop(task_run, None)


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

    Made when the stage has lasted for a while or has ended: most stages end soon, and one call is enough for them.
    """

    def __init__(self, stage: str) -> None:
        self._stage = stage
        self._made: UUID | None = None
        self._shown = time.perf_counter()

    def show_at_times(self, pace: Pace) -> None:
        """Shows it, unless that was done just now."""
        if time.perf_counter() - self._shown > SECONDS_BETWEEN_UPDATES:
            self.show(pace)

    def show(self, pace: Pace) -> None:
        """Shows how far the stage is, how fast it goes, and how long it will take."""
        percent, text = 100 * (pace.before + pace.now) / max(1, pace.total), f"{self._stage}: {pace}"
        if self._made:
            update_progress_artifact(self._made, percent, text)
        else:
            made = create_progress_artifact(percent, key=f"progress-{slug(self._stage)}", description=text)
            self._made = cast(UUID, made)
        self._shown = time.perf_counter()
