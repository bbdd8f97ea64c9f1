"""Files below a URL, written whole or not at all. Any fsspec URL: a folder, `s3://`, `gs://`, `memory://`.

What is written is given back with its size and SHA-256, for a marker to vouch for; a JSON file holds its own.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import IO, Any, TypeVar

from fsspec import AbstractFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from storage import disk
from storage.errors import DamagedError
from storage.json_text import checked, with_checksum
from storage.remote import (
    create,
    file_system,
    open_remote,
    patiently,
    put,
    put_file,
    read_head,
    read_whole,
    temporary_file,
)
from storage.urls import is_local as is_local

#: What file systems tell of a file that changes with it: local ones, then object stores.
VERSION_FIELDS = ("size", "mtime", "created", "ino", "ETag", "etag", "LastModified", "updated")

T = TypeVar("T")


#: What file systems call the time of the last write: local ones, S3, Google's, those in memory.
MODIFIED_FIELDS = ("mtime", "LastModified", "updated", "created")


@dataclass(frozen=True)
class Written:
    """A file as it was written."""

    url: str
    num_bytes: int
    sha256: str

    @classmethod
    def of(cls, url: str, data: bytes | memoryview) -> Written:
        """The file at a URL with these bytes."""
        return cls(url, len(data), hashlib.sha256(data).hexdigest())


@dataclass(frozen=True)
class Found:
    """A file below a folder."""

    path: str
    num_bytes: int
    #: Seconds since 1970.
    modified: float

    @property
    def is_partial(self) -> bool:
        """Whether it is being written, or was when its writer died."""
        return self.path.endswith(disk.PARTIAL)

    @property
    def has_writer(self) -> bool:
        """Whether the process that writes it is alive on this machine. Of what Zarr writes, nobody knows."""
        named = re.search(r"\.(\d+)-[0-9a-f]{8}\.partial$", self.path)
        if named is None:
            return False
        try:
            os.kill(int(named[1]), 0)  # no signal: only asks
        except ProcessLookupError:
            return False
        except PermissionError:
            return True  # somebody else's
        return True


@dataclass(frozen=True)
class Folder:
    """A folder of any file system, by URL; made on the first write.

    What fails on a remote one is tried again for a while; then `RemoteError` is raised.
    """

    url: str

    @classmethod
    def at(cls, url: str) -> Folder:
        """The folder at a URL or local path; a relative path is taken from the working directory, now."""
        url = url.removeprefix("file://")  # as any other file system, its files would be written in place
        return cls(str(Path(url).expanduser().absolute()) if is_local(url) else url.rstrip("/"))

    def __truediv__(self, name: str) -> Folder:
        return Folder(f"{self.url}/{name}")

    @property
    def is_local(self) -> bool:
        """Whether it is a folder of this machine."""
        return is_local(self.url)

    @property
    def name(self) -> str:
        """Last part of the URL."""
        return self.url.rsplit("/", 1)[-1]

    def path(self, name: str) -> str:
        """URL of a file below."""
        return f"{self.url}/{name}"

    def exists(self, name: str = "") -> bool:
        """Whether a file or folder `name`, or the folder itself, is there."""
        return self._do("looking for", name, lambda fs, path: bool(fs.exists(path)))

    def is_file(self, name: str) -> bool:
        """Whether `name` is there and is a file."""
        return Path(self.path(name)).is_file() if self.is_local else self._kind(name) == "file"

    def is_there(self) -> bool:
        """Whether the folder is there, and is no file."""
        return Path(self.url).is_dir() if self.is_local else self._kind("") == "directory"

    def _kind(self, name: str) -> str:
        try:  # not by `isfile` and `isdir`, which take any error for a no
            return self._do("looking for", name, lambda fs, path: str(fs.info(path)["type"]))
        except FileNotFoundError:
            return ""

    def names(self) -> list[str]:
        """Names of files and folders right below, sorted; none where the folder is not there. Partial writes
        of a process that died are left out."""
        try:
            found = self._do("listing", "", lambda fs, path: list(fs.ls(path, detail=False)))
        except FileNotFoundError:
            return []
        names = (path.rstrip("/").rsplit("/", 1)[-1] for path in found)
        return sorted(name for name in names if not name.endswith(disk.PARTIAL))

    def files(self) -> list[Found]:
        """All files below, sorted; none where the folder is not there."""
        found = sorted(self.files_below().items())
        return [Found(path, int(info["size"]), _modified(info)) for path, info in found if path]

    def files_below(self) -> dict[str, dict[str, Any]]:
        """All files below by their path in the folder, with what the file system says of each."""
        return self._do(
            "listing", "", lambda fs, path: {_below(path, full): info for full, info in _found(fs, path).items()}
        )

    def glob(self, pattern: str) -> list[str]:
        """Paths in the folder that match a pattern, sorted."""
        _, root = file_system(self.url)
        return sorted(_below(root, full) for full in self._do("listing", pattern, lambda fs, path: fs.glob(path)))

    def read(self, name: str) -> bytes:
        """All bytes of a file. Raises `FileNotFoundError`."""
        if self.is_local:
            return Path(self.path(name)).read_bytes()
        return self._do("reading", name, read_whole)

    def head(self, name: str, size: int) -> bytes:
        """The first bytes of a file, which has `size` or more. Raises `FileNotFoundError`."""
        if self.is_local:
            with Path(self.path(name)).open("rb") as file:
                return file.read(size)
        return self._do("reading", name, lambda fs, path: read_head(fs, path, size))

    def sha256(self, name: str) -> str:
        """SHA-256 of a file, in hexadecimal digits, in the memory of a part of it. Raises `FileNotFoundError`."""
        sha256 = hashlib.sha256()
        with self.open(name) as file:
            while data := file.read(1 << 20):
                sha256.update(data)
        return sha256.hexdigest()

    def version(self, name: str) -> str:
        """A text that changes when a file does, without reading it. Raises `FileNotFoundError`."""
        info = self._do("looking at", name, lambda fs, path: dict(fs.info(path)))
        return " ".join(f"{field}={info[field]}" for field in VERSION_FIELDS if info.get(field))

    def size(self, name: str) -> int:
        """Bytes of a file. Raises `FileNotFoundError`."""
        return self._do("looking at", name, lambda fs, path: int(fs.size(path)))

    def written(self, name: str) -> Written:
        """A file as it is now. Raises `FileNotFoundError`."""
        return Written(self.path(name), self.size(name), self.sha256(name))

    def read_json(self, name: str) -> Any:
        """A file as JSON. Raises `FileNotFoundError`, `DamagedError` where it is torn or not as it was written."""
        return self.parse_json(name, self.read(name))

    def parse_json(self, name: str, data: bytes) -> Any:
        """The bytes of a file as JSON. Raises `DamagedError` as `read_json` does."""
        try:
            return checked(data)
        except ValueError as error:  # no JSON, or no UTF-8
            path = self.path(name)
            raise DamagedError(f"{path} is damaged ({error}). Remove it and run again.") from error

    def open(self, name: str) -> IO[bytes]:
        """A file opened for reading, with `seek`. Raises `FileNotFoundError`."""
        url = self.path(name)
        fs, path = file_system(url)
        if isinstance(fs, MemoryFileSystem):
            # It would give all readers one file, with one position among them.
            return BytesIO(fs.cat_file(path))
        return Path(url).open("rb") if self.is_local else open_remote(fs, path, url)

    def write(self, name: str, data: bytes) -> Written:
        """Writes a file whole: a reader sees the old one, or the new one, never a part."""
        if self.is_local:
            with disk.writing(Path(self.path(name))) as file:
                file.write(data)
        else:
            self._do("writing", name, lambda fs, path: put(fs, path, data))
        return Written.of(self.path(name), data)

    def create(self, name: str, data: bytes) -> bool:
        """Writes a file unless there is one of its name; whether it did. No other writer's `data` is the same."""
        try:
            self._do("writing", name, lambda fs, path: create(fs, path, data))
        except FileExistsError:
            # The answer to a try may have been lost, and the next one met what that had written.
            with suppress(FileNotFoundError):
                return self.read(name) == data
            return False
        return True

    def write_json(self, name: str, value: Mapping[str, Any]) -> Written:
        """Writes a JSON file whole, keys in the order given, and its checksum as the last."""
        return self.write(name, with_checksum(value))

    @contextmanager
    def writing(self, name: str) -> Iterator[IO[bytes]]:
        """A file object whose bytes become the file when the `with` ends well, and vanish when it does not."""
        if self.is_local:
            with disk.writing(Path(self.path(name))) as file:
                yield file
            return
        with temporary_file() as file:
            yield file
            file.flush()
            self._do("writing", name, lambda fs, path: put_file(fs, path, file))

    def remove_file(self, name: str) -> None:
        """Removes a file, if it is there."""
        with suppress(FileNotFoundError):
            self._do("removing", name, lambda fs, path: fs.rm_file(path))

    def remove(self) -> None:
        """Removes the folder and all below, if it is there."""
        with suppress(FileNotFoundError):
            self._do("removing", "", lambda fs, path: fs.rm(path, recursive=True))

    def _do(self, what: str, name: str, call: Callable[[AbstractFileSystem, str], T]) -> T:
        """What `call` returns of the file system and the path of `name`, or of the folder itself."""
        url = self.path(name) if name else self.url
        fs, path = file_system(url)
        return call(fs, path) if self.is_local else patiently(what, url, lambda: call(fs, path))


def _found(fs: AbstractFileSystem, path: str) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = fs.find(path, detail=True)
    return found


def _below(root: str, full: str) -> str:
    return full[len(root) :].lstrip("/")


def _modified(info: Mapping[str, Any]) -> float:
    """When a file was last written, in the words of its file system."""
    for field in MODIFIED_FIELDS:
        value = info.get(field)
        if isinstance(value, str):
            value = datetime.fromisoformat(value)
        if isinstance(value, datetime):
            value = value.timestamp()
        if isinstance(value, int | float):
            return float(value)
    return time.time()  # nobody knows: it is not old


def split(url: str) -> tuple[Folder, str]:
    """The folder and the name of a file at a URL or local path."""
    folder, slash, name = url.rpartition("/")
    return Folder.at(folder or slash or "."), name
