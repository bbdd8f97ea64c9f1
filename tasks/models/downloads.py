"""Weights from the network, and a clear word where there is none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from tasks.models.errors import DownloadError, ModelError, first_lines


@contextmanager
def downloading(what: str, instead: str) -> Iterator[None]:
    """Turns any failure to fetch `what` into a `DownloadError` that says what to pass instead."""
    try:
        yield
    except ModelError:
        raise
    except (OSError, RuntimeError, ValueError, httpx.HTTPError) as error:
        # urllib, requests and huggingface_hub each have their own errors, of these kinds; httpx has its own root.
        raise DownloadError(
            f"The weights of {what} are not on this machine and could not be fetched ({first_lines(error)}). "
            f"Without a network, give the weights as a file: {instead}. (HF_HUB_OFFLINE=1 spares the wait.)"
        ) from error
