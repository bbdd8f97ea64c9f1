"""What Prefect shows of how far a stage is."""

from __future__ import annotations

from threading import Event
from typing import Any
from uuid import UUID, uuid4

import pytest

from flows.engine import progress


class Artifacts:
    """Stands in for the server: progress artifacts with all that they have shown."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.shown: dict[UUID, list[float]] = {}
        self.keys: list[str] = []
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

    def update(self, made: UUID, percent: float) -> None:
        self.shown[made].append(percent)


@pytest.fixture
def artifacts(monkeypatch: pytest.MonkeyPatch, prefect_api: str) -> Artifacts:
    return Artifacts(monkeypatch)


def stage(*work: Any) -> None:
    """A flow of one stage, of which an earlier run did a half; each callable is a task of one unit."""
    from prefect import flow, task
    from prefect.cache_policies import NO_CACHE

    @task(cache_policy=NO_CACHE)
    def one(i: int) -> None:
        work[i]()

    @flow
    def counting() -> None:
        futures = [(one.submit(i), 1) for i in range(len(work))]
        progress.follow("To count", futures, total=2 * len(work))

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
