"""A run that is killed anywhere, and run again, leaves what an undisturbed one leaves."""

from __future__ import annotations

import random
import re
import sys
from collections.abc import Iterator
from copy import copy
from pathlib import Path

import pytest

from tests.kills.command import suffer_command
from tests.kills.harness import Figures, Runner, Setting, endure, suffer
from tests.kills.points import FILES, Point
from tests.kills.scenes import SCENES

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are watched and killed as on Linux")

#: So many that every kind of file is met: there are 27, and with them come kills at any moment.
KILLS = {"copied": 34, "in place": 12}


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    with Runner.started() as started:
        yield started


def test_a_run_killed_anywhere_leaves_what_an_undisturbed_one_leaves(runner: Runner, tmp_path: Path) -> None:
    figures = Figures()
    for scene in SCENES:
        suffer(runner, Setting(scene, tmp_path / scene.name, runner), KILLS[scene.name], seed=0, figures=figures)
    assert figures.differences == []
    assert figures.kills == sum(KILLS.values()) and figures.compared > 0
    # The kinds of files are all there are.
    assert figures.kinds == {*FILES, "any moment"}


def test_the_command_killed_with_its_server_goes_on(runner: Runner, prefect_home: Path, tmp_path: Path) -> None:
    figures = Figures()
    suffer_command(runner, tmp_path / "command", prefect_home, kills=1, seed=0, figures=figures)
    assert figures.differences == [] and figures.kills == 1


@pytest.fixture(scope="module")
def setting(runner: Runner, tmp_path_factory: pytest.TempPathFactory) -> Setting:
    """Of which runs with a fault are undisturbed."""
    return Setting(SCENES[0], tmp_path_factory.mktemp("kills") / "faulty", runner)


@pytest.mark.parametrize(
    ("fault", "point", "found"),
    [
        ("group_marked_before_it_is_written", Point("marker of activations", "write", "after"), "cannot go on"),
        # Where it was the first block, nothing has made the array yet.
        (
            "block_before_its_similarities",
            Point("block", "write", "after"),
            r"similarities\S* (differs|is missing)|cannot go on .*/similarities/",
        ),
        ("files_written_in_place", Point("block", "open", "after"), "cannot go on"),
    ],
)
def test_a_fault_is_found(fault: str, point: Point, found: str, runner: Runner, setting: Setting) -> None:
    faulty, figures = copy(setting), Figures()
    faulty.fault = fault
    endure(runner, faulty, [point], random.Random(0), figures)
    assert figures.kills == 1
    assert re.search(found, "\n".join(figures.differences)), figures
