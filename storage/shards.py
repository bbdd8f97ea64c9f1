"""WebDataset shards: original image bytes in tar files, and an index with a row per image.

A shard is written whole or not at all, byte-identical for the same images. Reading starts at any row: the index
knows each image's offset, so that a task reads only its own rows, whatever the shards' sizes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import IO, Any, cast

import pandas as pd
from webdataset import TarWriter
from webdataset.tariterators import tar_file_iterator

from storage.errors import ShardError
from storage.files import Folder

INDEX_COLUMNS = ["row", "key", "path", "shard", "offset", "num_bytes", "sha256", "width", "height", "label"]
REJECT_COLUMNS = ["path", "num_bytes", "reason"]


@dataclass(frozen=True)
class ShardMember:
    """An image about to be written."""

    key: str
    ending: str
    data: bytes


@dataclass(frozen=True)
class WrittenShard:
    """What was written, for the manifest."""

    name: str
    num_images: int
    num_bytes: int
    sha256: str
    #: Where each image's tar header starts, in order.
    offsets: tuple[int, ...]


class _Hashing:
    """A write-only file that hashes and counts what passes through."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.sha256, self.num_bytes = file, hashlib.sha256(), 0

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
    offsets: list[int] = []
    with folder.writing(name) as file:
        out = _Hashing(file)
        # mtime and owner are fixed, or the same images would give another digest tomorrow.
        # The POSIX format writes names that are long or not ASCII in full.
        with TarWriter(out, mtime=0, user="", group="", encoder=False, format="PAX_FORMAT") as tar:
            for member in members:
                offsets.append(tar.tarstream.offset)
                tar.write({"__key__": member.key, member.ending: member.data})
    return WrittenShard(name, len(offsets), out.num_bytes, out.sha256.hexdigest(), tuple(offsets))


def read_images(folder: Folder, wanted: pd.DataFrame) -> Iterator[tuple[int, bytes]]:
    """The images of some rows of the index table, in order, as `(row, bytes)`.

    Neighbours are read in one stream. Raises `ShardError` naming the shard where it does not hold exactly what
    the index says: a tar that was cut at a member's end just stops, and a flipped bit is silent too.
    """
    # A stretch ends where a row is left out or the next shard begins.
    starts = (wanted["row"].diff() != 1) | (wanted["shard"] != wanted["shard"].shift())
    for _, stretch in wanted.groupby(starts.cumsum(), sort=False):
        yield from _read_stretch(folder, str(stretch["shard"].iloc[0]), stretch)


def _read_stretch(folder: Folder, shard: str, stretch: pd.DataFrame) -> Iterator[tuple[int, bytes]]:
    try:
        file = folder.open(shard)
    except FileNotFoundError as error:
        raise _torn(folder, shard, "it is not there") from error
    with file:
        file.seek(int(stretch["offset"].iloc[0]))
        members = _members(folder, shard, file)
        for expected in stretch.itertuples():
            found = next(members, None)
            if found is None:
                raise _torn(folder, shard, f"it ends before image {expected.key!r}")
            if hashlib.sha256(found["data"]).hexdigest() != expected.sha256:
                raise _torn(folder, shard, f"the bytes of image {expected.key!r} are not those of the index")
            yield cast(int, expected.row), found["data"]


def _members(folder: Folder, shard: str, file: IO[bytes]) -> Iterator[dict[str, Any]]:
    try:
        yield from tar_file_iterator(file, skip_meta=None)
    except Exception as error:
        # tarfile, webdataset and zlib raise half a dozen kinds of error for a damaged archive.
        raise _torn(folder, shard, f"it cannot be read ({error})") from error


def _torn(folder: Folder, shard: str, what: str) -> ShardError:
    return ShardError(
        f"Shard {folder.path(shard)} is damaged: {what}. "
        f"Remove the folder {folder.url} and run again: the shards are made anew from the images."
    )
