"""What can be wrong with a model a user names."""

from __future__ import annotations


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
    lines = [line.strip() for line in str(error).strip().splitlines()]
    return " ".join(lines[:4])[:400] or type(error).__name__
