"""What a task knows of its run: if that is being stopped, and where to say what it does or waits for."""

from __future__ import annotations

import sys
import time
from typing import Any
from uuid import UUID

from prefect.context import TaskRunContext
from prefect.logging import get_logger

#: Logger of what tasks wait for.
LOG = "task_runs.waiting"

#: Topic of Dask's events in which tasks on its workers report.
TOPIC = "clip-dissect-progress"
#: Seconds between two reports of a task on a Dask worker: each is a message.
SECONDS_BETWEEN_REPORTS = 0.5
#: Seconds between two lines that say what a task waits for.
SECONDS_BETWEEN_LINES = 60.0
#: Units that tasks of this process have done, by task run; the flow that waits for them takes them from here.
reported: dict[UUID, int] = {}

_stopped: set[UUID | None] = set()


class StoppedError(RuntimeError):
    """The run is being stopped, and so is this task of it: what it has finished is kept."""


def stop(flow_run: UUID) -> None:
    """Tasks of a flow run in this process end as soon as they ask."""
    _stopped.add(flow_run)


def go_on() -> None:
    """Does nothing, unless the run of the task is being stopped: raises `StoppedError` then."""
    context = TaskRunContext.get()
    if context and context.task_run.flow_run_id in _stopped:
        raise StoppedError("The run is being stopped.")


class Waiting:
    """Is told, again and again, what a task waits for: puts it into the log at once, and then once a minute.

    Raises as `go_on` does.
    """

    def __init__(self) -> None:
        self._since: float | None = None
        self._told = float("-inf")

    def __call__(self, text: str) -> None:
        """Says it, and since when the task has waited."""
        go_on()
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        if now - self._told < SECONDS_BETWEEN_LINES:
            return
        self._told, waited = now, now - self._since
        if TaskRunContext.get():  # a task that is called as a plain function has no log
            get_logger(LOG).warning(f"{text} So far for {waited:.0f} s." if waited >= 1 else text)


class Counter:
    """Reports how many of its units a task has done, as often as some are: a batch of images, a shard of files."""

    def __init__(self) -> None:
        self._done, self._sent = 0, 0.0

    def add(self, num_units: int) -> None:
        """So many more are done."""
        self._done += num_units
        context = TaskRunContext.get()
        if context is None:  # a task that is called as a plain function
            return
        worker = _dask_worker()
        if worker is None:
            reported[context.task_run.id] = self._done
        elif time.monotonic() - self._sent > SECONDS_BETWEEN_REPORTS:
            self._sent = time.monotonic()
            worker.log_event(TOPIC, {"task_run": str(context.task_run.id), "done": self._done})


def _dask_worker() -> Any:
    """The Dask worker that this thread works for, or None."""
    distributed = sys.modules.get("distributed")  # where it is not imported, no worker is
    try:
        return distributed.get_worker() if distributed else None
    except ValueError:
        return None
