"""Kills runs, runs them again to their end, and compares what they leave with what an undisturbed run leaves."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

from tests.conftest import REPO
from tests.kills.comparison import differences, finished, left_behind
from tests.kills.points import MOMENTS, Point
from tests.kills.scenes import Scene

Drawn = TypeVar("Drawn")

#: Most kills of a run before it is let go on to its end.
MOST_IN_A_ROW = 8
#: Share of kills that come at any moment; the others at a point.
AT_ANY_MOMENT = 0.15


@dataclass
class Figures:
    """What was done to runs, and what came of it."""

    kills: int = 0
    #: What is not as in an undisturbed run, each with the kills before it.
    differences: list[str] = field(default_factory=list)
    #: Kills by point.
    points: Counter[str] = field(default_factory=Counter)
    #: Runs that were killed, once or several times, and went on to their end.
    runs: int = 0
    #: Files and arrays that were compared.
    compared: int = 0
    #: Runs that have left files behind, whole as they are in the end, and how many these are.
    runs_with_files_left: int = 0
    files_left: int = 0

    @property
    def kinds(self) -> set[str]:
        """Kinds of files at which runs were killed, and "any moment"."""
        return {point.partition(":")[0] for point in self.points}


class Goes(Protocol):
    """What runs a scene."""

    def go(self, setting: Setting, point: Any = None, delay: float | None = None) -> dict[str, Any]:
        """Runs it to its end, or until it is killed at a point or after a delay; gives how it ended."""


class Runner:
    """Runs of scenes in processes that fork from one."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    @classmethod
    @contextmanager
    def started(cls) -> Iterator[Self]:
        """Inside the `with`; what it forks from takes seconds to import what it needs."""
        command = [sys.executable, "-m", "tests.kills.process"]
        process = subprocess.Popen(command, cwd=REPO, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdin and process.stdout
        try:
            yield cls(process)
        finally:
            process.stdin.close()
            process.wait(60)
            process.stdout.close()

    def go(self, setting: Setting, point: Point | None = None, delay: float | None = None) -> dict[str, Any]:
        """Runs a scene to its end, or until it is killed; gives how it ended."""
        [end] = self._obeys([_order(setting, point, delay)])
        return end

    def go_at_once(self, settings: Sequence[Setting]) -> list[dict[str, Any]]:
        """Runs all of them at once, to their ends; gives how each ended."""
        return self._obeys([_order(setting) for setting in settings])

    def _obeys(self, orders: list[dict[str, Any]]) -> list[dict[str, Any]]:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(orders) + "\n")
        self._process.stdin.flush()
        answer: list[dict[str, Any]] = json.loads(self._process.stdout.readline())
        return answer


def _order(setting: Setting, point: Point | None = None, delay: float | None = None) -> dict[str, Any]:
    return {
        "folder": str(setting.folder),
        "spec": setting.parameters,
        "is_cut": setting.scene.is_cut,
        "fault": setting.fault,
        "point": asdict(point) if point else None,
        "delay": delay,
    }


class Setting:
    """A scene in a folder, and what an undisturbed run of it leaves there."""

    def __init__(self, scene: Scene, folder: Path, runner: Runner, fault: str | None = None) -> None:
        folder.mkdir()
        self.scene, self.folder, self.fault = scene, folder, fault
        self.parameters = scene.make(folder)
        end = runner.go(self)
        if end["end"] != "done":
            raise RuntimeError(f"The undisturbed run {end['end']}: {end.get('trace')}")
        self.counts, self.seconds = end["counts"], end["seconds"]
        self.expected = finished(folder)
        self.clear()

    def clear(self) -> None:
        """Removes what a run made."""
        for made in filter(Path.exists, (self.folder / "store", self.folder / "out")):
            shutil.rmtree(made)

    def points(self, rng: random.Random, met: Container[str]) -> list[Point | None]:
        """Every moment of every action on each kind of file, at one of the times that it is done; None is any moment.

        Each kind of file comes once before one comes again, and so does each action on it; those of `met` come last.
        """
        kinds: dict[str, list[list[Point]]] = {}
        for file, action, number in self.counts:
            moments = rng.sample(MOMENTS[action], len(MOMENTS[action]))
            points = [Point(file, action, moment, rng.randrange(number)) for moment in moments]
            kinds.setdefault(file, []).append(points)
        drawn: list[Point | None] = []
        for turn in _turns([[point for turn in _turns(actions) for point in turn] for actions in kinds.values()]):
            points_of_turn: list[Point | None] = [*turn]
            points_of_turn += [None] * round(len(turn) * AT_ANY_MOMENT / (1 - AT_ANY_MOMENT))
            points_of_turn = rng.sample(points_of_turn, len(points_of_turn))
            drawn += sorted(points_of_turn, key=lambda point: point is not None and point.file in met)
        return drawn

    def in_order(self, points: list[Point | None]) -> list[Point | None]:
        """Points as a run comes to them, so that one killed at the first goes on to the next."""
        order = [(file, action) for file, action, _ in self.counts]
        return sorted(points, key=lambda point: order.index((point.file, point.action)) if point else -1)


def _turns(lists: Sequence[Sequence[Drawn]]) -> Iterator[list[Drawn]]:
    """The first of each list, then the second of each that has two, and so on."""
    for turn in range(max(map(len, lists))):
        yield [some[turn] for some in lists if turn < len(some)]


def suffer(runner: Runner, setting: Setting, kills: int, seed: int, figures: Figures) -> None:
    """Kills runs of a scene so many times, mostly several times in a row, and compares what each comes to.

    Kinds of files at which nothing has been killed by `figures` yet come first.
    """
    rng, killed = random.Random(seed), figures.kills + kills
    waiting: list[Point | None] = []
    while figures.kills < killed:
        waiting = waiting or setting.points(rng, figures.kinds)
        in_a_row = min(rng.randint(1, MOST_IN_A_ROW), killed - figures.kills)
        points, waiting = setting.in_order(waiting[:in_a_row]), waiting[in_a_row:]
        for point in reversed(endure(runner, setting, points, rng, figures)):
            if point and point is not points[0]:
                waiting.insert(0, point)  # what the kills before left undone may not have it; a whole run has
            elif point and point.number:
                waiting.insert(0, replace(point, number=0))  # where threads race, it is not done as often each time


def endure(runner: Goes, setting: Setting, points: list[Any], rng: random.Random, figures: Figures) -> list[Any]:
    """Kills one run at points, one after another, lets it go on to its end, and compares.

    Gives the points that it did not come to.
    """
    killed: list[str] = []
    end: dict[str, Any] = {}
    while points and end.get("end") not in ("done", "failed"):
        point, points = points[0], points[1:]
        end = runner.go(setting, point, None if point else rng.uniform(0, setting.seconds))
        if end["end"] == "killed":
            killed.append(f"{point or 'any moment'} ({end['at']})")
            figures.points[str(point or "any moment")] += 1
            figures.kills += 1
        else:
            points = [point, *points]
    if end["end"] == "killed":
        end = runner.go(setting)
    figures.runs += 1
    if end["end"] == "done":
        found = finished(setting.folder)
        figures.compared += len(found)
        wrong = differences(found, setting.expected)
    else:
        wrong = [f"the run cannot go on ({end['error']})"]
    figures.differences += [f"{' then '.join(killed)}: {what}" for what in wrong]
    left = len(left_behind(setting.folder))
    figures.files_left += left
    figures.runs_with_files_left += bool(left)
    setting.clear()
    return points
