"""The bytes of a source's file, or the reason why it is refused."""

from __future__ import annotations

import errno
import os
import stat
import time
from http.client import HTTPException, IncompleteRead, InvalidURL
from pathlib import Path
from typing import Protocol
from urllib.error import HTTPError
from urllib.parse import quote, urlsplit, urlunsplit
from urllib.request import Request, urlopen

from storage.errors import RemoteError, UnreadableError
from storage.files import is_local, split

#: Seconds to wait before the second and the third try of a URL.
PAUSES = (0.5, 2.0)
#: Longest file that is read. An image of as many pixels as are decoded, in 32 bits each, is as long.
MAX_BYTES = 1 << 30
#: What is wrong with one path alone, not with a disk.
NO_SUCH_FILE = (errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)
#: Seconds without a byte after which a server is taken to be gone.
TIMEOUT = 30.0


class Readable(Protocol):
    """What bytes are read from."""

    def read(self, size: int, /) -> bytes:
        """At most so many bytes."""


def read_file(url: str) -> bytes:
    """The bytes of a file. Raises `UnreadableError` where it is not there or may not be read."""
    try:
        # Not a pipe, whose end nobody knows, nor a device: a list of somebody else's may name any path.
        if is_local(url) and not stat.S_ISREG(Path(url).stat().st_mode):
            raise UnreadableError("cannot be read: it is no file")
        folder, name = split(url)
        if not is_local(url):
            return folder.read(name)
        with folder.open(name) as file:
            return read_bounded(file)
    except (UnreadableError, RemoteError):
        raise
    except ValueError as error:  # `UrlError`, and what no file system can call a file
        raise UnreadableError(f"cannot be read: {error}") from error
    except OSError as error:
        of_path = isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError)
        if not of_path and error.errno not in NO_SUCH_FILE:
            raise
        # Not every file system fills in the number.
        raise UnreadableError(f"cannot be read: {os.strerror(error.errno or errno.ENOENT)}") from error


def read_bounded(file: Readable) -> bytes:
    """All bytes of a file. Raises `UnreadableError` where they are more than `MAX_BYTES`."""
    parts: list[bytes] = []
    left = MAX_BYTES
    while part := file.read(min(left + 1, 1 << 20)):
        parts.append(part)
        left -= len(part)
        if left < 0:
            raise UnreadableError(f"has more than {MAX_BYTES:,} bytes")
    return b"".join(parts)


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
        except UnreadableError:
            raise
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
            data = read_bounded(answer)
            if answer.length:  # of what was promised; reading a part at a time does not tell
                raise IncompleteRead(data, answer.length)
            return data
    except HTTPError as error:
        error.close()  # it is an open answer too
        raise
