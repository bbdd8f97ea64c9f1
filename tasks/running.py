"""What a task knows of the run it belongs to: whether that is being stopped, and where to say that it waits."""

from __future__ import annotations

from uuid import UUID

from prefect.context import TaskRunContext
from prefect.logging import get_logger

#: Logger of what tasks wait for.
LOG = "task_runs.waiting"

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
    """Is told, again and again, what a task waits for: puts it into the log once. Raises as `go_on` does."""

    def __init__(self) -> None:
        self._is_told = False

    def __call__(self, text: str) -> None:
        """Says it."""
        go_on()
        if not self._is_told and TaskRunContext.get():  # a task that is called as a plain function has no log
            get_logger(LOG).warning(text)
        self._is_told = True
