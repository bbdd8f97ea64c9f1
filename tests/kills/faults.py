"""Faults that lose or tear something where a process is killed, or two work at once: what the harness has to find."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import local
from typing import IO, Any


def group_marked_before_it_is_written() -> None:
    """The marker of a shard group comes before its summaries."""
    from tasks import writing

    finish = writing._Array.finish

    def marked_first(self: Any, seconds: Any) -> None:
        self.markers().mark(self.rows.name, {"num_images": len(self.rows), "seconds": {}} | self.facts())
        finish(self, seconds)

    writing._Array.finish = marked_first


def block_before_its_similarities() -> None:
    """A block's best labels, which say that it is done, come before its similarities."""
    from tasks import label, similarities

    write, write_bundle, waiting = similarities.write, label.write_bundle, local()

    def wait(*given: Any) -> None:
        waiting.given = given

    def both(*given: Any) -> Any:
        written = write_bundle(*given)
        if hasattr(waiting, "given"):
            write(*waiting.given)
            del waiting.given
        return written

    similarities.write, label.write_bundle = wait, both


def files_written_in_place() -> None:
    """A file has its name before it is whole."""
    from storage import disk

    @contextmanager
    def in_place(path: Path) -> Iterator[IO[bytes]]:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            yield file

    disk.writing = in_place


def leases_for_all() -> None:
    """Everybody gets what they want, whoever else is at it."""
    from storage.leases import Leases

    @contextmanager
    def some(self: Any, wanted: Any, waits: Any) -> Iterator[list[Any]]:
        yield list(wanted)

    Leases.some = some  # type: ignore[method-assign]


def clock_that_jumps() -> None:
    """The time of day is another year whenever it is asked for; no fault of ours, and nothing may depend on it."""
    import time

    years, now = random.Random(0), time.time
    time.time = lambda: now() + years.uniform(-20, 20) * 3.15e7


#: By name, as a process is told of them.
FAULTS: dict[str, Callable[[], None]] = {
    fault.__name__: fault
    for fault in (
        *(group_marked_before_it_is_written, block_before_its_similarities, files_written_in_place),
        *(leases_for_all, clock_that_jumps),
    )
}
