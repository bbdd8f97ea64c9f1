"""Done is a fact in storage, recorded last: a small JSON file that names what was finished and says how.

Chunk files of an array say nothing about completeness (a chunk of fill values is never stored), so every region
has a marker of its own, written after its data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from storage.files import Folder


@dataclass(frozen=True)
class Completion:
    """The markers below one folder, by name."""

    folder: Folder

    def done(self) -> frozenset[str]:
        """Names of all that is finished."""
        return frozenset(name.removesuffix(".json") for name in self.folder.names() if name.endswith(".json"))

    def mark(self, name: str, facts: Mapping[str, Any]) -> None:
        """Records that `name` is finished; call it when its data is safely written."""
        self.folder.write_json(f"{name}.json", dict(facts))

    def facts(self, name: str) -> dict[str, Any]:
        """What was recorded with `name`. Raises `FileNotFoundError` where it is not finished."""
        facts: dict[str, Any] = self.folder.read_json(f"{name}.json")
        return facts


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


#: A run has at most about this many shard groups, so that ten thousand shards do not make ten thousand tasks.
MAX_GROUPS = 64
#: Rows of a shard group are a multiple of this, which every batch size in use divides or is a multiple of.
ROWS_UNIT = 256


def rows_per_group(num_images: int) -> int:
    """Rows of a shard group: a function of the probe set alone, so that every engine writes the same shards."""
    return ROWS_UNIT * max(1, -(-num_images // (MAX_GROUPS * ROWS_UNIT)))


def groups(num_images: int) -> list[Rows]:
    """All shard groups of a probe set, in order."""
    step = rows_per_group(num_images)
    return [Rows(start, min(start + step, num_images)) for start in range(0, num_images, step)]
