"""Tasks of several runs that want the same thing take turns; here is where they say so."""

from __future__ import annotations

from prefect.context import TaskRunContext
from prefect.logging import get_logger

#: Logger of what tasks wait for.
LOG = "task_runs.turns"


def tell(text: str) -> None:
    """Puts into the log of the task run what it waits for."""
    if TaskRunContext.get():  # a task that is called as a plain function has no log
        get_logger(LOG).warning(text)
