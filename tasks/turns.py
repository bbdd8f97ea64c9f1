"""Tasks of several runs that want the same thing take turns; here is where they say so."""

from __future__ import annotations

from prefect.logging import get_logger


def tell(text: str) -> None:
    """Puts into the log of the task run what it waits for."""
    get_logger("task_runs").warning(text)
