"""Runs killed anywhere by SIGKILL, run again, and compared with undisturbed ones, file by file and array by array.

    python -m tests.benchmarks.kills [--kills 500] [--of-the-command 20]

Most runs are of the flows' own code in a process without a Prefect server; `--of-the-command` kills are of
`python -m flows run` with its server. The last line is one JSON object with the figures; the exit status is 1 where
there is a difference.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

from tests.kills.command import suffer_command
from tests.kills.harness import Figures, Runner, Setting, suffer
from tests.kills.scenes import SCENES


def main() -> None:
    """Kills, compares and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--of-the-command", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    started = time.perf_counter()
    figures, kills = Figures(), given.kills - given.of_the_command
    with tempfile.TemporaryDirectory() as name, Runner.started() as runner:
        folder = Path(name)
        for number, scene in enumerate(SCENES):
            share = len(range(number, kills, len(SCENES)))
            suffer(runner, Setting(scene, folder / scene.name, runner), share, given.seed + number, figures)
        suffer_command(runner, folder / "command", folder / "prefect", given.of_the_command, given.seed, figures)
    for point, number in sorted(figures.points.items()):
        print(f"{number:4d}  {point}")
    for difference in figures.differences:
        print(difference)
    counted = vars(figures) | {
        "differences": len(figures.differences),
        "points": len(figures.points),
        "kills_at_any_moment": figures.points["any moment"],
        "kills_of_the_command": given.of_the_command,
        "seconds": round(time.perf_counter() - started),
    }
    print(json.dumps(counted))
    raise SystemExit(bool(figures.differences))


if __name__ == "__main__":
    main()
