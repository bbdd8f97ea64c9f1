"""The bytes of a source's file, or the reason why it is refused."""

from __future__ import annotations

import errno
import os
import time
from http.client import HTTPException, InvalidURL
from urllib.error import HTTPError
from urllib.parse import quote, urlsplit, urlunsplit
from urllib.request import Request, urlopen

from storage.errors import RemoteError, UnreadableError
from storage.files import is_local, split

#: Seconds to wait before the second and the third try of a URL.
PAUSES = (0.5, 2.0)
#: Seconds without a byte after which a server is taken to be gone.
TIMEOUT = 30.0


def read_file(url: str) -> bytes:
    """The bytes of a file. Raises `UnreadableError` where it is not there or may not be read."""
    folder, name = split(url)
    try:
        return folder.read(name)
    except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
        reason = os.strerror(error.errno or errno.ENOENT)  # not every file system fills in the number
        raise UnreadableError(f"cannot be read: {reason}") from error


def fetch(url: str) -> bytes:
    """The bytes at a path or URL of a list. Raises `UnreadableError`.

    On the web it is tried three times, save where another try would fail too: what is not there, or is no URL. An
    object store that is away raises `RemoteError`: it has more than this one image.
    """
    if is_local(url):
        return read_file(url)
    if not url.startswith(("http://", "https://")):
        return _read_remote(url)
    for pause in (*PAUSES, None):
        try:
            return _get(url)
        except (OSError, HTTPException, ValueError) as error:
            may_pass = _may_pass(error)
            if pause is None or not may_pass:
                tries = f" in {len(PAUSES) + 1} tries" if may_pass else ""
                raise UnreadableError(f"cannot be fetched{tries}: {error}") from error
            time.sleep(pause)
    raise AssertionError  # the last try returns or raises


def _read_remote(url: str) -> bytes:
    try:
        return read_file(url)
    except (RemoteError, UnreadableError):
        raise
    except (OSError, ValueError) as error:
        raise UnreadableError(f"cannot be fetched: {error}") from error


def _may_pass(error: Exception) -> bool:
    if isinstance(error, HTTPError):
        # What a server refuses it will refuse again, save for "time-out", "too early" and "too many".
        return error.code >= 500 or error.code in (408, 425, 429)
    return not isinstance(error, ValueError | InvalidURL)


def _get(url: str) -> bytes:
    # Not by fsspec, whose HTTP needs a package of its own that nothing else here does.
    parts = urlsplit(url)
    safe = urlunsplit(parts._replace(path=quote(parts.path, safe="/%:@!$&'()*+,;=~")))
    try:
        with urlopen(Request(safe, headers={"User-Agent": "clip-dissect"}), timeout=TIMEOUT) as answer:
            data: bytes = answer.read()
    except HTTPError as error:
        error.close()  # it is an open answer too
        raise
    return data
