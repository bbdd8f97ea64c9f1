"""The command itself, `python -m flows run`, with the Prefect server that it brings."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.conftest import REPO
from tests.kills.harness import Figures, Runner, Setting, endure
from tests.kills.points import FILES
from tests.kills.scenes import AS_SHIPPED

#: Files after the first of which the command is killed, in the order in which they come.
AFTER = (
    "part's marker",
    "manifest",
    "marker of embeddings",
    "marker of activations",
    "softmax sum",
    "block",
    "layer's marker",
    "block of details",
    "published table",
    "report",
)
SECONDS_BETWEEN_LOOKS = 0.002
#: A kill comes at most so long after the file; the command then works for about a second.
MOST_SECONDS_AFTER = 0.2


@dataclass(frozen=True)
class SoonAfter:
    """A while after the first file of a kind is there."""

    file: str
    seconds: float

    def __str__(self) -> str:
        return f"the command, soon after {self.file}"


class Command:
    """Runs of a scene by the command, each in a process group of its own."""

    def __init__(self, home: Path) -> None:
        self._environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        self._environment["PREFECT_HOME"] = str(home)

    def go(self, setting: Setting, point: SoonAfter | None = None, delay: float | None = None) -> dict[str, Any]:
        """Runs a scene to its end, or until its process group is killed; gives how it ended."""
        assert delay is None
        spec = setting.folder / "given.yaml"
        spec.write_text(yaml.safe_dump({name: _plain(value) for name, value in setting.parameters.items()}))
        with (setting.folder / "said").open("w+") as said:
            process = subprocess.Popen(
                # A target that is code has to be typed.
                [sys.executable, "-m", "flows", "run", "--spec", str(spec), "--target", setting.parameters["target"]],
                cwd=REPO,
                env=self._environment,
                stdout=said,
                stderr=said,
                start_new_session=True,
            )
            while point and process.poll() is None and not _is_there(setting.folder, point.file):
                time.sleep(SECONDS_BETWEEN_LOOKS)
            if point:
                time.sleep(point.seconds)
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
            status = process.wait()
            said.seek(0)
            if status == -signal.SIGKILL:
                return {"end": "killed", "at": f"{point.seconds:.3f} s" if point else ""}
            return {"end": "failed" if status else "done", "error": said.read()[-1000:]}


def suffer_command(runner: Runner, folder: Path, home: Path, kills: int, seed: int, figures: Figures) -> None:
    """Kills the command so many times, some twice in a row, and compares what it leaves in the end.

    With what the same tasks leave without Prefect, by `runner`.
    """
    rng, killed = random.Random(seed), figures.kills + kills
    setting, command = Setting(AS_SHIPPED, folder, runner), Command(home)
    while figures.kills < killed and not figures.differences:
        files = rng.sample(AFTER, min(rng.randint(1, 2), killed - figures.kills))
        points = [SoonAfter(file, rng.uniform(0, MOST_SECONDS_AFTER)) for file in sorted(files, key=AFTER.index)]
        endure(command, setting, points, rng, figures)


def _is_there(folder: Path, file: str) -> bool:
    return any(
        re.fullmatch(FILES[file], str(path.relative_to(folder)))
        for name in ("store", "out")
        for path in (folder / name).rglob("*")
    )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
