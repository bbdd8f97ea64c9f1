"""What is known of a probe set when all its parts are packed: index, rejects, manifest. No Prefect."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from storage.completion import Completion
from storage.errors import SourceError
from storage.files import Folder
from storage.identity import digest_of
from storage.json_text import as_json
from storage.shards import INDEX_COLUMNS, MANIFEST
from storage.sources.joined import path_prefix
from storage.sources.source import Source
from storage.tables import read_parquet, write_parquet, write_parts
from tasks.packing import Packing

INDEX, REJECTS, LISTING, WIDS = "index.parquet", "rejects.parquet", "listing.parquet", "wids.json"


def write_index(packing: Packing, names: Sequence[str], selection: Sequence[int | None]) -> None:
    """Joins the tables of the parts, in their order; the manifest last. Raises `SourceError` without any image."""
    folder, parts = packing.folder, packing.parts
    marked = [parts.marker(name) for name in names]
    shards, files = [facts for facts, _ in marked], [marker for _, marker in marked]
    num_images = sum(shard["num_images"] for shard in shards)
    rejects = pd.concat([read_parquet(parts.folder, f"{name}.rejects.parquet") for name in names], ignore_index=True)
    if not num_images:
        reasons = "; ".join(f"{r.path}: {r.reason}" for r in rejects.head(3).itertuples())
        # Without this, a rerun after the files were mended in place would find the parts done.
        folder.remove()
        raise SourceError(f"None of the {len(rejects)} image files can be decoded ({reasons}).")
    digest = _Digest()
    with folder.writing(INDEX) as file:
        write_parts(file, map(digest.add, _numbered(parts.folder, names)))
    files += [folder.written(name) for name in (INDEX, LISTING)]
    files.append(write_parquet(folder, REJECTS, rejects))
    files += [write_parquet(folder, name, table) for name, table in _tables(packing).items()]
    seconds = sum(shard.pop("seconds") for shard in shards)
    files.append(folder.write(WIDS, as_json(_wids(shards))))
    Completion(folder).mark(
        MANIFEST.removesuffix(".json"),
        {
            "digest": digest.finish(),
            "num_images": num_images,
            "num_rejects": len(rejects),
            "left_out": left_out_of(packing.sources),
            "seconds": seconds,
            "sources": {name: source.text for name, source in packing.sources.items()},
            "selection": dict(zip(("limit", "sample", "sample_seed"), selection, strict=True)),
            "resize": packing.resize,
            "shards": shards,
        },
        files,
    )


def left_out_of(sources: Mapping[str, Source]) -> dict[str, int]:
    """Files of all sources that are no candidates, counted by ending; sources are listed before."""
    counts: Counter[str] = Counter()
    for source in sources.values():
        counts.update(source.left_out)
    return dict(sorted(counts.items()))


def _numbered(folder: Folder, names: Sequence[str]) -> Iterator[pd.DataFrame]:
    """The index a part at a time, of the parts that hold an image."""
    first = 0
    for name in names:
        part = read_parquet(folder, f"{name}.parquet")
        if len(part):
            part.insert(0, "row", range(first, first + len(part)))
            first += len(part)
            yield part[INDEX_COLUMNS]


class _Digest:
    """Of the images and their paths, in order: whatever shards they lie in, and wherever those are."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()

    def add(self, index: pd.DataFrame) -> pd.DataFrame:
        """Takes in the next rows of the index, and gives them on."""
        for path, content in zip(index["path"], index["sha256"], strict=True):
            self._sha256.update(f"{path}\0{content}\n".encode())
        return index

    def finish(self) -> str:
        """The digest of all of them."""
        return digest_of({"images": self._sha256.hexdigest()})


def _wids(shards: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The index that the package `wids` of WebDataset reads; URLs without a folder are those beside it.

    `wids` itself reads no member whose name has more than 100 bytes; WebDataset does.
    """
    return {
        "wids_version": 1,
        "shardlist": [
            {"url": shard["shard"], "nsamples": shard["num_samples"], "filesize": shard["num_bytes"]}
            for shard in shards
            if shard["num_samples"]
        ],
    }


def _tables(packing: Packing) -> dict[str, pd.DataFrame]:
    """What the sources know beside their images, by file name; of an image, with its row in the index."""
    tables: dict[str, list[pd.DataFrame]] = {}
    for source_name, source in packing.sources.items():
        prefix = path_prefix(source_name, packing.sources)
        for name, table in source.tables().items():
            if "path" in table:
                index = read_parquet(packing.folder, INDEX, columns=["row", "path"])
                row_of = pd.Series(index["row"].to_numpy(), index["path"])
                table = table.assign(path=prefix + table["path"])
                table = table[table["path"].isin(row_of.index)]
                table.insert(0, "row", row_of[table["path"]].to_numpy())
            table.insert(0, "source", source_name)
            tables.setdefault(name, []).append(table)
    return {name: pd.concat(parts, ignore_index=True) for name, parts in tables.items()}
