"""Disks that fill up, memory that ends, clocks that jump, two runs at once: what is left is as of one calm run."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from copy import copy
from typing import Any

import pytest

from tests.kills.comparison import differences, finished, left_behind
from tests.kills.harness import Runner, Setting
from tests.kills.points import FAILING, FULL, Point
from tests.kills.scenes import SCENES

#: What two runs may both make, as each looks first and then writes the same small file whole.
MADE_TWICE = (
    *("lease", "Zarr metadata", "store format", "list of files", "concepts of similarities"),
    *("list's marker", "record of the run"),
)
SHARED = ("shard", "part's table", "part's marker", "index", "manifest", "concept embeddings", "marker of embeddings")


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    with Runner.started() as started:
        yield started


@pytest.fixture(scope="module")
def settings(runner: Runner, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Setting]:
    folder = tmp_path_factory.mktemp("trouble")
    return {scene.name: Setting(scene, folder / scene.name, runner) for scene in SCENES}


@pytest.fixture
def copied(settings: dict[str, Setting]) -> Iterator[Setting]:
    yield settings["copied"]
    settings["copied"].clear()


def written(counts: list[tuple[str, str, int]]) -> Counter[str]:
    return Counter({file: number for file, action, number in counts if action == "write"})


@pytest.mark.parametrize(("moment", "says"), [(FULL, "No space left to write in"), (FAILING, "MemoryError")])
def test_a_run_in_trouble_says_so_and_goes_on_when_that_is_over(
    runner: Runner, copied: Setting, moment: str, says: str
) -> None:
    rng, met = random.Random(0), 0
    for file, action, number in copied.counts:
        if action != "write":
            continue
        end = runner.go(copied, Point(file, action, moment, rng.randrange(number)))
        if end["end"] == "done":
            copied.clear()  # what was done before, by the runs before, is not written again
            end = runner.go(copied, Point(file, action, moment))
        assert end["end"] == "failed" and says in end["error"], (file, end)
        met += 1
    assert runner.go(copied)["end"] == "done"
    assert differences(finished(copied.folder), copied.expected) == []
    assert left_behind(copied.folder) == []
    assert met > 10


@pytest.mark.parametrize("name", [scene.name for scene in SCENES])
def test_of_two_equal_runs_at_once_each_file_is_written_by_one(
    runner: Runner, settings: dict[str, Setting], name: str
) -> None:
    setting = settings[name]
    ends = runner.go_at_once([setting, setting])
    assert [end["end"] for end in ends] == ["done", "done"], ends
    assert differences(finished(setting.folder), setting.expected) == []
    assert left_behind(setting.folder) == []
    both = written(ends[0]["counts"]) + written(ends[1]["counts"])
    once = written(setting.counts)
    assert {file: both[file] for file in once if file not in MADE_TWICE} == {
        file: number for file, number in once.items() if file not in MADE_TWICE
    }
    setting.clear()


def test_without_leases_it_would_be_written_by_both(runner: Runner, copied: Setting) -> None:
    faulty = copy(copied)
    faulty.fault = "leases_for_all"
    ends = runner.go_at_once([faulty, faulty])
    both = sum((written(end["counts"]) for end in ends if end["end"] == "done"), Counter[str]())
    assert any(end["end"] == "failed" for end in ends) or both["block"] > written(copied.counts)["block"]


def test_the_time_of_day_does_not_matter(runner: Runner, copied: Setting) -> None:
    jumping = copy(copied)
    jumping.fault = "clock_that_jumps"
    assert runner.go(jumping)["end"] == "done"
    assert differences(finished(copied.folder), copied.expected) == []
    assert left_behind(copied.folder) == []


def other(setting: Setting, **changed: Any) -> Setting:
    another = copy(setting)
    another.parameters = setting.parameters | changed
    return another


def test_two_runs_at_once_share_what_both_need(runner: Runner, copied: Setting) -> None:
    first = other(copied, out=str(copied.folder / "out" / "first"))
    second = other(copied, out=str(copied.folder / "out" / "second"), summary="max")
    alone = [runner.go(one) for one in (first, second)]
    assert [end["end"] for end in alone] == ["done", "done"], alone
    expected = finished(copied.folder)
    copied.clear()
    ends = runner.go_at_once([first, second])
    assert [end["end"] for end in ends] == ["done", "done"], ends
    assert differences(finished(copied.folder), expected) == []
    both, once = written(ends[0]["counts"]) + written(ends[1]["counts"]), written(alone[0]["counts"])
    assert {file: both[file] for file in SHARED} == {file: once[file] for file in SHARED}
