"""What went wrong, in words; a traceback only where it is asked for."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import click

from tasks.printable import printable_lines


@contextmanager
def told_in_words(context: click.Context) -> Iterator[None]:
    """Ends the command with one message for whatever is raised inside, and with a traceback under --debug."""
    try:
        yield
    except (click.ClickException, click.exceptions.Exit):
        raise
    except KeyboardInterrupt:
        fail("Stopped. What was finished is kept; run the same command again to go on.", 130)
    except BrokenPipeError:
        sys.exit(0)  # the reader of our output has seen enough
    except Exception as error:
        if context.obj["debug"]:
            traceback.print_exc()
        fail(_message(error), 1)


def fail(message: str, status: int) -> NoReturn:
    """Ends the command with a message and an exit status."""
    click.echo(f"Error: {printable_lines(message)}", err=True)
    sys.exit(status)


def _message(error: Exception) -> str:
    from pydantic import ValidationError

    if isinstance(error, ValidationError):
        return "\n".join(str(problem["msg"]) for problem in error.errors())
    # KeyError shows its message in quotes, as if it were a key.
    text = str(error.args[0] if isinstance(error, LookupError) and error.args else error) or type(error).__name__
    known = type(error).__module__.partition(".")[0] in ("tasks", "storage", "flows")
    return text if known else f"{type(error).__name__}: {text} (`clip-dissect --debug …` shows where)"
