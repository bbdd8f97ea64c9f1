"""Weights from the network, and a clear word where there is none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.error import URLError

from tasks.models.errors import DownloadError, ModelError


@contextmanager
def downloading(what: str, instead: str) -> Iterator[None]:
    """Turns any failure to fetch `what` into a `DownloadError` that says what to pass instead."""
    try:
        yield
    except ModelError:
        raise
    except (URLError, OSError, RuntimeError, ValueError) as error:
        # urllib, requests, httpx and huggingface_hub each have their own errors; all derive from these.
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise DownloadError(
            f"The weights of {what} are not on this machine and could not be fetched ({reason}). "
            f"Without a network, give the weights as a file: {instead}."
        ) from error
