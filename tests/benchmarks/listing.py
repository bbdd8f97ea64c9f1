"""What a row per image costs before and after the images are looked at: seconds, and bytes of memory at the peak.

    python -m tests.benchmarks.listing [--images 1000000]

plan: the sources are listed and the listing written. index: the parts' tables are joined into the index. read: the
index is read whole, as publishing does. Images and tars are made up: the lists of the tars' members, and the tables
of their parts, are written as sharding writes them. A hundred million images need a hundred times the bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pandas as pd

from storage.completion import Completion, Rows
from storage.files import Folder
from storage.identity import digest_of
from storage.layout import Store
from storage.shards import REJECT_COLUMNS
from storage.sources import tars
from storage.tables import read_rows, write_parquet
from tasks.shard import LISTING, ShardPlan, finish_probe, plan_shards
from tasks.spec import ShardSpec
from tests.benchmarks.reduction import peak_so_far

PER_TAR = 10_000
Answer = TypeVar("Answer")


def list_tars(folder: Path, store: Store, number: int) -> None:
    """Empty files for tars, and beside the store's the lists of what would be in them."""
    folder.mkdir()
    for part in range(number):
        tar = folder / f"{part:06d}.tar"
        tar.touch()
        name = digest_of({"list": tars.VERSION, "tar": str(tar), "version": Folder.at(str(folder)).version(tar.name)})
        keys = [f"{part * PER_TAR + i:09d}" for i in range(PER_TAR)]
        members = pd.DataFrame({"name": [f"{key}.jpg" for key in keys], "key": keys, "label": "a class of images"})
        members["offset"], members["num_bytes"] = range(0, 2_048 * PER_TAR, 2_048), 1_500
        written = write_parquet(store.tar_lists(), f"{name}.parquet", members)
        Completion(store.tar_lists()).mark(name, {"tar": str(tar)}, [written])


def pack_all(plan: ShardPlan) -> None:
    """The tables and markers of all parts."""
    for part in plan.missing:
        listed = read_rows(plan.folder, LISTING, Rows(part.start, part.stop))
        table = listed[["key", "source", "path", "label", "num_bytes"]].assign(
            sha256=[hashlib.sha256(str(row).encode()).hexdigest() for row in range(part.start, part.stop)],
            encoding="original",
            width=32,
            height=32,
            shard=listed["url"],
            offset=listed["offset"],
        )
        write_parquet(plan.packing.parts.folder, f"{part.name}.parquet", table)
        write_parquet(plan.packing.parts.folder, f"{part.name}.rejects.parquet", pd.DataFrame(columns=REJECT_COLUMNS))
        facts = {"num_images": len(table), "num_samples": len(table), "num_bytes": 0, "sha256": "", "seconds": 0.0}
        plan.packing.parts.mark(part.name, {"shard": listed["url"].iloc[0], **facts})


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1_000_000)
    num_images = parser.parse_args().images
    figures: dict[str, dict[str, float]] = {}

    def measured(what: str, function: Callable[[], Answer]) -> Answer:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from what is resident now
        base, started = peak_so_far(), time.perf_counter()
        answer = function()
        seconds, more = time.perf_counter() - started, (peak_so_far() - base) * 2**20 / num_images
        figures[what] = {"seconds": round(seconds, 2), "bytes_an_image": round(more)}
        print(
            f"{what:<6} {seconds:8.2f} s {num_images / seconds:12,.0f} images/s {more:8,.0f} bytes an image",
            flush=True,
        )
        return answer

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = Store.at(str(folder / "store"))
        list_tars(folder / "tars", store, num_images // PER_TAR)
        spec = ShardSpec(store=str(folder / "store"), probe=str(folder / "tars" / "*.tar"))
        plan = measured("plan", lambda: plan_shards(spec))
        pack_all(plan)
        probe = measured("index", lambda: finish_probe.fn(plan))
        measured("read", probe.index)
        of = {file: (folder / "store" / "probes").glob(f"*/{file}") for file in (LISTING, "index.parquet")}
        figures["file"] = {file: next(found).stat().st_size / num_images for file, found in of.items()}
    print(json.dumps({"images": num_images} | figures))


if __name__ == "__main__":
    main()
