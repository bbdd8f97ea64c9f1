"""Labels judged without truth on many images: seconds and memory of `clip-dissect evaluate --without-truth`.

    python -m tests.benchmarks.without_truth [--images 32000]

Runs `clip-dissect run` on small drawn images, a quarter of them and all, and then judges the labels of both runs; a
table says that every image shows a word of the concept list. memory_ratio: the evaluation's peak with all images,
over that with a quarter: 1 is flat.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd

from tasks.dissection.concepts import common_words
from tests.benchmarks.probing import clip_files
from tests.benchmarks.scale import CLIP, LAYERS, NEURONS, TARGET, draw, measured

CONCEPTS = "common-3k"


def judged(out: Path, table: Path) -> tuple[float, float, int]:
    """Seconds that judging a run takes, those of processors, and the MB that its process has at most."""
    command = [sys.executable, "-m", "flows", "evaluate", str(out), "--without-truth", "--image-labels", str(table)]
    started = time.perf_counter()
    process = subprocess.Popen([*command, "--out", str(out / "figures.json")], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"`{' '.join(command)}` ended with status {process.returncode}")
    return time.perf_counter() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss >> 10


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=32_000)
    given = parser.parse_args()
    words = common_words(CONCEPTS).concepts
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        draw(folder / "images", given.images, tars=False)
        paths = sorted(path.relative_to(folder / "images").as_posix() for path in folder.glob("images/*/*"))
        table = pd.DataFrame({"path": paths, "concept": [words[i % 100] for i in range(len(paths))]})
        table.to_parquet(folder / "shows.parquet")
        clip = clip_files(folder, "small-clip", CLIP)
        options = ["--probe", str(folder / "images"), "--target", TARGET, "--layers", LAYERS, "--concepts", CONCEPTS]
        options += ["--clip", clip["clip"], "--clip-checkpoint", clip["clip_checkpoint"]]
        found = []
        for part, number in (("quarter", given.images // 4), ("whole", given.images)):
            run = measured(folder / part, number, options)
            seconds, busy, peak = judged(folder / part / "out", folder / "shows.parquet")
            label = run.work["label"]
            said = f"labelled in {label:.1f} s of work, judged in {seconds:.1f} s ({busy:.1f} s of processors)"
            print(f"{number:,} images: {said}, {peak:,} MB", flush=True)
            found.append((seconds, busy, peak, label))
    peaks = [one[2] for one in found]
    figures = {
        "images": given.images,
        "neurons": NEURONS,
        "concepts": len(words),
        "seconds": [round(one[0], 1) for one in found],
        "processor_seconds": [round(one[1], 1) for one in found],
        "label_seconds": [round(one[3], 1) for one in found],
        "peak_mb": peaks,
        "memory_ratio": round(peaks[1] / peaks[0], 3),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
