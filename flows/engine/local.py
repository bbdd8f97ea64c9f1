"""The engine of a command that runs flows in its own process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click

from flows.engine.console import console, say
from flows.engine.failure import told_in_words


@contextmanager
def engine() -> Iterator[None]:
    """A Prefect server for the flows inside; progress and errors go to the terminal."""
    context = click.get_current_context()
    with told_in_words(context):
        from flows.engine.server import prefect_server

        with prefect_server(verbose=context.obj["debug"], tell=say):
            from flows.engine.progress import observed_by
            from flows.engine.terminal import TerminalProgress

            with observed_by(TerminalProgress(console())):
                yield
