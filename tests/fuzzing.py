"""Readers of files of anybody's, valid files for each, and damage done to them.

The suite reads some damaged files of each kind; `python -m tests.benchmarks.fuzz` as many as it is told to.
"""

from __future__ import annotations

import hashlib
import io
import json
import random
import shutil
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml
from PIL import Image
from rich.console import Console
from safetensors.torch import save_file

from flows.engine.options import SpecError, build_spec
from storage import arrays
from storage.bundles import DIGEST_BYTES, read_bundle, write_bundle
from storage.completion import Rows
from storage.errors import StorageError
from storage.files import Folder
from storage.layout import Store
from storage.shards import INDEX_COLUMNS, MANIFEST, REJECT_COLUMNS, ShardMember, TarPass, read_images, write_shard
from storage.sources.broden import Broden
from storage.sources.image_list import ImageList
from storage.sources.magic import image_format
from storage.sources.parquet_images import ParquetImages
from storage.sources.tars import Tars
from storage.tables import write_parquet
from tasks.announce import announcement
from tasks.concept_files import concept_file
from tasks.dissection.errors import DissectionError
from tasks.images import UndecodableError, decodable_size, decode
from tasks.models.checkpoints import read_checkpoint
from tasks.models.errors import ModelError
from tasks.number_types import in_8_bits
from tasks.precomputed import ImageEmbeddingsFile
from tasks.probe_index import INDEX, REJECTS
from tasks.publish import republish_report
from tasks.published import LABELS, RUN, TOP_IMAGES, read_run
from tasks.shard import probe_at
from tasks.show import Filter, labels_tables, run_lines
from tasks.spec import DissectSpec

#: What the command line tells in words, without a hint at a traceback.
OWN = (StorageError, DissectionError, ModelError, SpecError, UndecodableError)
IDENTITY = {"what": "fuzzed"}


def png(colour: tuple[int, int, int] = (9, 99, 199), kind: str = "PNG") -> bytes:
    data = io.BytesIO()
    pixels = np.random.default_rng(colour[0]).integers(0, 40, (12, 16, 3)) + np.array(colour) // 2
    Image.fromarray(pixels.astype(np.uint8)).save(data, kind)
    return data.getvalue()


def write_probe(folder: Folder) -> None:
    """A probe set of two images, as sharding writes it."""
    images = [png((9, 99, 199)), png((99, 9, 199))]
    shard = write_shard(folder, "shard-000000.tar", [ShardMember(f"k{i}", "png", d) for i, d in enumerate(images)])
    rows = {"row": [0, 1], "key": ["k0", "k1"], "source": "s", "path": ["a/0.png", "b/1.png"], "label": ["a", "b"]}
    rows |= {"shard": shard.name, "offset": shard.offsets, "num_bytes": [len(data) for data in images]}
    rows |= {"sha256": [hashlib.sha256(data).hexdigest() for data in images], "encoding": "original"}
    table = pd.DataFrame(rows | {"width": 16, "height": 12})[INDEX_COLUMNS]
    write_parquet(folder, INDEX, table)
    write_parquet(folder, REJECTS, pd.DataFrame([["s", "x.png", 3, "not an image"]], columns=REJECT_COLUMNS))
    facts = {"shard": shard.name, "num_images": 2, "num_samples": 2, "num_bytes": 9, "sha256": shard.sha256}
    manifest = {"digest": "0" * 20, "num_images": 2, "num_rejects": 1, "seconds": 0.5, "shards": [facts]}
    folder.write_json(MANIFEST, manifest)


def write_published(
    folder: Path, *, layer: str = "conv", concept: str = "red", note: str = "a note", target: str = "sample"
) -> Folder:
    """What a run of two neurons publishes, and its probe set."""
    probe, out = Folder.at(str(folder / "probe")), Folder.at(str(folder / "out"))
    write_probe(probe)
    labels = {"layer": layer, "neuron": [0, 0, 1, 1], "rank": [1, 2, 1, 2], "concept": [concept, "b", concept, "d"]}
    labels |= dict.fromkeys(("similarity", "margin", "null_quantile", "log_likelihood", "log_prior"), 0.5)
    write_parquet(out, LABELS, pd.DataFrame(labels | {"is_dead": False, "interpretable": True}))
    top = {"layer": layer, "neuron": [0, 1], "rank": 1, "image": ["a/0.png", "b/1.png"], "row": [0, 1]}
    write_parquet(out, TOP_IMAGES, pd.DataFrame(top | {"activation": [2.0, 1.0]}))
    write_parquet(out, REJECTS, pd.DataFrame([["s", note, 3, note]], columns=REJECT_COLUMNS))
    spec = dict.fromkeys(("concepts", "prompt", "similarity", "variant"), "x") | {
        "target": target,
        "checkpoint": None,
    }
    counts = {"neurons": 2, "dead": 0, "nearly_constant": 0, "interpretable": 2, "distinct_labels": 2}
    run = {
        "digest": "0" * 20,
        "spec": spec | {"summary": ["mean"], "probe": ["images"], "clip": "sample"},
        "probe": probe.url,
        "counts": {"images": 2, "rejects": 1, "concepts": 4},
        "layers": {layer: counts},
        "digests": {"probe": "0"},
        "hyperparameters": {"top_k": 5, "lam": 1.0},
        "tau": "0.16",
        "accuracy": {"layer": layer, "neurons": 2, "top1": 0.5, "truth": ["red", "d"]},
        "notes": [note],
        "passes": [{"images/s": 3.5}],
        "seconds": {"shard": 0.1},
        "versions": {"python": "3"},
        "files": {LABELS: "0" * 64},
    }
    out.write_json(RUN, run)
    return out


@dataclass(frozen=True)
class Reader:
    """Something that reads files of anybody's."""

    #: Writes valid files into an empty folder.
    make: Callable[[Path], object]
    #: Of these, those that are damaged.
    files: tuple[str, ...]
    read: Callable[[Path], object]


def _write_tar(folder: Path) -> None:
    members = {"a.png": png(), "a.json": b'{"label": 3}', "b" * 120 + ".png": b"x", "c.cls": b"7"}
    for name, form in (("pax.tar", tarfile.PAX_FORMAT), ("gnu.tar", tarfile.GNU_FORMAT)):
        with tarfile.open(folder / name, "w", format=form) as tar:
            for member, data in members.items():
                info = tarfile.TarInfo(member)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
            link = tarfile.TarInfo("d.png")
            link.type, link.linkname = tarfile.LNKTYPE, "a.png"
            tar.addfile(link)
    (folder / "joined.tar").write_bytes((folder / "gnu.tar").read_bytes() + (folder / "pax.tar").read_bytes())


def _read_tars(folder: Path) -> None:
    for name in ("pax.tar", "gnu.tar", "joined.tar"):
        shutil.rmtree(folder / "lists", ignore_errors=True)
        images = list(Tars(str(folder / name), Folder.at(str(folder / "lists"))).images())
        with (folder / name).open("rb") as file:
            tar = TarPass(name, file)
            for image in images:
                if not image.reason:
                    tar.member(image.offset)
            tar.finish([image.offset for image in images])


def _write_lists(folder: Path) -> None:
    (folder / "list.csv").write_text('path,label\na.png,x\n"b ""c"".png",\nhttp://127.0.0.1:9/x.png,z\n')
    pd.DataFrame({"url": ["a.png", "b.png"], "label": ["x", None]}).to_parquet(folder / "list.parquet")
    images = [{"bytes": png(), "path": "a.png"}, {"bytes": png(), "path": None}]
    pd.DataFrame({"image": images, "label": [1, 2]}).to_parquet(folder / "images.parquet")
    (folder / "list.tsv").write_bytes("path\tlabel\na.png\tx\n".encode("utf-16"))


def _read_lists(folder: Path) -> None:
    for name in ("list.csv", "list.parquet", "list.tsv"):
        for image in ImageList(str(folder / name)).images():
            assert isinstance(image.path + image.label, str)
    held = ParquetImages(str(folder / "images.parquet"))
    for image in held.images():
        held.read(image.url)


def _write_concepts(folder: Path) -> None:
    (folder / "c.txt").write_text("red\ngrün\r\n\nblue sky\n", encoding="utf-8")
    (folder / "c.csv").write_text('concept,group\n"red, dark",a\ngreen,\n')
    (folder / "c.json").write_text('["red", "green"]')
    pd.DataFrame({"name": ["red", None]}).to_parquet(folder / "c.parquet")


def _write_broden(folder: Path) -> None:
    (folder / "index.csv").write_text("image,split,ih,iw,sh,sw,color,scene\na.png,train,1,1,1,1,a_c.png;3,7\n")
    (folder / "label.csv").write_text("number,name,category\n3,red,color\n7,street,scene\n")


def _read_broden(folder: Path) -> None:
    source = Broden(str(folder))
    for table in (*source.tables().values(), list(source.images())):
        len(table)


def _write_embeddings(folder: Path) -> None:
    np.save(folder / "x.npy", np.eye(3, 5, dtype=np.float32))
    (folder / "x.keys.txt").write_text("a.png\nb.png\nc.png\n")


def _write_probe_and_store(folder: Path) -> None:
    Store.at(str(folder / "store"))
    write_probe(Folder.at(str(folder / "store")))


def _read_probe(folder: Path) -> None:
    where = Store.at(str(folder / "store")).root
    probe = probe_at(where)
    probe.rejects()
    probe.paths(np.array([1, 0]))
    for wanted in (probe.rows(Rows(0, probe.num_images)), probe.chosen([0, 1])):
        for _, data in read_images(where, wanted):
            decode(data)


def _read_published(folder: Path) -> None:
    out = Folder.at(str(folder / "out"))
    console = Console(file=io.StringIO(), width=200)
    for text in (*labels_tables(out.url, Filter()), *run_lines(read_run(out), out, 8), announcement(out)):
        console.print(text)
    republish_report(out.url)


def _write_arrays(folder: Path) -> None:
    group = arrays.open_group(str(folder / "x.zarr"), IDENTITY)
    arrays.create_rows(group, "x", (4, 3), 4, ("image", "neuron"), {})
    arrays.write_rows(group, "x", Rows(0, 4), np.ones((4, 3), np.float32))


def _read_arrays(folder: Path) -> None:
    arrays.read_finished_rows(arrays.open_group(str(folder / "x.zarr"), IDENTITY), "x", Rows(0, 4))


def _read_bundle(folder: Path) -> None:
    of = Folder.at(str(folder))
    read_bundle(of, "x")


def _read_signed_bundle(folder: Path) -> None:
    """With a digest that fits, whatever is below it."""
    data = (folder / "x.bundle").read_bytes()[DIGEST_BYTES:]
    (folder / "x.bundle").write_bytes(hashlib.sha256(data).digest() + data)
    _read_bundle(folder)


def _write_checkpoints(folder: Path) -> None:
    weights = {"a.weight": torch.eye(3), "a.bias": torch.ones(3)}
    torch.save({"state_dict": weights}, folder / "new.pt")
    torch.save(weights, folder / "old.pt", _use_new_zipfile_serialization=False)
    save_file(weights, folder / "x.safetensors")


def _read_checkpoints(folder: Path) -> None:
    for name in ("new.pt", "old.pt", "x.safetensors"):
        read_checkpoint(str(folder / name))


def _write_spec(folder: Path) -> None:
    spec = {"probe": "images", "layers": ["a", "b*"], "clip": "sample", "concepts": "sample", "target": "sample"}
    (folder / "spec.yaml").write_text(yaml.safe_dump(spec | {"ranks": 3, "lam": 0.5, "tau": "null:0.9"}))


IMAGE_KINDS = ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "PPM", "JPEG2000", "AVIF")
FLOATS = "floats.tiff"


def _write_images(folder: Path) -> None:
    for kind in IMAGE_KINDS:
        (folder / kind).write_bytes(png(kind=kind))
    Image.new("F", (9, 7), 0.5).save(folder / FLOATS, "TIFF")


def _read_images(folder: Path) -> None:
    for kind in IMAGE_KINDS:
        decodable_size((folder / kind).read_bytes())
    in_8_bits((folder / FLOATS).read_bytes())
    image_format((folder / FLOATS).read_bytes()[:32])


READERS = {
    "tars": Reader(_write_tar, ("pax.tar", "gnu.tar", "joined.tar"), _read_tars),
    "lists": Reader(_write_lists, ("list.csv", "list.parquet", "list.tsv", "images.parquet"), _read_lists),
    "broden": Reader(_write_broden, ("index.csv", "label.csv"), _read_broden),
    "concepts": Reader(
        _write_concepts,
        ("c.txt", "c.csv", "c.json", "c.parquet"),
        lambda folder: [concept_file(str(folder / name)) for name in ("c.txt", "c.csv", "c.json", "c.parquet")],
    ),
    "embeddings": Reader(
        _write_embeddings,
        ("x.npy", "x.keys.txt"),
        lambda folder: ImageEmbeddingsFile.at(str(folder / "x.npy")).rows(["b.png", "a.png"]),
    ),
    "probe set": Reader(
        _write_probe_and_store,
        tuple(f"store/{name}" for name in ("store.json", MANIFEST, INDEX, REJECTS, "shard-000000.tar")),
        _read_probe,
    ),
    "published": Reader(
        write_published, tuple(f"out/{name}" for name in (RUN, LABELS, TOP_IMAGES, REJECTS)), _read_published
    ),
    "arrays": Reader(_write_arrays, ("x.zarr/zarr.json", "x.zarr/x/zarr.json", "x.zarr/x/c/0/0"), _read_arrays),
    "bundles": Reader(
        lambda folder: write_bundle(Folder.at(str(folder)), "x", {"a": np.eye(3), "b": np.arange(4)}),
        ("x.bundle",),
        _read_bundle,
    ),
    "signed bundles": Reader(
        lambda folder: write_bundle(Folder.at(str(folder)), "x", {"a": np.eye(3), "b": np.arange(4)}),
        ("x.bundle",),
        _read_signed_bundle,
    ),
    "checkpoints": Reader(_write_checkpoints, ("new.pt", "old.pt", "x.safetensors"), _read_checkpoints),
    "specs": Reader(_write_spec, ("spec.yaml",), lambda folder: build_spec(DissectSpec, folder / "spec.yaml", {})),
    "images": Reader(_write_images, (*IMAGE_KINDS, FLOATS), _read_images),
}

#: What numbers of formats are at their edges.
EDGES = [
    b"\0",
    b"\xff",
    b"\x7f",
    b"\x80",
    b"\0" * 4,
    b"\xff" * 4,
    b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"\xff" * 8,
]
WORDS = [
    b"null",
    b"-1",
    b"[]",
    b"{}",
    b'""',
    b"1e999",
    b"NaN",
    b"true",
    b"9" * 30,
    b"\xed\xa0\x80",
    b"\\ud800",
    b"\0",
]


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Bits flipped, cut, bytes taken away, doubled, put elsewhere, or replaced; JSON also value by value."""
    if data[:1] == b"{" and rng.random() < 0.5:
        return _other_json(data, rng)
    whole = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        place, end = sorted((rng.randrange(len(whole) + 1), rng.randrange(len(whole) + 1)))
        end = min(end, place + rng.choice((1, 4, 16, 512, len(whole))))
        match rng.randrange(7):
            case 0 if place < len(whole):
                whole[place] ^= 1 << rng.randrange(8)
            case 1:
                del whole[place:]
            case 2:
                del whole[place:end]
            case 3:
                whole[place:place] = whole[place:end]
            case 4:
                there = rng.randrange(len(whole) + 1)
                whole[there : there + end - place] = whole[place:end]
            case 5:
                put = rng.choice(EDGES + WORDS)
                whole[place : place + len(put)] = put
            case _:
                whole[place:place] = rng.choice(EDGES + WORDS + [rng.randbytes(8)])
    return bytes(whole)


def _other_json(data: bytes, rng: random.Random) -> bytes:
    """A JSON object with a value somewhere that is of another kind, or gone."""
    try:
        whole = json.loads(data)
    except ValueError:
        return data[: rng.randrange(len(data))]
    at: Any = whole
    while True:
        keys = list(at) if isinstance(at, dict) else list(range(len(at)))
        if not keys:
            return b"[]"
        key = rng.choice(keys)
        if isinstance(at[key], dict | list) and rng.random() < 0.7 and at[key]:
            at = at[key]
            continue
        if rng.random() < 0.2:
            del at[key]
        else:
            other = [None, -1, 0, 1 << 70, 1.5, "", "x" * 300, "../../x", "\ud800", [], {}, [[]], True, {"a": 1}]
            at[key] = rng.choice(other)
        return json.dumps(whole).encode("utf-8", "surrogatepass")


@contextmanager
def valid(reader: Reader, folder: Path) -> Iterator[dict[str, bytes]]:
    """Valid files, with their content by name; they are read once, to see that they are."""
    reader.make(folder)
    contents = {name: (folder / name).read_bytes() for name in reader.files}
    reader.read(folder)
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    yield contents


def crash(reader: Reader, folder: Path, contents: dict[str, bytes], rng: random.Random) -> str | None:
    """Damages a file and has it read; what was raised where it is none of our errors. Puts the file back."""
    name = rng.choice(reader.files)
    data = damaged(contents[name], rng)
    (folder / name).write_bytes(data)
    try:
        reader.read(folder)
    except OWN as error:
        return None if str(error) else f"{name}: {type(error).__name__} that says nothing"
    except Exception as error:
        return f"{name}: {type(error).__name__}: {str(error)[:200]}"
    finally:
        (folder / name).write_bytes(contents[name])
    return None
