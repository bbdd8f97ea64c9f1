"""Who is at a unit of work: of all runs that want to do it, at once, one does it, and the others find it done.

A lease ends with its holder. In a folder of this machine, or of a file server, it is a lock (`flock`) on a file,
which the kernel frees even after `kill -9`. An object store has no locks: there a lease is an object made on
condition that none of its name is there, renewed by its holder, and taken over when it was not renewed for
`LEASE_SECONDS` by the clock of whoever waits, so that clocks need not agree. A holder that was only asleep may then
write what another has written: the same bytes, as whole objects.
"""

from __future__ import annotations

import errno
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread
from typing import Protocol, TypeVar

from filelock import FileLock, Timeout

from storage.disk import writing_in
from storage.files import Folder
from storage.identity import digest_of_bytes

Item = TypeVar("Item")
#: Is told, again and again, what is waited for, and may raise.
Waits = Callable[[str], None]

#: How long an object of a lease lasts that nobody renews, and how often its holder does.
LEASE_SECONDS, RENEWAL_SECONDS = 30.0, 5.0
#: How long one who waits sleeps before asking again: of a lock it costs nothing, of an object store a few requests.
SECONDS_BETWEEN_ASKING = {True: 0.05, False: 1.0}
#: Leases that one holder takes at a time; the others are free for whoever comes.
MOST_AT_A_TIME = 4
#: Longest name of a lease's file: the longest of any file system has 255 bytes.
LONGEST_NAME = 150
#: Where Linux lists who has which file locked.
LOCKS = Path("/proc/locks")
#: What file systems say that have no locks.
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


@dataclass(frozen=True)
class Leases:
    """The leases below one folder, by name."""

    folder: Folder

    @contextmanager
    def held(self, name: str, waits: Waits) -> Iterator[None]:
        """Nobody else holds `name` inside the `with`; waits until that is so."""
        with self.some({name: [name]}, waits):
            yield

    def lots(self, wanted: Mapping[Item, Sequence[str]], waits: Waits) -> Iterator[list[Item]]:
        """The wanted items in lots, each of which nobody else holds until the next is asked for.

        Others may have done them before: look once a lot is given.
        """
        left = dict(wanted)
        while left:
            with self.some(left, waits) as ours:
                yield ours
            for item in ours:
                del left[item]

    @contextmanager
    def some(self, wanted: Mapping[Item, Sequence[str]], waits: Waits) -> Iterator[list[Item]]:
        """Gives those of the wanted items whose names nobody else holds: at least one, at most `MOST_AT_A_TIME`.

        Waits while others hold all. Who holds some must not wait for more, or two may wait for each other.
        """
        asking = _Asking(self.folder)
        while True:
            with ExitStack() as leases:
                ours = []
                for item, names in wanted.items():
                    if asking.takes(names, leases):
                        ours.append(item)
                    if len(ours) == MOST_AT_A_TIME:
                        break
                if ours:
                    yield ours
                    return
            first, more = next(iter(wanted)), len(wanted) - 1
            who = asking.holder(next(iter(wanted[first]), ""))
            waits(
                f"Another run is at {first}{f' and {more} more' if more else ''}{who and f' ({who})'}. "
                "Waiting for what it does."
            )
            time.sleep(SECONDS_BETWEEN_ASKING[self.folder.is_local])


class Lease(Protocol):
    """What a holder has until it is released."""

    def release(self) -> None:
        """Lets others have it."""


@dataclass(frozen=True)
class _Asking:
    """One who asks for leases, again and again."""

    folder: Folder
    #: Leases of others as they were when last asked for, and since when by our clock.
    seen: dict[str, tuple[bytes, float]] = field(default_factory=dict)

    def takes(self, names: Sequence[str], leases: ExitStack) -> bool:
        """Takes all of the names, or none."""
        with ExitStack() as taken:
            for name in names:
                lease = self._take(_file_name(name))
                if lease is None:
                    return False
                taken.callback(lease.release)
            leases.enter_context(taken.pop_all())
            return True

    def holder(self, name: str) -> str:
        """The process that has a lease, as far as it can be known here; empty where it cannot."""
        lease = self.folder / f"{_file_name(name)}.lease"
        if lease.url in self.seen:
            machine, process, *_ = [*self.seen[lease.url][0].decode(errors="replace").split(), "?", "?"]
            return f"process {process} of {machine}"
        if not self.folder.is_local:
            return ""
        process = _locking_process(Path(self.folder.path(f"{_file_name(name)}.lock")))
        return f"process {process} of this machine" if process else ""

    def _take(self, name: str) -> Lease | None:
        if self.folder.is_local:
            try:
                return FileLease.take(Path(self.folder.path(f"{name}.lock")))
            except (OSError, NotImplementedError) as error:
                if not isinstance(error, NotImplementedError) and error.errno not in NO_LOCKS:
                    raise
        # A name of its own: an object store would take what is below `run.json` for a folder of that name.
        return ObjectLease.take(self.folder / f"{name}.lease", self.seen)


def _file_name(name: str) -> str:
    plain = "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in name)
    if plain == name and len(name.encode()) <= LONGEST_NAME:
        return name
    return f"{plain.encode()[:LONGEST_NAME].decode(errors='ignore')}-{digest_of_bytes(name.encode())}"


def _locking_process(path: Path) -> str:
    """Number of the process that has a file locked, by what Linux says of its locks; empty where it says nothing."""
    with suppress(OSError):
        inode = str(path.stat().st_ino)
        for line in LOCKS.read_text().splitlines():
            _, _, _, _, process, file, *_ = line.split()  # 7: FLOCK ADVISORY WRITE 4711 08:01:12345 0 EOF
            if file.rpartition(":")[2] == inode and process != "-1":
                return process
    return ""


@dataclass(frozen=True)
class FileLease:
    """A lease that is a lock on a file."""

    path: Path
    lock: FileLock

    @classmethod
    def take(cls, path: Path) -> FileLease | None:
        """The lock on a file, which is made for it; None where another has it. Raises `OSError` where none can be."""
        lock = FileLock(path, thread_local=False, fallback_to_soft=False)
        try:
            with writing_in(path.parent):
                path.parent.mkdir(parents=True, exist_ok=True)
                lock.acquire(timeout=0)
        except Timeout:
            return None
        return cls(path, lock)

    def release(self) -> None:
        """Frees it, and removes the file."""
        # Before it is free: whoever locks a file that has no name any more asks again.
        self.path.unlink(missing_ok=True)
        self.lock.release()


class ObjectLease:
    """A lease that is an object `0000000001`, or of a higher number where it was taken over from one who died."""

    def __init__(self, folder: Folder, number: int) -> None:
        self._folder, self._name = folder, f"{number:010d}"
        self._token = f"{socket.gethostname()} {os.getpid()} {secrets.token_hex(8)}"
        self._renewals, self._released = 0, Event()
        self._renewing = Thread(target=self._renew, name=f"lease {folder.name}", daemon=True)

    @classmethod
    def take(cls, folder: Folder, seen: dict[str, tuple[bytes, float]]) -> ObjectLease | None:
        """An object of a folder that has none; None where another has one that was `seen` to be renewed."""
        before = _contents(folder)
        if before and not _is_over(folder, before, seen):
            return None
        lease = cls(folder, int(max(before, default="0")) + 1)
        if not folder.create(lease._name, lease._content()):
            return None
        now = _contents(folder)
        now.pop(lease._name, None)
        if not now.items() <= before.items():
            # Somebody else took it between our looking and our taking, and sees us as we see them: both ask again.
            folder.remove_file(lease._name)
            return None
        for name in now:
            folder.remove_file(name)
        lease._renewing.start()
        return lease

    def _content(self) -> bytes:
        return f"{self._token} {self._renewals}\n".encode()

    def _renew(self) -> None:
        while not self._released.wait(RENEWAL_SECONDS):
            self._renewals += 1
            with suppress(OSError):  # it is tried again, and lost when that fails for long
                self._folder.write(self._name, self._content())

    def release(self) -> None:
        """Removes the object."""
        self._released.set()
        self._renewing.join()
        self._folder.remove_file(self._name)


def _contents(folder: Folder) -> dict[str, bytes]:
    """What the objects of a lease hold, by name."""
    found = {}
    for name in folder.names():
        with suppress(FileNotFoundError):
            found[name] = folder.read(name)
    return found


def _is_over(folder: Folder, contents: dict[str, bytes], seen: dict[str, tuple[bytes, float]]) -> bool:
    """Whether a lease has been as it is for longer than its holder would have left it."""
    content = b"".join(contents[name] for name in sorted(contents))
    before, since = seen.get(folder.url, (b"", 0.0))
    if before != content:
        seen[folder.url] = content, time.monotonic()
        return False
    return time.monotonic() - since > LEASE_SECONDS
