"""How fast JPEGs are decoded, and how far a faster way is from the network's own preprocessing.

    python -m tests.benchmarks.decoders [--runs 5]

Images per second on all cores, decoded and preprocessed for 224 x 224: by Pillow, as a run does; by torchvision's
decoder; by Pillow at a reduced scale that is still twice the input's side (`draft`). The difference is that of the
preprocessed input, before normalisation in levels of 255: root of the mean square, and the largest.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms.functional import to_pil_image

from tasks.images import decode
from tasks.models.preprocess import imagenet_preprocess
from tests.benchmarks.probing import CORES, draw
from tests.benchmarks.reduction import seconds

#: Shorter side that a reduced scale has to leave: twice that of the input.
ENOUGH = 448
PREPROCESS = imagenet_preprocess()


def by_pillow(data: bytes) -> Tensor:
    """As a run does."""
    return PREPROCESS(decode(data))


def by_torchvision(data: bytes) -> Tensor:
    """By torchvision's decoder; the preprocessing takes an image of Pillow, as the networks' own do."""
    return PREPROCESS(
        to_pil_image(decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB))
    )


def by_draft(data: bytes) -> Tensor:
    """At a reduced scale, as a run does with --draft."""
    return PREPROCESS(decode(data, ENOUGH))


WAYS: dict[str, Callable[[bytes], Tensor]] = {"pillow": by_pillow, "torchvision": by_torchvision, "draft": by_draft}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    figures: dict[str, dict[str, float]] = {}
    for size, number in (((500, 375), 200), ((1600, 1200), 60), ((4000, 3000), 16)):
        with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(CORES) as pool:
            draw(Path(folder), number, size)
            files = [path.read_bytes() for path in sorted(Path(folder).rglob("*.jpg"))]

            def rate(
                way: Callable[[bytes], Tensor], files: list[bytes] = files, pool: ThreadPoolExecutor = pool
            ) -> float:
                return len(files) / seconds(lambda: list(pool.map(way, files)))

            exact = by_pillow(files[0])
            rates: dict[str, list[float]] = {name: [] for name in WAYS}
            for _ in range(runs):
                for name, way in WAYS.items():
                    rates[name].append(rate(way))
            for name, way in WAYS.items():
                apart = (way(files[0]) - exact) * 0.225 * 255
                figures[f"{size[0]}x{size[1]} {name}"] = {
                    "images_per_second": round(statistics.median(rates[name]), 1),
                    "rms": round(float(apart.square().mean().sqrt()), 3),
                    "largest": round(float(apart.abs().max()), 1),
                }
                print(f"{size[0]} x {size[1]} {name:<12} {figures[f'{size[0]}x{size[1]} {name}']}", flush=True)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
