"""Files of anybody's, damaged at random: read, or refused in our words. `tests.benchmarks.fuzz` does more."""

from __future__ import annotations

import io
import json
import random
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from storage.errors import DamagedError
from tasks.published import FILES, REJECTS, read_table
from tests.fuzzing import OWN, READERS, crash, valid, write_published

#: Damaged files of each kind.
EXAMPLES = 20


@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_is_read_or_refused_in_our_words(name: str, tmp_path: Path) -> None:
    rng = random.Random(name)
    with warnings.catch_warnings(), valid(READERS[name], tmp_path) as contents:
        warnings.simplefilter("ignore")
        found = [crash(READERS[name], tmp_path, contents, rng) for _ in range(EXAMPLES)]
    assert not [text for text in found if text]


def parquet(**columns: object) -> bytes:
    data = io.BytesIO()
    pd.DataFrame(columns).to_parquet(data)
    return data.getvalue()


#: What was found by damaging files at random, and by thinking of what would be worse.
FOUND = [
    ("embeddings", "x.npy", b"\x93NUMPY\x01\x00\x10\x00{'descr': (((\n    ", r"x\.npy is no \.npy matrix"),
    ("broden", "label.csv", b"number,name,category\nred,red,color\n", r"label\.csv are not all numbers.*'red'"),
    ("probe set", "store/manifest.json", b"{}", r"manifest\.json does not say .*Remove the folder .*run again"),
    ("probe set", "store/manifest.json", b"[]", r"manifest\.json does not say"),
    ("probe set", "store/store.json", b"[]", r"has format None"),
    ("probe set", "store/rejects.parquet", b"PAR1", r"rejects\.parquet is damaged.*run again"),
    ("published", "out/run.json", b"[]", r"run\.json does not say .*Remove it and run again"),
    ("published", "out/run.json", b'{"digest": 3}', r"run\.json does not say what that of a run does \(digest: "),
    (
        "published",
        "out/labels.parquet",
        parquet(layer=["conv"]),
        r"labels\.parquet is none of a run: .*'neuron' is not",
    ),
    ("published", "out/rejects.parquet", parquet(path=["a"], reason=[3]), r"'reason' is int64, not texts"),
    ("arrays", "x.zarr/x/zarr.json", b"[]", r"/x is damaged: its zarr\.json cannot be used.*--repair"),
    ("signed bundles", "x.bundle", bytes(60), r"x\.bundle is no bundle .*Remove it and run again"),
]


@pytest.mark.parametrize(("name", "file", "content", "said"), FOUND, ids=lambda value: str(value)[:30])
def test_what_is_wrong_is_named_with_the_way_out(
    name: str, file: str, content: bytes, said: str, tmp_path: Path
) -> None:
    with valid(READERS[name], tmp_path):
        (tmp_path / file).write_bytes(content)
        with pytest.raises(OWN, match=said):
            READERS[name].read(tmp_path)


@pytest.mark.parametrize(
    "probe", ["reference://x::/etc/hostname", "/no/such/folder", "file:///etc", "http://127.0.0.1:9/x"]
)
def test_a_published_folder_of_somebody_else_s_writes_nothing_outside(probe: str, tmp_path: Path) -> None:
    out = write_published(tmp_path)
    (tmp_path / "mine.txt").write_text("mine")
    run = out.read_json("run.json")
    run["files"] |= {"../mine.txt": "0" * 64, str(tmp_path / "mine.txt"): "0" * 64}
    out.write_json("run.json", run)
    (tmp_path / "mine").mkdir()
    (tmp_path / "out" / "report").symlink_to(tmp_path / "mine")
    (tmp_path / "out" / "report.html").symlink_to(tmp_path / "mine.txt")
    (tmp_path / "out" / "run.json.lock").symlink_to(tmp_path / "mine.txt")
    before = {path for path in tmp_path.rglob("*") if not path.is_relative_to(tmp_path / "out")}
    for where in (run["probe"], probe):
        out.write_json("run.json", run | {"probe": where})
        with pytest.raises(Exception, match=r"\w"):
            READERS["published"].read(tmp_path)
        (tmp_path / "out" / "run.json.lock").unlink(missing_ok=True)
    assert (tmp_path / "mine.txt").read_text() == "mine"
    assert {path for path in tmp_path.rglob("*") if not path.is_relative_to(tmp_path / "out")} == before
    out.write_json("run.json", run)
    READERS["published"].read(tmp_path)
    assert not (tmp_path / "out" / "report").is_symlink() and not list((tmp_path / "mine").iterdir())
    assert not (tmp_path / "out" / "report.html").is_symlink() and (tmp_path / "mine.txt").read_text() == "mine"


def test_the_folder_of_a_run_whose_files_are_elsewhere_is_not_done(tmp_path: Path) -> None:
    from tasks.publish import _is_intact

    out = write_published(tmp_path)
    run = out.read_json("run.json")
    out.write_json("run.json", run | {"files": {"../../../../../../dev/zero": "0" * 64}})
    assert not _is_intact(out, run["digest"], set(FILES))
    out.write_json("run.json", json.loads("[1]"))
    assert not _is_intact(out, run["digest"], set(FILES))


def test_an_archive_s_claims_take_no_memory(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.eye(3, dtype=np.float32))
    data = (tmp_path / "x.npy").read_bytes().replace(b"(3, 3)", b"(9999999999, 99999)".ljust(6))
    (tmp_path / "x.npy").write_bytes(data)
    (tmp_path / "x.keys.txt").write_text("a\n")
    with pytest.raises(OWN, match=r"x\.npy is no \.npy matrix"):
        READERS["embeddings"].read(tmp_path)


def test_a_text_that_is_no_utf_8_is_damage_though_it_is_seen_late(tmp_path: Path) -> None:
    out = write_published(tmp_path, note="a note of it")
    file = tmp_path / "out" / REJECTS
    file.write_bytes(file.read_bytes().replace(b"a note of it", b"a n\xf0te of it"))
    with pytest.raises(DamagedError, match="'path'"):
        read_table(out, REJECTS)
