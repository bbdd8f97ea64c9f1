"""Remote file systems of fsspec: tried again where that may help, and told in words where it did not.

s3fs and gcsfs try a request again by themselves, but not all that fails (a large object that is cut off, a server
that is away for more than seconds), and they take a write's success and a read's length on trust.
"""

from __future__ import annotations

import errno
import io
import logging
from collections.abc import Awaitable, Callable
from tempfile import NamedTemporaryFile
from typing import IO, Any, TypeVar, cast

import fsspec
from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem
from tenacity import AsyncRetrying, RetryCallState, Retrying, retry_if_exception
from tenacity.stop import stop_after_attempt, stop_after_delay, stop_all
from tenacity.wait import wait_exponential, wait_random

from storage.errors import RemoteError, ShortError
from storage.urls import check_url

#: Seconds since the first try after which there is no other: a server that restarts is waited for, an outage is told.
PATIENCE = 120.0
#: Seconds before the second try, doubled before each further one, and the most that they grow to.
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0
#: Bytes of a file that are read at a time: one request, in the memory of whoever has the file open.
READ_AHEAD = 1 << 23
#: Bytes of a request where a file is read whole; one that fails is asked for again alone.
PART_BYTES = 1 << 26
#: In these a path needs no folder, and whoever owns the bucket made it.
OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl"})

#: Errors that another try would meet again.
_LASTING = (FileNotFoundError, PermissionError, FileExistsError, IsADirectoryError, NotADirectoryError, RemoteError)
_LASTING_CODES = frozenset(
    {errno.EINVAL, errno.EPERM, errno.ENOSYS, errno.EMSGSIZE, errno.ENAMETOOLONG, errno.ENOSPC, errno.EREMCHG}
)
#: Packages below fsspec's file systems whose errors are no `OSError`, and those of them that may pass. By name: none
#: of these packages has to be there.
_LIBRARIES = frozenset({"aiobotocore", "aiohttp", "azure", "botocore", "gcsfs", "google"})
_PASSING = frozenset(
    {
        "aiohttp.client_exceptions.ClientError",
        "azure.core.exceptions.ServiceRequestError",
        "azure.core.exceptions.ServiceResponseError",
        "botocore.exceptions.ConnectionError",
        "botocore.exceptions.FlexibleChecksumError",
        "botocore.exceptions.HTTPClientError",
        "google.auth.exceptions.TransportError",
    }
)
#: Raised where an object was replaced while it was open.
_REPLACED = "s3fs.utils.FileExpired"

T = TypeVar("T")
_log = logging.getLogger(__name__)


def file_system(url: str, *, asynchronous: bool = False) -> tuple[AbstractFileSystem, str]:
    """The file system of a URL or local path, and the path in it.

    Raises `RemoteError` where the package for it is missing, `UrlError` where it is none that is opened.
    """
    check_url(url)
    # A cached listing would hide what another process has written since, and show what it has removed.
    options = {"use_listings_cache": False, **({"asynchronous": True} if asynchronous else {})}
    if "::" in url:  # of a path, which fsspec would take for a chain of file systems
        local = LocalFileSystem(**options)
        return local, local._strip_protocol(url)
    try:
        fs, path = fsspec.url_to_fs(url, **options)
    except ImportError as error:
        raise RemoteError(
            f"{url} needs a package ({error}). For s3:// and gs://: pip install -e '.[cloud]'."
        ) from error
    return fs, path


def patiently(what: str, url: str, call: Callable[[], T]) -> T:
    """What `call` returns, tried again with growing pauses for `PATIENCE` seconds.

    Raises `RemoteError` where all tries failed, and unchanged what no other try would mend: `FileNotFoundError`, say.
    """
    tries = Retrying(**_policy(what, url))
    try:
        return tries(call)
    except Exception as error:
        raise _told(error, what, url, tries.statistics) from error


async def patiently_async(what: str, url: str, call: Callable[[], Awaitable[T]]) -> T:
    """As `patiently`, for what is awaited."""
    tries = AsyncRetrying(**_policy(what, url))

    async def awaited() -> T:  # tenacity awaits coroutine functions only
        return await call()

    try:
        return await tries(awaited)
    except Exception as error:
        raise _told(error, what, url, tries.statistics) from error


def put(fs: AbstractFileSystem, path: str, data: bytes) -> None:
    """Writes an object whole. Raises `ShortError` where not all of it arrived."""
    _make_parent(fs, path)
    fs.pipe_file(path, data)
    check_stored(len(data), int(fs.size(path)))


def create(fs: AbstractFileSystem, path: str, data: bytes) -> None:
    """Writes an object. Raises `FileExistsError` where there is one already."""
    _make_parent(fs, path)
    fs.pipe_file(path, data, mode="create")


def put_file(fs: AbstractFileSystem, path: str, file: IO[bytes]) -> None:
    """Writes a named file on this machine as an object, large ones in parts. Raises `ShortError` like `put`."""
    _make_parent(fs, path)
    # Not through `fs.open`, which on an error in the middle would finish the object with what it has so far.
    fs.put_file(file.name, path)
    check_stored(file.seek(0, io.SEEK_END), int(fs.size(path)))


def read_whole(fs: AbstractFileSystem, path: str) -> bytes:
    """All bytes of an object, as it was at one time. Raises `FileNotFoundError`, `ShortError`."""
    before = fs.info(path)
    if before["type"] != "file":
        raise FileNotFoundError(errno.ENOENT, "No such file", path)
    size = int(before["size"])
    starts = range(0, size, PART_BYTES)
    ends = [min(start + PART_BYTES, size) for start in starts]
    data = b"".join(fs.cat_ranges([path] * len(ends), list(starts), ends, on_error="raise"))
    if len(data) != size:
        raise ShortError(f"{size:,} bytes were asked for, and {len(data):,} came")
    if len(ends) > 1 and fs.info(path) != before:
        raise ShortError("it was replaced while it was read")
    return data


def read_head(fs: AbstractFileSystem, path: str, size: int) -> bytes:
    """The first `size` bytes of an object. Raises `FileNotFoundError`, `ShortError`."""
    data = bytes(fs.cat_file(path, start=0, end=size))
    if len(data) != size:
        raise ShortError(f"{size:,} bytes were asked for, and {len(data):,} came")
    return data


def check_stored(sent: int, stored: int) -> None:
    """Raises `ShortError` unless as many bytes are there as were sent."""
    if stored != sent:
        raise ShortError(f"{sent:,} bytes were sent, and {stored:,} are there")


def _make_parent(fs: AbstractFileSystem, path: str) -> None:
    protocols = {fs.protocol} if isinstance(fs.protocol, str) else set(fs.protocol)
    if not protocols & OBJECT_STORES:
        fs.makedirs(path.rsplit("/", 1)[0], exist_ok=True)


def temporary_file() -> IO[bytes]:
    """A file for `put_file`; gone when it is closed."""
    return cast(IO[bytes], NamedTemporaryFile(prefix="clip-dissect-"))


def open_remote(fs: AbstractFileSystem, path: str, url: str) -> IO[bytes]:
    """A remote file opened for reading, with `seek`; of what is read, no byte is missing. Raises as `patiently`."""
    opened = patiently("opening", url, lambda: fs.open(path, "rb", cache_type="none"))
    return cast(IO[bytes], io.BufferedReader(_RemoteFile(opened, url), READ_AHEAD))


class _RemoteFile(io.RawIOBase):
    """An open remote file that gives every byte that is asked for, or an error."""

    def __init__(self, file: Any, url: str) -> None:
        self._file, self._url = file, url
        self._size, self._at = int(file.seek(0, io.SEEK_END)), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def readinto(self, buffer: Any, /) -> int:
        data = self._next(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def readall(self) -> bytes:
        parts = []
        while part := self._next(PART_BYTES):
            parts.append(part)
        return b"".join(parts)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()

    def _next(self, length: int) -> bytes:
        start, stop = self._at, min(self._at + length, self._size)
        if stop <= start:
            return b""
        data = patiently("reading", self._url, lambda: self._fetched(start, stop))
        self._at = stop
        return data

    def _fetched(self, start: int, stop: int) -> bytes:
        self._file.seek(start)
        data: bytes = self._file.read(stop - start)
        if len(data) != stop - start:
            raise ShortError(f"{stop - start:,} bytes were asked for, from byte {start:,}, and {len(data):,} came")
        return data


def _policy(what: str, url: str) -> dict[str, Any]:
    def tell(state: RetryCallState) -> None:
        assert state.outcome is not None and state.next_action is not None
        error, pause = state.outcome.exception(), state.next_action.sleep
        _log.warning("%s %s failed (%s); tried again in %.0f s", what, url, _said(error), pause)

    return {
        "retry": retry_if_exception(_may_pass),
        # Two at least: a try in which a server says nothing, and s3fs asks again and again, takes minutes itself.
        "stop": stop_all(stop_after_delay(PATIENCE), stop_after_attempt(2)),
        "wait": wait_exponential(multiplier=FIRST_PAUSE, max=LONGEST_PAUSE) + wait_random(0, FIRST_PAUSE),
        "before_sleep": tell,
        "reraise": True,
    }


def _may_pass(error: BaseException) -> bool:
    """Whether another try may do better."""
    names = {f"{kind.__module__}.{kind.__qualname__}" for kind in type(error).__mro__}
    if isinstance(error, OSError):
        return not (isinstance(error, _LASTING) or error.errno in _LASTING_CODES or _REPLACED in names)
    code = getattr(error, "code", None)  # of gcsfs: an HTTP status
    return bool(names & _PASSING) or (isinstance(code, int) and (code >= 500 or code in (408, 429)))


def _told(error: Exception, what: str, url: str, statistics: dict[str, Any]) -> Exception:
    """The error to raise for the last one: it names the URL, which those of object stores do not."""
    if isinstance(error, PermissionError):
        return PermissionError(errno.EACCES, f"{what.capitalize()} is not allowed ({error})", url)
    if isinstance(error, FileNotFoundError) and what == "writing":
        return RemoteError(f"Writing {url} failed: {error}. A bucket has to be there before it is written to.")
    if _may_pass(error):
        tries, seconds = statistics["attempt_number"], statistics["delay_since_first_attempt"]
        return RemoteError(
            f"{what.capitalize()} {url} failed in {tries} tries over {seconds:.0f} s, at last with: {_said(error)}. "
            "What was finished is kept: run the same command again when that file system answers."
        )
    if type(error).__module__.partition(".")[0] in _LIBRARIES:
        keys = " Keys are read from the environment: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE."
        lacks_keys = type(error).__name__ in ("NoCredentialsError", "PartialCredentialsError")
        return RemoteError(f"{what.capitalize()} {url} failed: {_said(error)}.{keys if lacks_keys else ''}")
    return error


def _said(error: BaseException | None) -> str:
    return f"{type(error).__name__}: {error}".rstrip(". ")
