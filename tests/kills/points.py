"""Points at which a run can be killed, or its disk be full: everything it changes on disk.

Python raises an audit event before it opens, renames, links or removes a file. So no code of the product is touched,
and a write that somebody adds tomorrow is a point too.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import RLock
from typing import Any

#: What a file is, by its path below the folder of a run; the first that fits.
FILES = {
    "lease": r"(store|out)/(.*/)?[^/]+\.lock",
    "store format": r"store/store\.json",
    "shard": r"store/probes/\w+/shard-\d+\.tar",
    "part's table": r"store/probes/\w+/parts/.*\.parquet",
    "part's marker": r"store/probes/\w+/parts/.*\.json",
    "list of files": r"store/(probes/\w+/listing|tars/.*)\.parquet",
    "index": r"store/probes/\w+/((index|rejects)\.parquet|wids\.json)",
    "manifest": r"store/probes/\w+/manifest\.json",
    "list's marker": r"store/tars/.*\.json",
    "concept embeddings": r"store/concepts/.*\.parquet",
    "marker of concepts": r"store/concepts/.*\.json",
    "Zarr metadata": r"store/.*/zarr\.json",
    "Zarr shard": r"store/.*\.zarr/.*/c/.*",
    "marker of embeddings": r"store/embeddings/\w+\.done/.*\.json",
    "marker of activations": r"store/activations/\w+\.done/.*\.json",
    "softmax sum": r"store/labels/.*/softmax(/.*\.bundle)?",
    "block": r"store/labels/.*/blocks(/.*\.bundle)?",
    "layer's table": r"store/labels/.*\.(parquet|bundle)",
    "layer's marker": r"store/labels/.*\.json",
    "block of details": r"store/details/.*/blocks(/.*\.bundle)?",
    "table of details": r"store/details/.*\.parquet",
    "marker of details": r"store/details/.*\.json",
    "concepts of similarities": r"store/similarities/\w+\.parquet",
    "record of the run": r"store/runs/\w+\.json",
    "published table": r"out/(.*\.(parquet|csv)|(.*/)?spec\.yaml)",
    "report": r"out/(.*/)?report/.*\.(html|js)",
    "run.json": r"out/(.*/)?run(\.begun)?\.json",
}
#: What is done to a file, by audit event. What is written aside becomes the file by a rename, or by a link.
ACTIONS = {"os.rename": "write", "os.link": "link", "os.remove": "remove", "os.rmdir": "remove", "open": "open"}
#: When a process can be killed, by action. A file that is opened for writing where it lies is never whole then.
MOMENTS = {
    "write": ("half-written", "before", "after"),
    "link": ("before", "after"),
    "remove": ("before", "after"),
    "open": ("after",),
}
#: The moment from which on nothing can be written, for what reason.
FULL, FAILING = "disk full", "memory out"


@dataclass(frozen=True)
class Point:
    """The time that an action is done to a file of a kind for the `number`-th time."""

    file: str
    action: str
    moment: str
    number: int = 0

    def __str__(self) -> str:
        return f"{self.file}: {self.moment}" + ("" if self.moment == "half-written" else f" {self.action}")


class Changes:
    """Counts what this process does to files below a folder, and kills its process group at a point."""

    def __init__(self, folder: Path, point: Point | None, tell: Callable[[str], None]) -> None:
        self._folder, self._point, self._tell = f"{folder.resolve()}/", point, tell
        self._counts: Counter[tuple[str, str]] = Counter()
        self._lock, self._is_dying = RLock(), False
        self._trouble: Callable[[], BaseException] | None = None

    @property
    def counts(self) -> list[tuple[str, str, int]]:
        """File, action, how often; in the order in which they began."""
        return [(file, action, number) for (file, action), number in self._counts.items()]

    def watch(self) -> None:
        """From now on; there is no end to it but the end of the process."""
        sys.addaudithook(self._heard)

    def _heard(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in ACTIONS or self._is_dying:
            return
        action, path = ACTIONS[event], _path(event, arguments)
        if not path.startswith(self._folder) or path.endswith(".partial"):
            return
        if action == "remove" and not os.path.lexists(path):
            return  # nothing is changed, and there is no moment after it
        file = kind(path.removeprefix(self._folder))
        with self._lock:  # which the process dies with, so that no other thread goes on
            number = self._counts[file, action]
            self._counts[file, action] += 1
            point = self._point
            if point and (file, action, number) == (point.file, point.action, point.number):
                self._trouble = TROUBLE.get(point.moment)
                self._is_dying = self._trouble is None
            if self._trouble and action != "remove":
                raise self._trouble()
            if self._is_dying and point:
                _reach(point.moment, event, arguments)
                self._tell(path.removeprefix(self._folder))
                os.killpg(0, signal.SIGKILL)


#: What is raised from a moment on.
TROUBLE: dict[str, Callable[[], BaseException]] = {
    FULL: lambda: OSError(errno.ENOSPC, "No space left on device"),
    FAILING: MemoryError,
}


def kind(path: str) -> str:
    """What the file at a path below the folder of a run is."""
    return next((name for name, pattern in FILES.items() if re.fullmatch(pattern, path)), "another file")


def _path(event: str, arguments: tuple[Any, ...]) -> str:
    """The file that an event is about; nothing where it does not change one."""
    if event == "open":
        path, _, flags = arguments
        return str(path) if flags & (os.O_WRONLY | os.O_RDWR) and not isinstance(path, int) else ""
    if event in ("os.rename", "os.link"):
        return os.fsdecode(arguments[1])
    path, folder = os.fsdecode(arguments[0]), arguments[1]
    return path if folder < 0 else f"{Path(f'/proc/self/fd/{folder}').readlink()}/{path}"


def _reach(moment: str, event: str, arguments: tuple[Any, ...]) -> None:
    """Brings the file to what it is at a moment of an event, which is told of before it happens."""
    if moment == "before":
        return
    if moment == "half-written":
        os.truncate(arguments[0], Path(arguments[0]).stat().st_size // 2)
    elif event == "os.rename":
        Path(arguments[0]).rename(arguments[1])
    elif event == "os.link":
        Path(arguments[1]).hardlink_to(arguments[0])
    elif event == "open":
        os.open(arguments[0], arguments[2], 0o600)
    else:
        path, folder = arguments
        remove = os.remove if event == "os.remove" else os.rmdir
        remove(path, dir_fd=None if folder < 0 else folder)
