"""How the cost of labelling grows with neurons N, concepts C, top images K and recorded images I.

    python -m tests.benchmarks.scaling [--runs 3]

resnet50: seconds for its five layers (3,904 neurons), 60,000 images and 20,000 concepts, as in the paper's table 4.
N, C and K: seconds from embeddings and activations of 10,000 images to labels by SoftWPMI, in memory. I: seconds from
a recording in a store (embeddings and top images per shard group) to the label table, of 256 neurons.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.benchmarks.latents import labelled
from tests.benchmarks.recordings import planned, write
from tests.benchmarks.reduction import OURS, data, ours, seconds

BASE = {"neurons": 1_024, "concepts": 10_000, "top_k": 100}
GROWING = {
    "neurons": (256, 1_024, 4_096, 16_384),
    "concepts": (1_250, 2_500, 5_000, 10_000, 20_000, 40_000),
    "top_k": (10, 50, 100, 500),
}
LAYERS = (64, 256, 512, 1_024, 2_048)
IMAGES = (10_000, 100_000, 1_000_000)
NEURONS_OF_RECORDING, CONCEPTS_OF_RECORDING = 256, 10_000


def in_memory(neurons: int, concepts: int, top_k: int, images: int = 10_000) -> Callable[[], Any]:
    """A call that labels."""
    arrays = data(images, concepts, neurons)
    parameters = OURS["soft_wpmi"] | {"top_k": top_k}
    return lambda: ours("soft_wpmi", *arrays, parameters)


def from_a_recording(num_images: int, runs: int) -> float:
    """Median seconds to label; each run in a store of its own digest, so that nothing is done before."""
    with tempfile.TemporaryDirectory() as folder:
        plan = planned(Path(folder), num_images, NEURONS_OF_RECORDING, CONCEPTS_OF_RECORDING, 0.25)
        write(plan)
        labelled(plan)  # what is compiled, and the disk's cache
        times = []
        for _ in range(runs):
            plan.folder(plan.missing[0]).remove()
            times.append(seconds(lambda: labelled(plan)))
    return statistics.median(times)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    runs = parser.parse_args().runs
    figures: dict[str, dict[str, float]] = {"resnet50": {}}
    for neurons in LAYERS:
        call = in_memory(neurons, 20_000, 100, 60_000)
        figures["resnet50"][str(neurons)] = round(statistics.median(seconds(call) for _ in range(runs)), 3)
    print(f"resnet50   {figures['resnet50']}: {sum(figures['resnet50'].values()):.1f} s")
    for what, sizes in GROWING.items():
        figures[what] = {}
        for size in sizes:
            call = in_memory(**(BASE | {what: size}))
            call()
            figures[what][str(size)] = round(statistics.median(seconds(call) for _ in range(runs)), 3)
            print(f"{what:<10} {size:>9,} {figures[what][str(size)]:8.2f} s")
    figures["images"] = {}
    for num_images in IMAGES:
        figures["images"][str(num_images)] = round(from_a_recording(num_images, runs), 3)
        print(f"{'images':<10} {num_images:>9,} {figures['images'][str(num_images)]:8.2f} s")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
