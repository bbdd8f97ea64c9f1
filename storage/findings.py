"""What is in a store, and what is wrong with it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from storage.files import Folder, Found, split
from storage.layout import Store

Kind = Literal["torn", "missing", "foreign"]


@dataclass(frozen=True, order=True)
class Problem:
    """What is wrong with a file."""

    #: From the root of the store; the URL of what lies elsewhere.
    path: str
    kind: Kind
    #: In words; both numbers where there are two.
    said: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.path} {self.said}"


@dataclass
class Findings:
    """What is in a store, and what is wrong with it."""

    store: Store
    files: dict[str, Found]
    #: By path: of a file the first thing that is wrong.
    problems: dict[str, Problem] = field(default_factory=dict)
    #: What markers say, by their paths.
    markers: dict[str, dict[str, Any]] = field(default_factory=dict)
    #: Markers that vouch for a file, by its path, with what it was when they did.
    vouching: dict[str, dict[str, Any]] = field(default_factory=dict)
    #: Files that nobody vouches for: of unfinished work, or left by a crash.
    unfinished: list[Found] = field(default_factory=list)
    #: Markers of versions that wrote no digests.
    unchecked: list[str] = field(default_factory=list)
    #: URLs of tars that are used in place.
    inputs: set[str] = field(default_factory=set)
    #: What could not be looked at.
    notes: list[str] = field(default_factory=list)

    def add(self, kind: Kind, path: str, said: str) -> None:
        """Takes in a problem."""
        self.problems.setdefault(path, Problem(path, kind, said))

    def at(self, path: str) -> tuple[Folder, str]:
        """Folder and name of a file, by its path as problems have it."""
        return split(path) if is_elsewhere(path) else (self.store.root, path)

    @property
    def summary(self) -> str:
        """All of it in one line."""
        kinds = [problem.kind for problem in self.problems.values()]
        counts = [f"{kinds.count(kind):,} {kind}" for kind in ("torn", "missing", "foreign") if kind in kinds]
        num_bytes = sum(one.num_bytes for one in self.files.values())
        parts = [f"{len(self.files):,} files, {num_bytes:,} bytes: {', '.join(counts) or 'nothing is wrong'}"]
        if self.unfinished:
            parts.append(f"{len(self.unfinished):,} files of unfinished work, which a run finishes or gc removes")
        if self.unchecked:
            parts.append(f"{len(self.unchecked):,} markers of an older version, whose files cannot be checked")
        return "; ".join(parts) + "."


def is_elsewhere(path: str) -> bool:
    """Whether a path is the URL of a file outside the store."""
    return path.startswith("/") or "://" in path
