"""The bytes of a source's file, or the reason why it is refused."""

from __future__ import annotations

import errno
import os
import time
from http.client import HTTPException
from urllib.error import HTTPError
from urllib.parse import quote, urlsplit, urlunsplit
from urllib.request import Request, urlopen

import fsspec

from storage.errors import UnreadableError
from storage.files import is_local

#: Seconds to wait before the second and the third try of a URL.
PAUSES = (0.5, 2.0)
#: Seconds without a byte after which a server is taken to be gone.
TIMEOUT = 30.0


def read_file(url: str) -> bytes:
    """The bytes of a file. Raises `UnreadableError` where it is not there or may not be read."""
    try:
        with fsspec.open(url, "rb") as file:
            data: bytes = file.read()
    except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
        # Not every file system fills in the number.
        reason = os.strerror(error.errno or errno.ENOENT)
        raise UnreadableError(f"cannot be read: {reason}") from error
    return data


def fetch(url: str) -> bytes:
    """The bytes at a path or URL of a list; a URL is tried three times. Raises `UnreadableError`."""
    if is_local(url):
        return read_file(url)
    read = _get if url.startswith(("http://", "https://")) else read_file
    for pause in (*PAUSES, None):
        try:
            return read(url)
        except (OSError, HTTPException, ValueError) as error:
            # What the server refuses it will refuse again, save for "too early", "too many" and the like.
            for_good = isinstance(error, HTTPError) and 400 <= error.code < 500 and error.code not in (408, 425, 429)
            if pause is None or for_good:
                tries = "" if for_good else f" in {len(PAUSES) + 1} tries"
                raise UnreadableError(f"cannot be fetched{tries}: {error}") from error
            time.sleep(pause)
    raise AssertionError  # the last try returns or raises


def _get(url: str) -> bytes:
    # Not by fsspec, whose HTTP needs a package of its own that nothing else here does.
    parts = urlsplit(url)
    safe = urlunsplit(parts._replace(path=quote(parts.path, safe="/%:@!$&'()*+,;=~")))
    with urlopen(Request(safe, headers={"User-Agent": "clip-dissect"}), timeout=TIMEOUT) as answer:
        data: bytes = answer.read()
    return data
