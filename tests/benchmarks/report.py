"""What a large report weighs, how long it takes to write, and how fast it opens, searches, filters and sorts.

    python -m tests.benchmarks.report [--layers 64,256,512,1024,2048] [--images 50000]

Tables and thumbnails are made up: five labels of 20,000 concepts, ten top images, five of each range, histogram and
neighbours of every neuron. The page of the largest layer is opened from disk in headless Chromium, 1,280 by 900
pixels. open: from the address to all images of the first screen. The others are pairs, medians of `--runs` calls:
from the event to the frame with the new rows, and to all their images.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from tasks.page import THUMBNAIL_SIDE, _few_enough
from tasks.page_rows import Details, layer_rows
from tasks.report.pages import pages
from tasks.report.rows import Report
from tasks.report.thumbnails import thumbnail
from tests.benchmarks.reduction import peak_so_far
from tests.test_report.conftest import BROWSERS, SWITCHES
from tests.test_report.devtools import Page, driven

RANKS, TOP, DRAWN, NEAR, BINS = 5, 10, 5, 5, 32
CONCEPTS = [f"concept {i} of many" for i in range(20_000)]
#: Makes an event and waits for the next frame, then for the images in view; the milliseconds of both.
TIMED = """(async () => {
  const frame = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done, 0)));
  const inView = () => [...document.querySelectorAll('#neurons li.neuron, #card .images')].filter((row) => {
    const { top, bottom } = row.getBoundingClientRect();
    return bottom > 0 && top < innerHeight;
  });
  const begun = performance.now();
  %s;
  await frame();
  const drawn = performance.now() - begun;
  for (;;) {
    const slots = inView().flatMap((row) => [...row.querySelectorAll('.images li')]);
    if (slots.length > 0 && slots.every((slot) => slot.firstElementChild?.complete)) break;
    await frame();
  }
  return [drawn, performance.now() - begun];
})()"""
SET = "document.getElementById('%s').value = '%s'; toolbar.dispatchEvent(new Event('input'))"
EVENTS = {
    "search": SET % ("q", "concept 77"),
    "search cleared": SET % ("q", ""),
    "filter": SET % ("from", "2"),
    "filter cleared": SET % ("from", ""),
    "sort by similarity": SET % ("sort", "similarity"),
    "sort by label": SET % ("sort", "label"),
    "sort by index": SET % ("sort", "index"),
    "to the middle": "scrollTo(0, document.body.scrollHeight / 2)",
    "card": "location.hash = 'neuron=' + index.neurons[Math.floor(Math.random() * index.neurons.length)]",
    "card left": "location.hash = ''",
}


def neurons_times(layer: str, num_neurons: int, each: int) -> dict[str, Any]:
    """Columns that name a neuron, as many rows of each."""
    return {"layer": layer, "neuron": np.repeat(np.arange(num_neurons), each)}


def images_of(rng: np.random.Generator, size: int, num_images: int) -> dict[str, Any]:
    rows = rng.integers(0, num_images, size)
    return {"row": rows, "image": [f"val/n{row % 1000:08d}/ILSVRC2012_val_{row:08d}.JPEG" for row in rows.tolist()]}


def tables(
    rng: np.random.Generator, layer: str, num: int, num_images: int
) -> tuple[pd.DataFrame, pd.DataFrame, Details]:
    """Labels, top images and details of a layer."""
    labels = pd.DataFrame(neurons_times(layer, num, RANKS) | {"rank": np.tile(np.arange(RANKS) + 1, num)})
    labels["concept"] = rng.choice(CONCEPTS, len(labels))
    labels["similarity"] = rng.gamma(4, 0.5, num).repeat(RANKS) - 0.2 * labels["rank"]
    labels["log_prior"] = rng.normal(-360, 10, len(labels))
    labels["log_likelihood"] = labels["log_prior"] + labels["similarity"]
    labels = labels.assign(margin=0.2, null_quantile=rng.random(len(labels)), is_dead=False)
    labels = labels.assign(is_nearly_constant=False, interpretable=labels["similarity"] > 1)
    top = neurons_times(layer, num, TOP) | {"rank": np.tile(np.arange(TOP) + 1, num)}
    top |= images_of(rng, num * TOP, num_images) | {"activation": rng.random(num * TOP)}
    drawn = neurons_times(layer, num, 3 * DRAWN) | images_of(rng, num * 3 * DRAWN, num_images)
    drawn |= {"range": np.tile(np.repeat(["0.1 %", "1 %", "5 %"], DRAWN), num), "activation": 0.5}
    near = neurons_times(layer, num, 2 * NEAR) | {"by": np.tile(np.repeat(["activation", "label"], NEAR), num)}
    near |= {
        "rank": np.tile(np.arange(NEAR) + 1, 2 * num),
        "other": rng.integers(0, num, num * 2 * NEAR),
        "value": 0.5,
    }
    edges = np.sort(rng.random((num, BINS + 1)), axis=1)
    of = neurons_times(layer, num, 1) | {"mean": 0.4, "std": 0.2, "minimum": 0.0, "maximum": 1.0}
    of |= {"edges": list(edges), "counts": list(rng.integers(0, 5000, (num, BINS)))}
    return labels, pd.DataFrame(top), Details(pd.DataFrame(of), pd.DataFrame(drawn), pd.DataFrame(near))


def jpegs(rng: np.random.Generator) -> list[bytes]:
    """Thumbnails as large as those of photographs, of which 300 took 3.2 KB each."""
    spots = (Image.fromarray(rng.integers(0, 256, (20, 20, 3), dtype=np.uint8)) for _ in range(50))
    return [thumbnail(image.resize((500, 500)), THUMBNAIL_SIDE) for image in spots]


def written(folder: Path, layers: list[int], num_images: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    made = [tables(rng, f"layer{i}", num, num_images) for i, num in enumerate(layers)]
    begun = time.perf_counter()
    labels, top = (pd.concat([table[i] for table in made]) for i in (0, 1))
    top, ranges = _few_enough(top, pd.concat([table[2].ranges for table in made]))
    neurons, similar = (pd.concat([getattr(t[2], name) for t in made]) for name in ("neurons", "similar"))
    details = Details(neurons, ranges, similar)
    rows = tuple(layer_rows(f"layer{i}", None, labels, top, details) for i in range(len(layers)))
    small = jpegs(rng)
    keys = sorted({*top["image"], *ranges["image"]})
    shown = {key: small[i % len(small)] for i, key in enumerate(keys)}
    report = Report("A large report", (("Images", f"{num_images:,}"),), rows, cut=1.0)
    sizes = {}
    for path, data in pages(report, shown):
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_bytes(data)
        sizes[path] = len(data)
    seconds = time.perf_counter() - begun
    return {
        "seconds to write": round(seconds, 1),
        "peak MB": round(peak_so_far()),
        "files": len(sizes),
        "MB": round(sum(sizes.values()) / 1e6, 1),
        "largest file MB": round(max(sizes.values()) / 1e6, 2),
        "index MB": round(max(size for path, size in sizes.items() if "index.js" in path) / 1e6, 2),
        "thumbnails": len(keys),
        "KB of a thumbnail": round(statistics.mean(map(len, small)) / 1e3, 1),
        "top images shown": int(top["rank"].max()),
    }


def timed(page: Page, path: Path, runs: int) -> Iterator[tuple[str, Any]]:
    opened = []
    for _ in range(runs):
        page.open(path)
        page.value(TIMED % "null")
        opened.append(page.value("performance.now()"))
    yield "open ms", round(statistics.median(opened))
    for name, event in EVENTS.items():
        # What is measured begins from the same view each time; a text that finds other rows is another text.
        times = []
        for run in range(runs):
            if name in ("search", "filter"):
                page.value(TIMED % (EVENTS[f"{name} cleared"]))
            if name.startswith("sort"):
                other = "similarity" if name == "sort by index" else "index"
                page.value(TIMED % (SET % ("sort", other)))
            if name == "to the middle":
                page.value(f"scrollTo(0, document.body.scrollHeight / {run + 3})")
            if name == "card left":
                page.value(TIMED % EVENTS["card"])
            times.append(page.value(TIMED % event))
        yield f"{name} ms", [round(statistics.median(part), 1) for part in zip(*times, strict=True)]
    page.send("HeapProfiler.collectGarbage")
    yield "heap MB", round(page.value("performance.memory.usedJSHeapSize") / 1e6)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--layers", default="64,256,512,1024,2048")
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--runs", type=int, default=5)
    given = parser.parse_args()
    layers = [int(number) for number in given.layers.split(",")]
    browser = next(filter(None, map(shutil.which, BROWSERS)))
    with tempfile.TemporaryDirectory() as name:
        found = written(Path(name), layers, given.images)
        largest = layers.index(max(layers))
        switches = (*SWITCHES, "--enable-precise-memory-info", "--window-size=1280,900")
        with driven(str(browser), switches) as running, running.page() as page:
            found |= dict(timed(page, Path(name) / "layers" / f"{largest}-layer{largest}.html", given.runs))
            assert page.said == [], page.said
    for key, value in found.items():
        print(f"{key}: {value}")
    print(json.dumps({"layers": layers} | found))


if __name__ == "__main__":
    main()
