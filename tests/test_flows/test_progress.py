"""What Prefect shows of how far a stage is."""

from __future__ import annotations

import io
from threading import Event
from typing import Any
from uuid import UUID, uuid4

import pytest
from rich.console import Console

from flows.engine import progress
from flows.engine.pace import Pace, time_left
from flows.engine.terminal import TerminalProgress
from tasks.running import Counter, reported
from tests.test_flows.conftest import Counting


class Artifacts:
    """Stands in for the server: progress artifacts with all that they have shown."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.shown: dict[UUID, list[float]] = {}
        self.keys: list[str] = []
        self.said: list[str] = []
        self.is_made = Event()
        monkeypatch.setattr(progress, "create_progress_artifact", self.create)
        monkeypatch.setattr(progress, "update_progress_artifact", self.update)

    def create(self, percent: float, *, key: str, description: str) -> UUID:
        from prefect.context import FlowRunContext

        assert FlowRunContext.get() is not None  # or it would be an artifact of no run
        made = uuid4()
        self.keys.append(key)
        self.shown[made] = [percent]
        self.is_made.set()
        return made

    def update(self, made: UUID, percent: float, description: str) -> None:
        self.shown[made].append(percent)
        self.said.append(description)


@pytest.fixture
def artifacts(monkeypatch: pytest.MonkeyPatch, prefect_api: str) -> Artifacts:
    return Artifacts(monkeypatch)


def stage(*work: Any, units: int = 1) -> None:
    """A flow of one stage, of which an earlier run did a half; each callable is a task of so many units."""
    from prefect import flow, task
    from prefect.cache_policies import NO_CACHE

    @task(cache_policy=NO_CACHE)
    def one(i: int) -> None:
        work[i]()

    @flow
    def counting() -> None:
        futures = [(one.submit(i), units) for i in range(len(work))]
        progress.follow("To count", futures, total=2 * units * len(work))

    counting()


def test_a_stage_that_ends_soon_is_shown_once(artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_UPDATES", 1e6)
    stage(list, list)
    assert artifacts.keys == ["progress-to-count"]
    assert list(artifacts.shown.values()) == [[100.0]]


def test_a_stage_that_lasts_is_shown_before_its_first_task_ends(
    artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_UPDATES", 0.01)
    stage(lambda: artifacts.is_made.wait(timeout=60))
    [shown] = artifacts.shown.values()
    assert shown[0] == 50.0 and shown[-1] == 100.0


def test_a_stage_that_fails_is_shown_as_far_as_it_came(artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise ValueError("no")

    monkeypatch.setattr(progress, "SECONDS_BETWEEN_UPDATES", 1e6)
    with pytest.raises(ValueError, match="no"):
        stage(list, fail)
    assert list(artifacts.shown.values()) == [[75.0]]


def test_names_that_would_share_an_artifact_key_get_a_digest() -> None:
    names = ["conv1", "block.1", "block_1", "sae[1]", "größe", "[]"]
    keys = progress.slugs(names)
    assert (keys["conv1"], keys["sae[1]"]) == ("conv1", "sae-1")
    assert len(set(keys.values())) == len(names)
    assert keys["block.1"].startswith("block-1-")
    assert all(key == progress.slug(key) != "" for key in keys.values())


class Steps(Counting):
    """Keeps each amount that it is told of, and knows when the first has come."""

    def __init__(self) -> None:
        super().__init__()
        self.amounts: list[int] = []
        self.has_news = Event()

    def advanced(self, stage: str, amount: int) -> None:
        super().advanced(stage, amount)
        self.amounts.append(amount)
        self.has_news.set()


def test_what_a_task_has_done_is_counted_while_it_works(
    artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LOOKS", 0.01)
    steps = Steps()

    def work() -> None:
        Counter().add(3)
        assert steps.has_news.wait(timeout=60)

    with progress.observed_by(steps):
        stage(work, units=10)
    assert steps.amounts == [3, 7]
    assert not reported


def test_a_task_that_begins_again_counts_nothing_twice_and_never_more_than_there_is() -> None:
    task_run = uuid4()
    future: Any = type("Future", (), {"task_run_id": task_run})()
    counts = progress._Counts({future: 10})
    seen = []
    for done in (4, 8, 2, 9, 11):  # the third is of another worker, in place of one that was killed
        reported[task_run] = done
        counts.look()
        seen.append(counts.total)
    counts.forget()
    assert seen == [4, 8, 8, 9, 10]
    assert not reported


def test_a_task_that_fails_counts_for_nothing(artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LOOKS", 0.01)
    steps = Steps()

    def fail() -> None:
        Counter().add(3)
        assert steps.has_news.wait(timeout=60)
        raise ValueError("no")

    with progress.observed_by(steps), pytest.raises(ValueError, match="no"):
        stage(fail, units=10)
    assert steps.amounts == [3, -3]


def test_a_plain_call_reports_to_nobody() -> None:
    Counter().add(1)
    assert not reported


def test_a_pace_says_how_far_how_fast_and_how_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.engine.pace.time.perf_counter", lambda: 100.0)
    pace = Pace(50_000, 8_700, "images", began=0.0)
    assert str(pace) == "8,700 of 50,000 images"
    pace.now = 4_100
    assert str(pace) == "12,800 of 50,000 images, 41/s, 16 min left"
    pace.now = 120
    assert str(pace) == "8,820 of 50,000 images, 1.2/s, 9 h 32 min left"
    pace.now = 41_300
    assert str(pace) == "50,000 of 50,000 images"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "1 s"), (59.4, "59 s"), (60, "1 min"), (61, "2 min"), (3600, "1 h"), (90_000, "1 d 1 h"), (86_500, "1 d")],
)
def test_a_time_left_is_given_in_two_units_at_most(seconds: float, text: str) -> None:
    assert time_left(seconds) == text


def test_a_log_gets_a_line_at_times(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("flows.engine.terminal.time.monotonic", lambda: now[0])
    written = io.StringIO()
    shown = TerminalProgress(Console(file=written, width=200))
    shown.started("embed", 100, 20, "images")
    for now[0] in (10.0, 29.0, 31.0, 40.0, 60.0, 62.0):
        shown.advanced("embed", 10)
    shown.advanced("embed", 20)
    shown.finished("embed", 63.0)
    lines = written.getvalue().splitlines()
    assert [line.split(",")[0] for line in lines] == [
        "embed             50 of 100 images",
        "embed             80 of 100 images",
        "embed             80 images",
    ]
