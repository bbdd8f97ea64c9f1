"""A large probe set through the whole command: seconds by stage, memory, and what lies in the store afterwards.

    python -m tests.benchmarks.scale [--images 100000] [--tars] [--workers 0] [--activations float32]

Draws small JPEGs, as files in class folders or (--tars) in tars that are used in place; drawing is not timed. Then
runs `clip-dissect run` on a quarter of them and on all, each with a store and a Prefect database of its own, and
samples the memory of its processes. memory_ratio: the peak of the run's own process with all images, over that with
a quarter: 1 is flat.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from tests.benchmarks.probing import CORES, SMALL_CLIP, clip_files

#: Pixels of a side of the images, and their number in a class folder or tar.
SIDE, PER_FOLDER = 32, 1_000
SECONDS_BETWEEN_SAMPLES = 0.2
#: A CLIP model of images as small as these.
CLIP = SMALL_CLIP | {
    "vision_cfg": {"image_size": SIDE, "layers": 1, "width": 64, "patch_size": 8, "head_width": 32},
}
TARGET, LAYERS, NEURONS = "tests.tiny_models:small", "conv1,conv2,head", 448
#: A line that a run prints when a stage ends: name, units, seconds.
STAGE = re.compile(r"^(\S.{,16}?) {2,}[\d,]+ [a-z]+, [\d,]+/s, ([\d.]+) s")


def draw(folder: Path, number: int, *, tars: bool) -> None:
    """Images of smooth noise, all different, in folders or tars of `PER_FOLDER`."""

    def draw_one(part: int) -> None:
        rng = np.random.default_rng(part)
        images = (
            (f"{i:08d}.jpg", _jpeg(rng)) for i in range(part * PER_FOLDER, min(number, (part + 1) * PER_FOLDER))
        )
        if tars:
            with tarfile.open(folder / f"{part:06d}.tar", "w") as tar:
                for name, data in images:
                    info = tarfile.TarInfo(name)
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
            return
        (folder / f"class-{part:06d}").mkdir()
        for name, data in images:
            (folder / f"class-{part:06d}" / name).write_bytes(data)

    folder.mkdir()
    with ThreadPoolExecutor(CORES) as pool:
        list(pool.map(draw_one, range(-(-number // PER_FOLDER))))


def _jpeg(rng: np.random.Generator) -> bytes:
    coarse = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8))
    data = io.BytesIO()
    coarse.resize((SIDE, SIDE), Image.Resampling.BILINEAR).save(data, "jpeg", quality=85)
    return data.getvalue()


@dataclass
class Memory:
    """Resident MB of a process, of its Prefect server and of its workers, the largest so far by stage."""

    pid: int
    stages: list[str] = field(default_factory=list)
    peaks: list[Counter[str]] = field(default_factory=lambda: [Counter()])

    def sample(self) -> None:
        """Takes them all once."""
        now: Counter[str] = Counter()
        for pid, command in _tree(self.pid):
            kinds = ("server", "server_process"), ("workers", "spawn_main")
            kind = "run" if pid == self.pid else next((kind for kind, part in kinds if part in command), None)
            if kind:  # others are copies of the run, for the moment before they become what it starts
                now[kind] += _resident(pid)
        self.peaks[-1] |= now

    def ended(self, stage: str) -> None:
        """What is sampled from now on is of the next stage."""
        self.stages.append(stage)
        self.peaks.append(Counter())

    def peak(self, kind: str) -> int:
        """Over all stages."""
        return max(peak[kind] for peak in self.peaks)


def _tree(root: int) -> Iterator[tuple[int, str]]:
    parents, commands = {}, {}
    for folder in Path("/proc").iterdir():
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            commands[int(folder.name)] = (folder / "cmdline").read_text()
        except (ValueError, OSError):
            continue  # no process, or one that has just ended
    family = [root]
    for pid in family:
        yield pid, commands.get(pid, "")
        family += [child for child, parent in parents.items() if parent == pid]


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20
    except OSError:
        return 0  # it has just ended


@dataclass(frozen=True)
class Measured:
    """A run."""

    num_images: int
    #: From start to end, and of each stage.
    seconds: float
    stages: dict[str, float]
    #: Work of all tasks by what it was, as run.json has it.
    work: dict[str, float]
    memory: Memory
    num_tasks: int
    #: Files and their bytes in the store, by kind.
    objects: Counter[str]
    num_bytes: Counter[str]


def measured(folder: Path, num_images: int, options: Sequence[str]) -> Measured:
    """A run of `clip-dissect run` with a store of its own below `folder`."""
    store, out, home = folder / "store", folder / "out", folder / "prefect"
    environment = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    command = [sys.executable, "-m", "flows", "run", "--store", str(store), "--out", str(out), *options]
    started, stages, lines = time.perf_counter(), {}, []
    process = subprocess.Popen(
        [*command, "--limit", str(num_images)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment | {"PREFECT_HOME": str(home)},
    )
    memory, ended = Memory(process.pid), threading.Event()

    def watch() -> None:
        while not ended.wait(SECONDS_BETWEEN_SAMPLES):
            memory.sample()

    watching = threading.Thread(target=watch)
    watching.start()
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(line)
        if found := STAGE.match(line):
            stages[found[1]] = float(found[2])
            memory.ended(found[1])
    status = process.wait()
    ended.set()
    watching.join()
    if status:
        raise RuntimeError(f"`{' '.join(command)}` ended with status {status}:\n{''.join(lines)}")
    objects, num_bytes = stored(store)
    return Measured(
        num_images,
        time.perf_counter() - started,
        stages,
        json.loads((out / "run.json").read_text())["seconds"],
        memory,
        sqlite3.connect(home / "prefect.db").execute("select count(*) from task_run").fetchone()[0],
        objects,
        num_bytes,
    )


def stored(store: Path) -> tuple[Counter[str], Counter[str]]:
    """Number of files and bytes in a store, by kind."""
    objects: Counter[str] = Counter()
    num_bytes: Counter[str] = Counter()
    for folder, _, names in os.walk(store):
        within = Path(folder).relative_to(store)
        kind = within.parts[0] if within.parts else "store"
        below = within.parts[1] if len(within.parts) > 1 else ""
        if below.endswith(".done"):
            kind += " markers"
        elif below.endswith(".summaries.zarr"):
            kind = "summaries"
        elif kind == "probes":
            kind = "probe parts" if within.name == "parts" else "probe"
        if not names:
            continue
        objects[kind] += len(names)
        num_bytes[kind] += sum((Path(folder) / name).stat().st_size for name in names)
    return objects, num_bytes


def tell(of: Measured) -> None:
    """Prints it."""
    print(f"\n{of.num_images:,} images: {of.seconds:.1f} s, {of.num_tasks} tasks")
    for stage, peak in zip([*of.memory.stages, "after that"], of.memory.peaks, strict=True):
        seconds = f"{of.stages[stage]:7.1f} s" if stage in of.stages else ""
        rate = f"{of.num_images / of.stages[stage]:8,.0f} images/s" if stage in ("shard", "embed and record") else ""
        print(f"  {stage:<17} {seconds:>9} {rate:>17}   " + ", ".join(f"{kind} {mb} MB" for kind, mb in peak.items()))
    print("  seconds of work   " + ", ".join(f"{what} {seconds:.1f}" for what, seconds in of.work.items()))
    for kind, number in of.objects.items():
        per_image = of.num_bytes[kind] / of.num_images
        print(f"  {kind:<20} {number:7,} objects {of.num_bytes[kind]:15,} bytes {per_image:9.1f} an image")
    print(flush=True)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--tars", action="store_true", help="used in place, instead of class folders")
    parser.add_argument("--workers", default="0")
    parser.add_argument("--activations", default="float32")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        draw(folder / "images", given.images, tars=given.tars)
        clip = clip_files(folder, "small-clip", CLIP)
        options = ["--probe", str(folder / "images") + "/*.tar" * given.tars]
        options += ["--target", TARGET, "--layers", LAYERS, "--concepts", "common-3k"]
        options += ["--clip", clip["clip"], "--clip-checkpoint", clip["clip_checkpoint"]]
        options += ["--workers", given.workers, "--activations", given.activations]
        quarter = measured(folder / "quarter", given.images // 4, options)
        tell(quarter)
        whole = measured(folder / "whole", given.images, options)
        tell(whole)
    peaks = {kind: [of.memory.peak(kind) for of in (quarter, whole)] for kind in ("run", "server", "workers")}
    figures = {
        "images": given.images,
        "neurons": NEURONS,
        "memory_ratio": round(peaks["run"][1] / peaks["run"][0], 3),
        "peak_mb": peaks,
        "shard_peak_mb": [of.memory.peaks[0]["run"] for of in (quarter, whole)],
        "seconds": [round(of.seconds, 1) for of in (quarter, whole)],
        "stages": whole.stages,
        "work": whole.work,
        "tasks": [of.num_tasks for of in (quarter, whole)],
        "objects": [of.objects.total() for of in (quarter, whole)],
        "bytes_an_image": {kind: round(number / given.images, 1) for kind, number in whole.num_bytes.items()},
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
