"""Done is a fact in storage, recorded last: a small JSON file that names what was finished and says how.

Chunk files of an array say nothing about completeness (a chunk of fill values is never stored), so every region
has a marker of its own, written after its data. It vouches for the files that it is about: path from its folder,
bytes, SHA-256.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from storage import disk
from storage.files import Folder, Written

Item = TypeVar("Item")


#: Key of a marker under which the files stand that it vouches for.
FILES = "files"
#: What is wrong with a file that is not there.
GONE = "is not there"


@dataclass(frozen=True)
class Completion:
    """The markers below one folder, by name."""

    folder: Folder

    def done(self) -> frozenset[str]:
        """Names of all that is finished."""
        return frozenset(name.removesuffix(".json") for name in self.folder.names() if name.endswith(".json"))

    def has(self, name: str) -> bool:
        """Whether `name` is finished."""
        return self.folder.is_file(f"{name}.json")

    def mark(self, name: str, facts: Mapping[str, Any], files: Iterable[Written] = ()) -> Written:
        """Records that `name` is finished, and vouches for `files`, which are on the disk before it is."""
        files = list(files)
        if self.folder.is_local:
            disk.sync(Path(one.url) for one in files)
        return self.folder.write_json(f"{name}.json", {**facts, FILES: vouched(self.folder, files)})

    def facts(self, name: str) -> dict[str, Any]:
        """What was recorded with `name`. Raises `FileNotFoundError` where it is not finished."""
        return self.marker(name)[0]

    def marker(self, name: str) -> tuple[dict[str, Any], Written]:
        """What was recorded with `name`, and the marker's file, for another that vouches for it."""
        data = self.folder.read(f"{name}.json")
        facts: dict[str, Any] = self.folder.parse_json(f"{name}.json", data)
        facts.pop(FILES, None)
        return facts, Written.of(self.folder.path(f"{name}.json"), data)


def vouched(folder: Folder, files: Iterable[Written]) -> dict[str, Any]:
    """Files as a marker in `folder` names them: by their paths from there, with bytes and SHA-256."""
    return {
        posixpath.relpath(one.url, folder.url): {"num_bytes": one.num_bytes, "sha256": one.sha256}
        for one in sorted(files, key=lambda one: one.url)
    }


def harm(folder: Folder, path: str, was: Any) -> str:
    """What is wrong with a file that a marker in `folder` vouches for, as it `was`; nothing where it is whole."""
    was = {"sha256": was} if isinstance(was, str) else was  # older versions published no sizes
    try:
        num_bytes = folder.size(path)
        if num_bytes != was.get("num_bytes", num_bytes):
            return f"has {num_bytes:,} bytes, and {was['num_bytes']:,} were written"
        sha256 = folder.sha256(path)
    except FileNotFoundError:
        return GONE
    if sha256 != was["sha256"]:
        return f"has SHA-256 {sha256[:12]}…, and {was['sha256'][:12]}… was written"
    return ""


@dataclass(frozen=True, order=True)
class Rows:
    """A range of rows `[start, stop)` of the probe set: the unit of work, aligned to an array's shards."""

    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def name(self) -> str:
        """Name of the range's marker; sorts like the rows."""
        return f"{self.start:012d}-{self.stop:012d}"

    def __str__(self) -> str:
        return f"images {self.start}-{self.stop - 1}"


#: A run has at most this many tasks over a probe set, so that ten thousand shards do not make ten thousand tasks.
MAX_TASKS = 64
#: Rows of a shard group are this, doubled until there is a group per task, or a group has `MAX_ROWS`.
ROWS_UNIT, MAX_ROWS = 256, 16_384
#: Bytes of the largest Zarr shard, as float32: what a task holds of an array while it fills one.
MAX_SHARD_BYTES = 1 << 28


def rows_per_group(num_images: int) -> int:
    """Rows of a shard group: a function of the probe set alone, so that every engine writes the same shards."""
    rows = ROWS_UNIT
    while rows * MAX_TASKS < num_images and 2 * rows <= MAX_ROWS:
        rows *= 2
    return rows


def rows_per_shard(num_images: int, columns: int) -> int:
    """Rows of a Zarr shard of an array `[num_images, columns]`: a shard group, or where it is wide a part of one."""
    rows = rows_per_group(num_images)
    while 4 * rows * columns > MAX_SHARD_BYTES and rows % 2 == 0:
        rows //= 2
    return rows


def groups(num_images: int) -> list[Rows]:
    """All shard groups of a probe set, in order."""
    return steps(Rows(0, num_images), rows_per_group(num_images))


def steps(rows: Rows, step: int) -> list[Rows]:
    """A range of rows in steps of so many, the last of what is left."""
    return [Rows(start, min(start + step, rows.stop)) for start in range(rows.start, rows.stop, step)]


def in_tasks(items: Sequence[Item]) -> list[tuple[Item, ...]]:
    """Items in order, a share of neighbours for each of at most `MAX_TASKS` tasks."""
    step = max(1, -(-len(items) // MAX_TASKS))
    return [tuple(items[start : start + step]) for start in range(0, len(items), step)]
