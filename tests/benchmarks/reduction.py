"""The reduction against a plain implementation of the published algorithm: time, memory, labels.

    python -m tests.benchmarks.reduction [--neurons 2048] [--concepts 20000] [--images 10000] [--runs 5]

Each pair runs in turn, several times; ratios are medians over the pairs. Peak memory is that of a process of its own.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial, reduce
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tasks.dissection.kernels import LogOfProducts
from tasks.dissection.panels import label
from tasks.dissection.scorers import (
    CosScorer,
    PmiScorer,
    RankReorderScorer,
    Scorer,
    by_position,
    log_normaliser,
    used_rows,
)
from tasks.dissection.similarity import membership
from tasks.dissection.streaming import CosineMoments, TopImages
from tests.benchmarks import published

DIMENSIONS = 512
#: What a run may hold in panels: small beside the 1.6 GB of `P` and its softmax.
MEMORY = 256 << 20
OURS: dict[str, dict[str, Any]] = {
    "soft_wpmi": {"top_k": 100, "a": 10.0, "lam": 1.0, "p_start": 0.998, "p_end": 0.97},
    "wpmi": {"top_k": 28, "a": 2.0, "lam": 0.6},
    "cos": {},
    "rank_reorder": {},  # 5 % of the images
}


def data(num_images: int, num_concepts: int, num_neurons: int) -> tuple[Tensor, Tensor, Tensor]:
    """Embeddings with CLIP's narrow cosines, and activations that follow a concept each, so that labels mean much."""
    generator = torch.Generator().manual_seed(0)
    shared = torch.randn(DIMENSIONS, generator=generator)
    images = torch.randn(num_images, DIMENSIONS, generator=generator) + 0.5 * shared
    concepts = torch.randn(num_concepts, DIMENSIONS, generator=generator) + 0.5 * shared
    images, concepts = (X / X.norm(dim=1, keepdim=True) for X in (images, concepts))
    liked = torch.randint(num_concepts, (num_neurons,), generator=generator)
    noise = torch.randn(num_images, num_neurons, generator=generator)
    return images, concepts, (10 * images @ concepts[liked].T + 0.3 * noise).relu()


def ours(
    name: str, images: Tensor, concepts: Tensor, activations: Tensor, parameters: dict[str, Any] | None = None
) -> Tensor:
    """First labels `[N]` from embeddings and activations."""
    num_neurons, parameters = activations.shape[1], parameters or OURS[name]
    scorer: Scorer
    if name == "cos":
        blocks = [slice(i, i + 1_000) for i in range(0, len(images), 1_000)]
        moments = reduce(CosineMoments.merge, (CosineMoments.of(images[b], activations[b]) for b in blocks))
        scorer = CosScorer(moments, num_neurons)
    else:
        k = parameters.get("top_k") or int(len(activations) * 0.05)
        top = TopImages.of(activations, k)
        rows = used_rows(top)
        top = by_position(top, rows)
        used = [images[rows]]
        if name == "rank_reorder":
            scorer = RankReorderScorer(used, len(rows), top, num_neurons, {"top_k": k}, "paper")
        else:
            sums = log_normaliser(used, concepts, parameters["a"])
            scorer = PmiScorer(used, sums, top, num_neurons, 0, parameters, "paper", name == "soft_wpmi")
    return torch.from_numpy(label(scorer, concepts, 5, MEMORY).labels.concept_rows[:, 0])


def seconds(function: Callable[[], Any]) -> float:
    """How long a call takes."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def ratio(theirs: Callable[[], Any], mine: Callable[[], Any], runs: int) -> tuple[float, float, float]:
    """Median of theirs over ours, pair by pair, and the median seconds of each."""
    mine()  # compiles, and warms the caches
    pairs = [(seconds(theirs), seconds(mine)) for _ in range(runs)]
    return (
        statistics.median(a / b for a, b in pairs),
        statistics.median(a for a, _ in pairs),
        statistics.median(b for _, b in pairs),
    )


def peak_megabytes(who: str, name: str, sizes: list[int]) -> float:
    """Peak memory above the base (imports and data) of a process that labels once."""
    command = [sys.executable, "-m", "tests.benchmarks.reduction", "--peak", who, name, *map(str, sizes)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def report_peak(who: str, name: str, sizes: list[int]) -> None:
    """What `peak_megabytes` starts."""
    images, concepts, activations = data(*sizes)
    ours(name, images[:200], concepts[:200], activations[:200, :8])  # compiles: that is no working memory
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from what is resident now
    base = peak_so_far()
    if who == "ours":
        ours(name, images, concepts, activations)
    else:
        published.SIMILARITIES[name](images, concepts, activations)
    print(peak_so_far() - base)


def peak_so_far() -> float:
    """Peak resident memory of this process, in MB. (`ru_maxrss` would be that of the process that started it.)"""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def scoring(images: Tensor, concepts: Tensor, activations: Tensor, runs: int) -> tuple[float, float, float]:
    """The loop alone: from softmax rows and top images to similarities."""
    s = published.softmax_rows(images, concepts, 10.0)
    rows = TopImages.of(activations, 100).rows
    p = membership(100, 0.998, 0.97)

    def ours() -> Tensor:
        products = LogOfProducts(rows, p / (1 - p))
        products.add(s, first=0)
        return published.minus_prior(products.finish(), 1.0)

    return ratio(lambda: published.soft_wpmi_scores(s, rows), ours, runs)


def end_to_end(name: str, images: Tensor, concepts: Tensor, activations: Tensor, runs: int) -> tuple[float, float]:
    """From embeddings and activations to labels: how much faster, and the share of equal first labels."""
    theirs, mine = published.SIMILARITIES[name], partial(ours, name)
    speedup, a, b = ratio(
        lambda: theirs(images, concepts, activations), lambda: mine(images, concepts, activations), runs
    )
    same = (mine(images, concepts, activations) == theirs(images, concepts, activations)).double().mean()
    print(f"{name:<16} published {a:8.2f} s   ours {b:8.2f} s   {speedup:.1f} x   same first labels {same:.4f}")
    return speedup, float(same)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    for option, default in (("neurons", 2048), ("concepts", 20_000), ("images", 10_000), ("runs", 5)):
        parser.add_argument(f"--{option}", type=int, default=default)
    parser.add_argument("--peak", nargs=5, metavar=("WHO", "NAME", "I", "C", "N"))
    given = parser.parse_args()
    if given.peak:
        report_peak(given.peak[0], given.peak[1], [int(size) for size in given.peak[2:]])
        return
    sizes = [given.images, given.concepts, given.neurons]
    figures: dict[str, Any] = {"neurons": given.neurons, "concepts": given.concepts, "images": given.images}
    images, concepts, activations = data(*sizes)
    figures["speedup_scoring"], theirs, mine = scoring(images, concepts, activations, given.runs)
    print(f"scoring loop     published {theirs:8.2f} s   ours {mine:8.2f} s   {figures['speedup_scoring']:.1f} x")
    for name in published.SIMILARITIES:
        # Sorting 500 images for 20,000 concepts and each neuron takes the published way minutes.
        of = activations[:, : given.neurons // 128] if name == "rank_reorder" else activations
        speedup, agreement = end_to_end(name, images, concepts, of, given.runs)
        figures["speedup_end_to_end" if name == "soft_wpmi" else f"speedup_{name}"] = speedup
        figures["first_label_agreement" if name == "soft_wpmi" else f"agreement_{name}"] = agreement
    peaks = [peak_megabytes(who, "soft_wpmi", sizes) for who in ("published", "ours")]
    figures["memory_ratio"] = peaks[0] / peaks[1]
    print(f"peak memory      published {peaks[0]:8.0f} MB  ours {peaks[1]:8.0f} MB  {figures['memory_ratio']:.1f} x")
    print(json.dumps({name: round(value, 4) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
