from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from storage import leases
from storage.files import Folder
from storage.leases import Leases
from tests.conftest import REPO

_numbers = count()


def never(text: str) -> None:
    raise AssertionError(f"Nobody else was there: {text}")


def without_locks(path: Path) -> Any:
    raise OSError(errno.EOPNOTSUPP, "no locks here", str(path))


@pytest.fixture(params=["locks", "no locks", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    """Where leases are locks, where they are files because the file system has no locks, and where objects."""
    monkeypatch.setattr(leases, "SECONDS_BETWEEN_ASKING", {True: 0.002, False: 0.002})
    if request.param == "no locks":
        monkeypatch.setattr(leases.FileLease, "take", without_locks)
    return Folder.at(f"memory://leases-{next(_numbers)}" if request.param == "memory" else str(tmp_path / "leases"))


def files(folder: Folder) -> list[str]:
    return [
        name for below in folder.names() for name in ([below] if folder.is_file(below) else (folder / below).names())
    ]


def test_no_two_hold_the_same_and_all_come_to_it(folder: Folder) -> None:
    inside: Counter[int] = Counter()
    given: Counter[int] = Counter()
    most: Counter[int] = Counter()
    lock = threading.Lock()

    def work() -> None:
        for lot in Leases(folder).lots({number: [f"a{number}", f"b{number}"] for number in range(3)}, lambda _: None):
            with lock:
                inside.update(lot)
                given.update(lot)
                for number in lot:
                    most[number] = max(most[number], inside[number])
            time.sleep(0.001)
            with lock:
                inside.subtract(lot)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert given == {0: 8, 1: 8, 2: 8}
    assert most == {0: 1, 1: 1, 2: 1}
    assert files(folder) == []


def test_what_is_free_is_given_first_and_all_names_or_none_are_taken(folder: Folder) -> None:
    mine, told = Leases(folder), []
    with mine.held("b", never):
        with mine.some({"one": ["a", "b"], "two": ["c"]}, never) as ours:
            assert ours == ["two"]
            with mine.held("a", never):  # or it would have been kept for "one"
                pass
        release = threading.Timer(0.1, told.append, ["released"])
        release.start()
    with mine.some({"one": ["a", "b"]}, told.append) as ours:
        assert ours == ["one"]
    release.join()


def test_who_waits_says_so(folder: Folder, request: pytest.FixtureRequest) -> None:
    told: list[str] = []
    waits, goes = threading.Event(), threading.Event()

    def wait() -> None:
        with Leases(folder).some(
            {"images 0-9": ["a"], "images 10-19": ["b"]}, lambda text: (told.append(text), waits.set())
        ):
            goes.set()

    with Leases(folder).some({"both": ["a", "b"]}, never):
        waiting = threading.Thread(target=wait)
        waiting.start()
        assert waits.wait(10)
        time.sleep(0.05)  # it asks again and again
        assert not goes.is_set()
    waiting.join(10)
    assert goes.is_set()
    where = {"locks": "this machine"}.get(request.node.callspec.params["folder"], socket.gethostname())
    who = f" (process {os.getpid()} of {where})"
    text = "Another run is at images 0-9 and 1 more{}. Waiting for what it does."
    assert told[0] == text.format(who)
    assert set(told) <= {text.format(who), text.format("")}  # it may be free by the time that it is looked up


def test_a_lot_that_fails_is_free_while_its_error_is_kept(folder: Folder) -> None:
    def fail() -> None:
        for _ in Leases(folder).lots({"one": ["a"]}, never):
            raise ValueError("no")

    with pytest.raises(ValueError) as kept:
        fail()
    with Leases(folder).held("a", never):
        assert kept.value.__traceback__ is not None


def test_one_takes_few_at_a_time(folder: Folder) -> None:
    lots = [lot.copy() for lot in Leases(folder).lots({number: [str(number)] for number in range(10)}, never)]
    assert lots == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


@pytest.mark.parametrize("name", ["layer/with*signs", "ß" * 300, "a" * 300])
def test_any_name_can_be_held_and_differs_from_others(folder: Folder, name: str) -> None:
    with (
        Leases(folder).held(name, never),
        Leases(folder).held(f"{name}b", never),
        Leases(folder).held("layer-with-signs", never),
    ):
        pass


HOLDER = """
import sys, time
from storage import leases
from storage.files import Folder
leases.RENEWAL_SECONDS = 0.05
if sys.argv[2] == "no locks":
    leases.FileLease.take = classmethod(lambda cls, path: (_ for _ in ()).throw(NotImplementedError()))
with leases.Leases(Folder.at(sys.argv[1])).held("a", print):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def hold(tmp_path: Path) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """Starts a process that holds `a` until it is killed."""
    started: list[subprocess.Popen[str]] = []

    def start(kind: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", HOLDER, str(tmp_path), kind]
        process = subprocess.Popen(command, cwd=REPO, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_lock_is_free_as_soon_as_its_holder_is_killed(hold: Any, tmp_path: Path) -> None:
    process, told = hold("locks"), []
    mine = Leases(Folder.at(str(tmp_path)))
    killer = threading.Timer(0.1, process.kill)
    killer.start()
    with mine.held("a", told.append):
        assert process.wait() == -signal.SIGKILL
    assert told


def test_a_lease_without_lock_is_renewed_and_taken_over_when_it_is_not(
    hold: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases.FileLease, "take", without_locks)
    monkeypatch.setattr(leases, "LEASE_SECONDS", 1.0)
    monkeypatch.setattr(leases, "SECONDS_BETWEEN_ASKING", {True: 0.02})
    process, told = hold("no locks"), []
    mine = Leases(Folder.at(str(tmp_path)))
    began = time.monotonic()
    killer = threading.Timer(2.5, os.kill, [process.pid, signal.SIGKILL])  # longer than a lease lasts
    killer.start()
    with mine.held("a", told.append):
        assert process.wait() == -signal.SIGKILL
        assert time.monotonic() - began > 2.5
        assert Folder.at(str(tmp_path / "a.lease")).names() == ["0000000002"]
    assert told


def test_a_holder_that_only_slept_is_not_taken_for_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between one's looking at a lease that is over and taking it, its holder lets go and a third takes it."""
    folder = Folder.at(f"memory://leases-{next(_numbers)}")
    monkeypatch.setattr(leases, "LEASE_SECONDS", 0.0)
    (folder / "a").write("0000000001", b"asleep")
    seen: dict[str, tuple[bytes, float]] = {}
    assert leases.ObjectLease.take(folder / "a", seen) is None
    contents = leases._contents

    def meanwhile(where: Folder) -> dict[str, bytes]:
        found = contents(where)
        monkeypatch.setattr(leases, "_contents", contents)
        where.remove_file("0000000001")
        where.write("0000000001", b"a third")
        return found

    monkeypatch.setattr(leases, "_contents", meanwhile)
    assert leases.ObjectLease.take(folder / "a", seen) is None
    assert contents(folder / "a") == {"0000000001": b"a third"}
