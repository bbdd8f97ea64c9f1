"""The terminal that tables and lines are printed to, or what stands in its place."""

from __future__ import annotations

import sys
from typing import Any

import click

from tasks.printable import printable_lines

#: Columns of tables where the output is no terminal.
WIDTH_IN_PIPES = 140


def console(width_in_pipes: int = WIDTH_IN_PIPES) -> Any:
    """A console of rich, which takes a while to import."""
    from rich.console import Console

    # Into a pipe or file, tables keep their width: there is no window to fit.
    width = None if sys.stdout.isatty() else width_in_pipes
    return Console(highlight=False, soft_wrap=True, emoji=False, width=width)


def say(text: object) -> None:
    """Prints a text; nothing in it acts on the terminal."""
    click.echo(printable_lines(str(text)))
