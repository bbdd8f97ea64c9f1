"""A run on a server is followed to its end, which a crash is only where nothing makes it begin again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID, uuid4

import pytest

from flows.engine import remote
from flows.engine.remote import LOOKS_AT_A_CRASH, RunStatus

RUN = uuid4()
FINAL = ("Completed", "Crashed", "Failed", "Cancelled")


def followed(monkeypatch: pytest.MonkeyPatch, states: list[str]) -> tuple[str, list[str], list[str]]:
    """How `watch` says that a run of these states, look by look, ended; what it told; what it had yet to see."""
    coming = list(states)

    def status(client: object, run: UUID) -> RunStatus:
        state = coming.pop(0)
        return RunStatus(run, "a run", state, "", state in FINAL, state == "Completed", {}, None)

    @contextmanager
    def server() -> Iterator[None]:
        yield

    monkeypatch.setattr(remote, "status", status)
    monkeypatch.setattr(remote, "server", server)
    monkeypatch.setattr(remote, "SECONDS_BETWEEN_LOOKS", 0.0)
    told: list[str] = []
    return remote.watch(RUN, told.append).state, told, coming


def test_a_crash_that_an_automation_answers_is_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    states = ["Running", *["Crashed"] * (LOOKS_AT_A_CRASH - 1), "AwaitingRetry", "Running", "Completed"]
    ended, told, left = followed(monkeypatch, states)
    assert (ended, left) == ("Completed", [])
    assert told == ["Running", "Crashed", "AwaitingRetry", "Running", "Completed"]


def test_a_crash_that_stays_is_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    ended, told, left = followed(monkeypatch, ["Running", *["Crashed"] * (LOOKS_AT_A_CRASH + 1)])
    assert (ended, told, left) == ("Crashed", ["Running", "Crashed"], ["Crashed"])


def test_looks_at_two_crashes_are_not_added_up(monkeypatch: pytest.MonkeyPatch) -> None:
    crash = ["Crashed"] * (LOOKS_AT_A_CRASH - 1)
    ended, _, left = followed(monkeypatch, [*crash, "Running", *crash, "Running", "Failed", "unseen"])
    assert (ended, left) == ("Failed", ["unseen"])
