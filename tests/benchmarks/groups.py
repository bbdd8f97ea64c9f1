"""What labelling reads of a hundred million images: top images and statistics of 6,104 shard groups.

    python -m tests.benchmarks.groups [--images 100000000] [--neurons 128]

They are drawn at random and written as recording writes them (500 MB); seconds, and memory above what was there.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np

from storage import arrays
from storage.completion import Rows, groups
from storage.layout import Store
from tasks import recorded, summaries
from tasks.dissection.layouts import Axes, Layout
from tasks.observation import ActivationsRef
from tests.benchmarks.reduction import peak_so_far

LAYER = "layer"


def write(of: ActivationsRef, num_images: int, num_neurons: int) -> None:
    """Top images and statistics of every shard group."""
    group, rng = arrays.open_group(of.store.summaries(of.digest), of.identity), np.random.default_rng(0)
    summaries.create(group, LAYER, num_images, num_neurons)
    for number, rows in enumerate(groups(num_images)):
        shape = 1, min(summaries.TOP_IMAGES_RECORDED, len(rows)), num_neurons
        values = -np.sort(-rng.random(shape, dtype=np.float32), axis=1)
        count, total = np.full(num_neurons, len(rows)), values.sum((0, 1))
        statistics = np.stack([count, values[0, -1], values[0, 0], total])[None].astype(np.float64)
        top_rows = rng.integers(rows.start, rows.stop, shape, dtype=np.int32)
        for name, block in (
            (summaries.TOP_VALUES, values),
            (summaries.TOP_ROWS, top_rows),
            (summaries.STATISTICS, statistics),
        ):
            arrays.write_rows(group, f"{LAYER}/{name}", Rows(number, number + 1), block)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=100_000_000)
    parser.add_argument("--neurons", type=int, default=128)
    given = parser.parse_args()
    figures: dict[str, float] = {
        "images": given.images,
        "groups": len(groups(given.images)),
        "neurons": given.neurons,
    }
    with tempfile.TemporaryDirectory() as folder:
        layouts, sizes = {LAYER: Layout(Axes.VECTOR)}, {LAYER: given.neurons}
        of = ActivationsRef(Store.at(folder), "drawn", {"drawn": given.images}, "mean", "top", layouts, sizes)
        write(of, given.images, given.neurons)
        size = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
        figures["bytes_a_neuron_and_group"] = round(size / given.neurons / figures["groups"], 1)
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from what is resident now
        base, started = peak_so_far(), time.perf_counter()
        recorded.top_images(of, given.images, LAYER, summaries.TOP_IMAGES_RECORDED)
        figures["top_images_seconds"], started = round(time.perf_counter() - started, 2), time.perf_counter()
        recorded.statistics(of, given.images, LAYER)
        figures["statistics_seconds"] = round(time.perf_counter() - started, 2)
        figures["peak_mb"] = round(peak_so_far() - base)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
