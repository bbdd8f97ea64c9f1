"""A layer of 131,072 neurons, 20,000 concepts, top images out of 1,000,000 recorded ones: time and peak memory.

    python -m tests.benchmarks.latents [--neurons 131072] [--concepts 20000] [--images 1000000] [--memory 2.0]

The recording is drawn at random and written first (10 GB). Labelling then runs in a process of its own, with two
tasks at a time as threads do; its peak is above what the process holds with everything imported.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tasks.label import find_top_images, join_labels, score_block, sum_softmax
from tasks.labelling import LabelPlan
from tests.benchmarks.recordings import LAYER, planned, write
from tests.benchmarks.reduction import peak_so_far

TASKS_AT_A_TIME = 2


def labelled(plan: LabelPlan) -> dict[str, float]:
    """Labels the layer; seconds by step."""
    seconds = {}

    def step(name: str, function: Callable[..., Any], parts: Sequence[tuple[Any, ...]]) -> None:
        started = time.perf_counter()
        with ThreadPoolExecutor(TASKS_AT_A_TIME) as pool:
            list(pool.map(lambda part: function(plan, LAYER, *part), parts))
        seconds[name] = time.perf_counter() - started

    step("top_images", find_top_images.fn, [()])
    step("softmax", sum_softmax.fn, [(part,) for part in plan.unsummed(LAYER)])
    step("score", score_block.fn, [(block,) for block in plan.unscored(LAYER)])
    step("label", join_labels.fn, [()])
    return seconds


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    for option, default in (("neurons", 131_072), ("concepts", 20_000), ("images", 1_000_000)):
        parser.add_argument(f"--{option}", type=int, default=default)
    parser.add_argument("--memory", type=float, default=2.0)
    parser.add_argument("--label", metavar="FOLDER", type=Path, help="label what was written there")
    given = parser.parse_args()
    sizes = given.images, given.neurons, given.concepts, given.memory
    if given.label:
        plan, base = planned(given.label, *sizes), peak_so_far()
        print(json.dumps(labelled(plan) | {"peak_gib": (peak_so_far() - base) / 1024}))
        return
    with tempfile.TemporaryDirectory() as folder:
        plan = planned(Path(folder), *sizes)
        write(plan)
        command = [sys.executable, "-m", "tests.benchmarks.latents", *sys.argv[1:], "--label", folder]
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert len(plan.labels(LAYER)) == given.neurons * plan.spec.ranks
    figures = {name: round(value, 3) for name, value in json.loads(out.splitlines()[-1]).items()}
    print(json.dumps(dict(zip(("images", "neurons", "concepts", "memory"), sizes, strict=True)) | figures))


if __name__ == "__main__":
    main()
