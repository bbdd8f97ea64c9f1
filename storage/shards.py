"""WebDataset shards: original image bytes in tar files, and an index with a row per image.

A shard is written whole or not at all, byte-identical for the same images. Reading starts at any row: the index
knows each image's offset, so that a task reads only its own rows, whatever the shards' sizes. Tars that exist are
used in place: the index names them by URL.
"""

from __future__ import annotations

import hashlib
import re
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, cast

import pandas as pd

from storage.errors import RemoteError, ShardError, SourceError, UnreadableError
from storage.files import Folder, split
from storage.members import DAMAGE, MAX_READ, Bounded, image_member
from storage.sources.reading import MAX_BYTES

#: Name of the file beside the index that says which shards there are; written last.
MANIFEST = "manifest.json"
INDEX_COLUMNS = [
    *("row", "key", "source", "path", "label"),
    *("shard", "offset", "num_bytes", "sha256", "encoding", "width", "height"),
]
REJECT_COLUMNS = ["source", "path", "num_bytes", "reason"]
#: Bytes read at a time where a whole tar is.
READ_BYTES = 1 << 20


@dataclass(frozen=True)
class ShardMember:
    """An image about to be written."""

    key: str
    ending: str
    data: bytes


@dataclass(frozen=True)
class WrittenShard:
    """A shard as the manifest has it: written, or used in place."""

    #: Name beside the index, or the URL of a tar used in place.
    name: str
    num_images: int
    #: Samples as WebDataset counts them; in a tar of somebody else's, not each has to have an image of the probe set.
    num_samples: int
    num_bytes: int
    sha256: str
    #: Where each image's tar header starts, in order.
    offsets: tuple[int, ...]


class _Hashing:
    """A file that hashes and counts what passes through."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.sha256, self.num_bytes = file, hashlib.sha256(), 0

    def read(self, size: int) -> bytes:
        data = self.file.read(size)
        self.sha256.update(data)
        self.num_bytes += len(data)
        return data

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        self.num_bytes += len(data)
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()

    def tell(self) -> int:
        return self.num_bytes

    def close(self) -> None:
        """Does nothing: the file belongs to whoever opened it."""


def write_shard(folder: Folder, name: str, members: Iterable[ShardMember]) -> WrittenShard:
    """Writes images to the shard `name`, atomically; the same images give the same bytes."""
    from webdataset import TarWriter  # takes seconds: it brings torch

    offsets: list[int] = []
    with folder.writing(name) as file:
        out = _Hashing(file)
        # mtime and owner are fixed, or the same images would give another digest tomorrow.
        # The POSIX format writes names that are long or not ASCII in full.
        with TarWriter(out, mtime=0, user="", group="", encoder=False, format="PAX_FORMAT") as tar:
            for member in members:
                offsets.append(tar.tarstream.offset)
                tar.write({"__key__": member.key, member.ending: member.data})
    return WrittenShard(name, len(offsets), len(offsets), out.num_bytes, out.sha256.hexdigest(), tuple(offsets))


def sample_key(name: str) -> tuple[str, str]:
    """WebDataset's key and ending of a member: the base name ends at its first dot. Both empty where it skips it."""
    base = name.rpartition("/")[2]
    stem, dot, ending = base.partition(".")
    if not stem or not dot or re.match(r"__[^/]*__($|/)", name):
        return "", ""
    return name[: len(name) - len(base)] + stem, ending


class TarPass:
    """One pass over a tar, from start to end, that hashes it; members are asked for on the way."""

    def __init__(self, url: str, file: IO[bytes]) -> None:
        self.url, self._file = url, _Hashing(file)
        self._samples: set[str] = set()
        #: Where the last member starts, and its bytes: links to it are images too.
        self._last: tuple[int, bytes | UnreadableError] | None = None
        self._members = self._walk()

    def member(self, offset: int) -> bytes:
        """The member whose header starts at `offset`: the one that was asked for last, or any after it.

        Raises `SourceError` where none starts there: the tar has changed since it was listed. Raises
        `UnreadableError` for one that is to be refused.
        """
        if self._last is None or self._last[0] != offset:
            self._last = None  # before another image is held
            self._last = offset, self._next(offset)
        data = self._last[1]
        if isinstance(data, UnreadableError):
            raise data
        return data

    def _next(self, offset: int) -> bytes | UnreadableError:
        for info, content in self._members:
            if info.offset == offset and info.isreg():
                if content is None:
                    return UnreadableError("is stored as a sparse file, as no image is")
                if info.size > MAX_BYTES:
                    return UnreadableError(f"has {info.size:,} bytes, more than {MAX_BYTES:,}")
                try:
                    return content.read()
                except tarfile.TarError as error:
                    raise self._changed(f"the image at byte {offset:,}: {error}") from error
        raise self._changed(f"no image begins at byte {offset:,}")

    def finish(self, offsets: Sequence[int]) -> WrittenShard:
        """Reads the rest; says what the tar is, with the images of the probe set at `offsets`."""
        for _ in self._members:
            pass
        while self._file.read(READ_BYTES):
            pass
        num_samples, file = len(self._samples - {""}), self._file
        sha256 = file.sha256.hexdigest()
        return WrittenShard(self.url, len(offsets), num_samples, file.num_bytes, sha256, tuple(offsets))

    def _walk(self) -> Iterator[tuple[tarfile.TarInfo, IO[bytes] | None]]:
        """Each member with its content, which is to be read before the next.

        Of all archives that follow each other, as `walk` lists them: it has refused what is no archive.
        """
        stream = cast(IO[bytes], self._file)
        try:
            with tarfile.open(fileobj=stream, mode="r|", bufsize=READ_BYTES, ignore_zeros=True) as tar:
                for info in tar:
                    self._samples.add(sample_key(info.name)[0] if info.isreg() else "")
                    yield info, image_member(tar, info)
        except DAMAGE as error:
            raise self._changed(str(error)) from error

    def _changed(self, what: str) -> SourceError:
        return SourceError(f"{self.url} has changed since it was listed ({what}). Run again.")


def read_images(folder: Folder, wanted: pd.DataFrame) -> Iterator[tuple[int, bytes]]:
    """The images of some rows of the index table, in order, as `(row, bytes)`.

    A shard is opened once for neighbouring rows. Raises `ShardError` naming the shard where it does not hold
    exactly what the index says: a tar that was cut at a member's end just stops, and a flipped bit is silent too.
    """
    missing = [name for name in ("row", "key", "shard", "offset", "num_bytes", "sha256") if name not in wanted]
    if missing:
        raise ShardError(
            f"The index of {folder.url} has no column {', '.join(missing)}. Remove that folder and run again."
        )
    starts = wanted["shard"] != wanted["shard"].shift()
    for _, rows in wanted.groupby(starts.cumsum(), sort=False):
        yield from _read_shard(folder, str(rows["shard"].iloc[0]), rows)


def _read_shard(folder: Folder, shard: str, rows: pd.DataFrame) -> Iterator[tuple[int, bytes]]:
    try:
        where, name = split(shard) if is_in_place(shard) else (folder, shard)
        file = where.open(name)
    except FileNotFoundError as error:
        raise _torn(folder, shard, "it is not there") from error
    with file:
        for expected in rows.itertuples():
            try:
                file.seek(cast(int, expected.offset))
                with tarfile.open(fileobj=_headers(file, cast(int, expected.num_bytes)), mode="r:") as tar:
                    info = tar.next()
                    content = image_member(tar, info) if info and info.size == expected.num_bytes else None
                    data = content.read() if content else b""
            except RemoteError:
                raise
            except Exception as error:
                # tarfile raises half a dozen kinds of error for a damaged archive.
                raise _torn(folder, shard, f"image {expected.key!r} cannot be read ({error})") from error
            if hashlib.sha256(data).hexdigest() != expected.sha256:
                raise _torn(folder, shard, f"the bytes of image {expected.key!r} are not those of the index")
            yield cast(int, expected.row), data


def _headers(file: IO[bytes], num_bytes: int) -> IO[bytes]:
    """A shard as tarfile reads it, where a member of so many bytes is wanted."""
    return cast(IO[bytes], Bounded(file, max(MAX_READ, num_bytes)))


def is_in_place(shard: str) -> bool:
    """Whether a shard of the index is a tar used where it is, by its URL; others lie beside the index."""
    return "/" in shard


def _torn(folder: Folder, shard: str, what: str) -> ShardError:
    if not is_in_place(shard):
        return ShardError(
            f"Shard {folder.path(shard)} is damaged: {what}. "
            f"Remove the folder {folder.url} and run again: the shards are made anew from the images."
        )
    where, name = split(shard)
    size = f"{where.size(name):,}" if where.exists(name) else "no"
    return ShardError(
        f"The tar {shard} is used in place and is not what it was: {what}. {_was(folder, shard)}It has {size} bytes "
        f"now. Put it back as it was, or run all again with what is "
        "there now: that is another probe set."
    )


def _was(folder: Folder, shard: str) -> str:
    """What the manifest has of a tar used in place, as far as it can be read."""
    with suppress(LookupError, TypeError, ValueError, OSError, StopIteration):
        entry = next(entry for entry in folder.read_json(MANIFEST)["shards"] if entry["shard"] == shard)
        return f"It had {entry['num_bytes']:,} bytes (SHA-256 {entry['sha256'][:12]}…). "
    return ""
