"""How readers take damaged files: a crash is any error but our own, which name the file and the way out.

    python -m tests.benchmarks.fuzz [--examples 2000] [--reader tars] [--seed 0]

Each reader has a process of its own with `GIB` of memory beside what it begins with; one that reads a file for more
than `SECONDS` counts as hung.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import resource
import signal
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

from tests.fuzzing import READERS, crash, valid

GIB, SECONDS = 4, 20


def fuzz(name: str, examples: int, seed: int, answers: Any) -> None:
    """Reads damaged files, and says how it went."""

    def hung(*_: object) -> None:
        raise TimeoutError(f"more than {SECONDS} s")

    warnings.simplefilter("ignore")
    signal.signal(signal.SIGALRM, hung)
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + (GIB << 30),) * 2)
    rng, crashes, started, slowest = random.Random(f"{name} {seed}"), Counter[str](), time.perf_counter(), 0.0
    with tempfile.TemporaryDirectory() as folder, valid(READERS[name], Path(folder)) as contents:
        for _ in range(examples):
            begun = time.perf_counter()
            signal.alarm(SECONDS)
            found = crash(READERS[name], Path(folder), contents, rng)
            signal.alarm(0)
            slowest = max(slowest, time.perf_counter() - begun)
            if found:
                crashes[found.replace(folder, "…")] += 1
    for text, number in crashes.most_common(20):
        print(f"  {number:5} x {text}", flush=True)
    seconds = time.perf_counter() - started
    answers.put(
        {"examples": examples, "crashes": crashes.total(), "seconds": round(seconds, 1), "slowest": round(slowest, 2)}
    )


def main() -> None:
    """Fuzzes and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=2_000, help="damaged files for each reader")
    parser.add_argument("--reader", choices=[*READERS], action="append")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    figures: dict[str, Any] = {}
    context = multiprocessing.get_context("fork")  # or each would import all of it anew
    for name in given.reader or READERS:
        answers = context.Queue()
        process = context.Process(target=fuzz, args=(name, given.examples, given.seed, answers))
        process.start()
        process.join()
        figures[name] = answers.get() if process.exitcode == 0 else {"ended": process.exitcode}
        print(f"{name:<16} {figures[name]}", flush=True)
    print(json.dumps({"readers": figures, "crashes": sum(of.get("crashes", 1) for of in figures.values())}))


if __name__ == "__main__":
    main()
