"""Probe images into WebDataset shards with an index: plan, one task per shard, one to finish."""

from __future__ import annotations

import errno
import hashlib
import os
import time
from dataclasses import asdict, dataclass, fields
from functools import lru_cache

import pandas as pd
from prefect import task
from prefect.cache_policies import NO_CACHE

from storage.completion import Completion
from storage.errors import IncompleteError, SourceError
from storage.files import Folder
from storage.identity import digest_of
from storage.layout import Store
from storage.shards import INDEX_COLUMNS, REJECT_COLUMNS, ShardMember, write_shard
from storage.sources import SourceImage, list_images, read_image
from storage.tables import read_parquet, write_parquet
from tasks.images import UndecodableError, check
from tasks.spec import ShardSpec

#: Raised by one when the same files would give other shards than before.
VERSION = 1
SOURCE_COLUMNS = [field.name for field in fields(SourceImage)]
MANIFEST, INDEX, REJECTS, LISTING = "manifest.json", "index.parquet", "rejects.parquet", "listing.parquet"


@dataclass(frozen=True)
class ProbeRef:
    """A finished probe set."""

    folder: Folder
    #: Digest of the shards' content: what embeddings and activations depend on.
    digest: str
    num_images: int
    num_rejects: int
    num_shards: int

    def index(self) -> pd.DataFrame:
        """The index: a row per image, in row order."""
        return _index(self.folder, self.digest)

    def rejects(self) -> pd.DataFrame:
        """Refused inputs with their reasons."""
        return read_parquet(self.folder, REJECTS)


@dataclass(frozen=True)
class ShardPart:
    """Files `[start, stop)` of the listing, which become one shard."""

    number: int
    start: int
    stop: int

    @property
    def name(self) -> str:
        """Name of its marker and tables."""
        return f"{self.number:06d}"

    @property
    def num_files(self) -> int:
        """Files to read."""
        return self.stop - self.start


@dataclass(frozen=True)
class ShardPlan:
    """What sharding a probe set takes."""

    folder: Folder
    num_files: int
    num_parts: int
    missing: tuple[ShardPart, ...]

    @property
    def parts(self) -> Completion:
        """Markers of finished shards."""
        return Completion(self.folder / "parts")


def plan_shards(spec: ShardSpec) -> ShardPlan:
    """Lists the source and says which shards are missing. Reads no image."""
    images = list_images(Folder.at(spec.probe).url)[: spec.limit]
    # Names, sizes and times stand for the content here, as in git's index: a file that changes gets new shards,
    # and what is computed from shards depends on their content alone.
    sha256 = hashlib.sha256()
    for image in images:
        sha256.update(f"{image.path}\0{image.num_bytes}\0{image.version}\n".encode())
    parameters = {"version": VERSION, "listing": sha256.hexdigest(), "images_per_shard": spec.images_per_shard}
    folder = Store.at(spec.store).probe(digest_of(parameters))
    step = spec.images_per_shard
    parts = [
        ShardPart(number, start, min(start + step, len(images)))
        for number, start in enumerate(range(0, len(images), step))
    ]
    if folder.exists(MANIFEST):
        return ShardPlan(folder, len(images), len(parts), ())
    plan = ShardPlan(folder, len(images), len(parts), tuple(parts))
    done = plan.parts.done()
    write_parquet(folder, LISTING, pd.DataFrame([asdict(image) for image in images]))
    return ShardPlan(folder, len(images), len(parts), tuple(part for part in parts if part.name not in done))


@task(task_run_name="shard {part.number}", cache_policy=NO_CACHE)
def make_shard(folder: Folder, part: ShardPart) -> int:
    """Reads, checks and packs the files of one shard; returns how many images it holds."""
    started = time.perf_counter()
    listing = read_parquet(folder, LISTING).iloc[part.start : part.stop]
    members: list[ShardMember] = []
    rows: list[dict[str, object]] = []
    rejects: list[dict[str, object]] = []
    for source in (SourceImage(*record) for record in listing[SOURCE_COLUMNS].itertuples(index=False)):
        try:
            data = read_image(source.url)
            width, height = check(data)
        except (UndecodableError, FileNotFoundError, PermissionError) as error:
            if isinstance(error, UndecodableError):
                reason = str(error)
            else:  # not every file system fills in strerror
                reason = f"cannot be read: {os.strerror(error.errno or errno.ENOENT)}"
            rejects.append({"path": source.path, "num_bytes": source.num_bytes, "reason": reason})
            continue
        members.append(ShardMember(source.key, source.ending, data))
        rows.append(
            {
                "key": source.key,
                "path": source.path,
                "num_bytes": len(data),
                "sha256": hashlib.sha256(data).hexdigest(),
                "width": width,
                "height": height,
                "label": source.label,
            }
        )
    written = write_shard(folder, f"shard-{part.name}.tar", members)
    table = pd.DataFrame(rows, columns=[c for c in INDEX_COLUMNS if c not in ("row", "shard", "offset")])
    table["shard"], table["offset"] = written.name, pd.Series(written.offsets, dtype="int64")
    numbers = ["num_bytes", "offset", "width", "height"]
    table[numbers] = table[numbers].astype("int64")  # also where a shard has no image
    parts = folder / "parts"
    write_parquet(parts, f"{part.name}.parquet", table)
    write_parquet(parts, f"{part.name}.rejects.parquet", pd.DataFrame(rejects, columns=REJECT_COLUMNS))
    facts = {"shard": written.name, "num_images": written.num_images, "num_bytes": written.num_bytes}
    seconds = time.perf_counter() - started
    Completion(parts).mark(part.name, {**facts, "sha256": written.sha256, "seconds": seconds})
    return written.num_images


@task(task_run_name="index", cache_policy=NO_CACHE)
def finish_probe(plan: ShardPlan) -> ProbeRef:
    """Joins the shards' tables into the index and writes the manifest. Raises `SourceError` without any image."""
    if not plan.folder.exists(MANIFEST):
        parts = plan.folder / "parts"
        names = [f"{number:06d}" for number in range(plan.num_parts)]
        index = pd.concat([read_parquet(parts, f"{name}.parquet") for name in names], ignore_index=True)
        rejects = pd.concat([read_parquet(parts, f"{name}.rejects.parquet") for name in names], ignore_index=True)
        if index.empty:
            reasons = "; ".join(f"{r.path}: {r.reason}" for r in rejects.head(3).itertuples())
            # Without this, a rerun after the files were mended in place would find the parts done.
            plan.folder.remove()
            raise SourceError(f"None of the {plan.num_files} image files can be decoded ({reasons}).")
        index.insert(0, "row", range(len(index)))
        write_parquet(plan.folder, INDEX, index[INDEX_COLUMNS])
        write_parquet(plan.folder, REJECTS, rejects)
        shards = [plan.parts.facts(name) for name in names]
        seconds = sum(shard.pop("seconds") for shard in shards)
        plan.folder.write_json(
            MANIFEST,
            {
                "digest": digest_of({"shards": shards}),
                "num_images": len(index),
                "num_rejects": len(rejects),
                "seconds": seconds,
                "shards": shards,
            },
        )
    return probe_at(plan.folder)


def finished_probe(spec: ShardSpec) -> ProbeRef:
    """The probe set of a spec. Raises `IncompleteError` where it is not sharded yet."""
    plan = plan_shards(spec)
    if not plan.folder.exists(MANIFEST):
        raise IncompleteError(
            f"{len(plan.missing)} of {plan.num_parts} shards of {spec.probe} are missing. "
            "Run `clip-dissect shard` with the same options first, or `clip-dissect run`."
        )
    return probe_at(plan.folder)


def probe_at(folder: Folder) -> ProbeRef:
    """The finished probe set in a folder."""
    manifest = folder.read_json(MANIFEST)
    return ProbeRef(
        folder, manifest["digest"], manifest["num_images"], manifest["num_rejects"], len(manifest["shards"])
    )


@lru_cache(maxsize=4)
def _index(folder: Folder, digest: str) -> pd.DataFrame:
    del digest  # it is what the index is cached by
    return read_parquet(folder, INDEX)
