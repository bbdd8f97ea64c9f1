"""What can be wrong with a model a user names."""

from __future__ import annotations

import re

#: Colours of a terminal, which torch puts into its messages.
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class ModelError(Exception):
    """A model that cannot be loaded as asked; also the builtin error one would catch."""


class UnknownModelError(ModelError, LookupError):
    """A name that no model bears."""


class CheckpointError(ModelError, ValueError):
    """A weights file that does not fit the model, or may not be read."""


class DownloadError(ModelError, OSError):
    """Weights that are not on this machine and could not be fetched."""


def first_lines(error: BaseException) -> str:
    """The beginning of another library's message, which may go on for pages; its type where it says nothing."""
    lines = [line.strip() for line in _COLOURS.sub("", str(error)).strip().splitlines()]
    return " ".join(lines[:4])[:400] or type(error).__name__


def error_with_kind(error: BaseException) -> str:
    """The kind of an error and the beginning of its message, which many errors lack."""
    kind, said = type(error).__name__, first_lines(error)
    return kind if said == kind else f"{kind}: {said}"
