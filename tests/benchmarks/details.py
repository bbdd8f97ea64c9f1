"""Details of a layer's neurons beside what recording writes and labelling takes: seconds and peak memory.

    python -m tests.benchmarks.details [--images 50000] [--neurons 2048] [--concepts 20000] [--memory 0.25]

A recording is drawn at random, nine in ten activations 0 as of ReLU units, and written as recording writes it; of a
layer of which details read a sample, only that sample. Labelling and details then run in processes of their own, two
tasks at a time; their peaks are above what a process holds with everything imported.
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
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from storage import arrays
from storage.completion import groups, rows_per_shard
from tasks import summaries
from tasks.detailing import DetailsPlan
from tasks.details import join_details, measure
from tasks.labelling import LabelPlan
from tests.benchmarks import latents, recordings
from tests.benchmarks.recordings import LAYER
from tests.benchmarks.reduction import peak_so_far

#: Share of activations that are 0.
SILENT = 0.9


def planned(folder: Path, sizes: tuple[int, int, int, float]) -> tuple[LabelPlan, DetailsPlan]:
    """Plans of a recording with all activations."""
    plan = recordings.planned(folder, *sizes)
    plan = replace(plan, activations=replace(plan.activations, kept="float32"))
    return plan, DetailsPlan(plan.activations, plan.probe.num_images, False, sizes[3], "details", (LAYER,))


def write(plan: LabelPlan, details: DetailsPlan) -> float:
    """Writes embeddings, and activations with their top images; seconds that the activations took."""
    of, num_images = plan.activations, plan.probe.num_images
    num_neurons = of.num_neurons[LAYER]
    recordings.write(plan)
    shape = (num_images, num_neurons)
    arrays.create_rows(of.group(), LAYER, shape, rows_per_shard(*shape), ("image", "neuron"), {})
    generator, seconds = torch.Generator().manual_seed(0), 0.0
    is_whole = details.num_read(LAYER) == num_images
    of_group = {rows: summaries.Kept() for rows in groups(num_images)}
    for rows in details.rows(LAYER):
        A = torch.randn(len(rows), num_neurons, generator=generator).abs_()
        A *= torch.rand(A.shape, generator=generator) > SILENT
        started = time.perf_counter()
        arrays.write_rows(of.group(), LAYER, rows, A.numpy())
        if is_whole:
            group = next(one for one in of_group if one.start <= rows.start < one.stop)
            of_group[group].add(A, rows.start)
            if rows.stop == group.stop:
                summaries.write(of.summaries(), LAYER, num_images, group, of_group.pop(group))
        seconds += time.perf_counter() - started
    return seconds


def detailed(plan: DetailsPlan) -> dict[str, float]:
    """Finds the details of the layer; seconds by step."""
    seconds = {}

    def step(name: str, function: Callable[..., Any], parts: Sequence[tuple[Any, ...]]) -> None:
        started = time.perf_counter()
        with ThreadPoolExecutor(latents.TASKS_AT_A_TIME) as pool:
            list(pool.map(lambda part: function(plan, LAYER, *part), parts))
        seconds[name] = time.perf_counter() - started

    step("measure", measure.fn, [(block,) for block in plan.unmeasured(LAYER)])
    step("join", join_details.fn, [()])
    return seconds


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    for option, default in (("images", 50_000), ("neurons", 2_048), ("concepts", 20_000)):
        parser.add_argument(f"--{option}", type=int, default=default)
    parser.add_argument("--memory", type=float, default=0.25)
    parser.add_argument("--step", nargs=2, metavar=("WHICH", "FOLDER"), help="do it with what was written there")
    given = parser.parse_args()
    sizes = given.images, given.neurons, given.concepts, given.memory
    if given.step:
        labels, details = planned(Path(given.step[1]), sizes)
        base = peak_so_far()
        seconds = latents.labelled(labels) if given.step[0] == "label" else detailed(details)
        print(json.dumps(seconds | {"peak_gib": (peak_so_far() - base) / 1024}))
        return
    figures: dict[str, float] = dict(zip(("images", "neurons", "concepts", "memory"), sizes, strict=True))
    with tempfile.TemporaryDirectory() as folder:
        labels, details = planned(Path(folder), sizes)
        figures |= {"images_read": details.num_read(LAYER), "images_compared": len(details.compared(LAYER))}
        figures["write"] = write(labels, details)
        for which in ("label", "details"):
            command = [sys.executable, "-m", "tests.benchmarks.details", *sys.argv[1:], "--step", which, folder]
            out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            of_step = json.loads(out.splitlines()[-1])
            figures[f"{which}_peak_gib"] = of_step.pop("peak_gib")
            figures |= {f"{which}_{name}": seconds for name, seconds in of_step.items()}
            figures[which] = sum(of_step.values())
    print(json.dumps({name: round(value, 3) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
