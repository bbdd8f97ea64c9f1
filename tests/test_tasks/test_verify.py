"""Every file of a store, harmed in every way: it is found, and a rerun after the repair gives the same tables."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest

from storage.errors import BusyError, IdentityError, IncompleteError
from storage.files import Folder
from storage.findings import Findings
from storage.json_text import CHECKSUM
from storage.layout import Store
from storage.repair import repair
from storage.verify import verify
from tasks.spec import ShardSpec
from tests.test_storage.test_tars import tar
from tests.test_tasks.conftest import png, shard
from tests.test_tasks.stores import Filled

Harm = Callable[[bytes, random.Random], bytes]


def flipped(first: float, last: float) -> Harm:
    """Flips a bit in a part of the file."""

    def harm(data: bytes, chance: random.Random) -> bytes:
        at = chance.randrange(int(first * len(data)), max(1, int(last * len(data))))
        return data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :]

    return harm


HARMS: dict[str, Harm] = {
    "flipped first": flipped(0, 0.1),
    "flipped inside": flipped(0.1, 0.9),
    "flipped last": flipped(0.9, 1),
    "cut to nothing": lambda data, _: b"",
    "cut in half": lambda data, _: data[: len(data) // 2],
    "cut by a byte": lambda data, _: data[:-1],
}


pytestmark = pytest.mark.usefixtures("small_groups")


def verified(filled: Filled) -> Findings:
    return verify(str(filled.store), [str(filled.out)], jobs=1)


def files(filled: Filled) -> dict[str, Path]:
    """All files of the store and of what is published elsewhere, by their paths as problems have them."""
    store, out = ([path for path in of.rglob("*") if path.is_file()] for of in (filled.store, filled.out))
    return {str(path.relative_to(filled.store)): path for path in store} | {str(path): path for path in out}


def kinds(found: Findings) -> dict[str, str]:
    return {problem.path: problem.kind for problem in found.problems.values()}


def is_scratch(path: str) -> bool:
    return "/blocks/" in path or "/softmax/" in path


def begun_folder(filled: Filled) -> str:
    """The layer that is not labelled to its end."""
    [path] = [path for path in files(filled) if "/blocks/" in path]
    return path.split("/blocks/")[0]


def test_nothing_is_wrong_with_what_runs_made(filled_once: Filled) -> None:
    found = verified(filled_once)
    assert not found.problems and not found.notes and not found.unchecked
    assert all(is_scratch(one.path) for one in found.unfinished) and len(found.unfinished) == 2
    assert "nothing is wrong; 2 files of unfinished work" in found.summary
    assert len(found.files) == len([path for path in filled_once.store.rglob("*") if path.is_file()])


@pytest.mark.parametrize("harm", HARMS)
def test_harm_to_any_file_is_found(filled_once: Filled, harm: str) -> None:
    chance, number = random.Random(harm), list(HARMS).index(harm)
    # Each file is harmed in two of the six ways.
    for path, file in list(files(filled_once).items())[number % 3 :: 3]:
        whole = file.read_bytes()
        file.write_bytes(HARMS[harm](whole, chance))
        assert kinds(verified(filled_once)).get(path) == "torn", path
        file.write_bytes(whole)
    assert not verified(filled_once).problems


def test_the_loss_of_any_file_is_found_that_something_refers_to(filled_once: Filled) -> None:
    unfound = set()
    for path, file in files(filled_once).items():
        whole = file.read_bytes()
        file.unlink()
        if kinds(verified(filled_once)).get(path) != "missing":
            unfound.add(path)
        file.write_bytes(whole)
    # What is lost there is done again, and nothing else is made of it.
    begun = {path for path in unfound if is_scratch(path)}
    head = begun_folder(filled_once)
    assert len(begun) == 2
    rest = {path.split("/")[0]: path for path in unfound - begun}
    assert rest.keys() == {"checkpoints", "tars", "labels"} and len(unfound) == 5
    assert rest["labels"] == f"{head}/found.json" and rest["tars"].endswith(".json")


def test_the_loss_of_a_marker_that_nothing_refers_to_leaves_unfinished_work(filled: Filled) -> None:
    [marker] = (filled.store / "tars").glob("*.json")
    marker.unlink()
    assert f"tars/{marker.stem}.parquet" in [one.path for one in verified(filled).unfinished]


FOREIGN = {
    "": ["notes.txt", "x.parquet", "store.json.bak"],
    "probes/*": ["shard-1.tar", "shard-000000.tar.1", "index.csv", "parts/0.json", "parts/000000.csv", ".DS_Store"],
    "embeddings/*.zarr": ["embeddings/c/9/0", "embeddings/c/7", "embeddings/c/0/x", ".zgroup", "more/zarr.json"],
    "embeddings/*.done": ["0-32.json", "notes.txt"],
    "concepts/*": ["words.parquet"],
    "activations/*.zarr": ["conv/c/2/0", "conv/c/0/1", "conv/0.0"],
    "activations": ["zarr.json", "notes.json"],
    "labels/*/head": ["labels.csv", "other.json", "blocks/x.bundle"],
    "similarities": ["x.zarr/zarr.json"],
    "checkpoints": ["weights.pt"],
    "runs": ["notes/run.json", "x.json"],
}


def test_files_that_no_run_writes_are_foreign_and_stay(filled: Filled) -> None:
    added = set()
    for folder, names in FOREIGN.items():
        for found in filled.store.glob(folder) if folder else [filled.store]:
            for name in names:
                file = found / name
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text("{}")
                added.add(str(file.relative_to(filled.store)))
    found = verified(filled)
    assert kinds(found) == dict.fromkeys(added, "foreign")
    assert repair(found) == []
    assert kinds(verified(filled)) == dict.fromkeys(added, "foreign")


def tables(filled: Filled, begun: str) -> dict[str, bytes]:
    """Bytes of all that runs finish and that does not say how long it took, or when."""
    same = ("zarr.json", "wids.json", "store.json")
    return {
        path: file.read_bytes()
        for path, file in files(filled).items()
        if (file.suffix not in (".json", ".html") or file.name in same) and not path.startswith(begun)
    }


ROUNDS: dict[str, Callable[[str], bool]] = {
    "tables": lambda path: path.endswith((".parquet", ".csv", ".html", ".bundle", ".yaml")),
    "shards": lambda path: path.endswith(".tar") or "/c/" in path,
    "metadata": lambda path: path.endswith("zarr.json"),
    "markers": lambda path: path.endswith(".json") and not path.endswith("zarr.json"),
    "last shard group": lambda path: "/c/1/" in path,
}


@pytest.mark.parametrize("chosen", ROUNDS)
def test_a_rerun_after_the_repair_gives_the_same_tables(filled: Filled, chosen: str) -> None:
    begun = begun_folder(filled)
    before = tables(filled, begun)
    whole = {path: file.stat().st_mtime_ns for path, file in files(filled).items()}
    harmed = {path: file for path, file in files(filled).items() if ROUNDS[chosen](path)}
    for number, file in enumerate(harmed.values()):
        data = file.read_bytes()
        if number % 3:
            file.write_bytes(HARMS["flipped inside"](data, random.Random(number)))
        else:
            file.unlink()
    found = verified(filled)
    said = "\n".join(repair(found))
    for path, kind in kinds(found).items():
        assert kind == "missing" or f"Removed {path}, which was torn" in said
    assert "torn" not in kinds(verified(filled)).values()
    left = files(filled)
    assert all(left[path].stat().st_mtime_ns == whole[path] for path in left)
    if chosen == "last shard group":
        kept = [path for path in left if "000000000000-000000000032" in path and ".done/" in path]
        assert len(kept) == 3  # what is whole is not made again
    if chosen == "metadata":
        assert len([path for path in left if ".done/" in path]) == 6  # nothing is recorded again
    filled.runs()
    assert not verified(filled).problems
    assert tables(filled, begun) == before


def test_a_second_repair_finds_nothing_to_do(filled: Filled) -> None:
    [index] = filled.store.glob("probes/*/index.parquet")
    index.write_bytes(b"")
    done = repair(verified(filled))
    assert [line.split(" ")[1].split("/")[-1] for line in done] == ["index.parquet,", "manifest.json,"]
    assert repair(verified(filled)) == []


def test_a_tar_used_in_place_is_listed_and_left(spec_of: Callable[..., ShardSpec], tmp_path: Path) -> None:
    used = tmp_path / "x.tar"
    used.write_bytes(tar(("0.png", png())))
    store = shard(spec_of(used)).folder.url.partition("/probes/")[0]
    data = used.read_bytes()
    used.write_bytes(flipped(0.1, 0.9)(data, random.Random(0)))
    found = verify(store)
    assert kinds(found) == {str(used): "torn"}
    assert "SHA-256" in found.problems[str(used)].said and repair(found) == []
    used.write_bytes(data[:512])
    assert f"has 512 bytes, and {len(data):,} were written" in verify(store).problems[str(used)].said
    used.unlink()
    found = verify(store)
    assert kinds(found) == {str(used): "missing"} and repair(found) == []


def test_both_numbers_are_said(filled: Filled) -> None:
    [index] = filled.store.glob("probes/*/index.parquet")
    size = index.stat().st_size
    index.write_bytes(b"1234")
    [problem] = verified(filled).problems.values()
    assert problem.said == f"has 4 bytes, and {size:,} were written"
    assert str(problem).startswith(f"torn: probes/{index.parent.name}/index.parquet has 4 bytes")


def test_a_run_that_was_moved_is_no_damage(filled: Filled) -> None:
    filled.out.rename(filled.folder / "moved")
    found = verify(str(filled.store), jobs=1)
    assert not found.problems and len(found.notes) == 1 and str(filled.out) in found.notes[0]
    assert kinds(verified(filled)) == {str(filled.out / "run.json"): "missing"}  # where it is asked for
    moved = str(filled.folder / "moved")
    [problem] = verify(str(filled.store), [moved], jobs=1).problems.values()
    assert problem.path.startswith("runs/") and problem.kind == "missing" and moved in problem.said


def test_a_group_under_the_name_of_another_is_found(filled: Filled) -> None:
    [group] = filled.store.glob("embeddings/*.zarr")
    group.rename(group.with_name("0" * 20 + ".zarr"))
    found = verified(filled)
    other = f"embeddings/{'0' * 20}.zarr/zarr.json"
    assert kinds(found)[other] == "torn" and group.stem in found.problems[other].said


def test_a_store_of_another_format_is_refused(filled: Filled) -> None:
    Folder(str(filled.store)).write_json("store.json", {"format": 7})
    with pytest.raises(IdentityError, match="format 7, and this version knows format 1"):
        verified(filled)


def test_what_is_no_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IncompleteError, match="no store"):
        verify(str(tmp_path / "nothing"))
    assert not (tmp_path / "nothing").exists()


def test_what_an_older_version_made_is_not_taken_for_damage(filled: Filled) -> None:
    for file in filled.store.rglob("*.json"):
        facts = json.loads(file.read_text())
        if CHECKSUM in facts:
            facts.pop(CHECKSUM), facts.pop("files", None)
            file.write_text(json.dumps(facts, indent=1) + "\n")
    shutil.rmtree(filled.store / "runs")
    found = verify(str(filled.store), jobs=1)
    assert not found.problems and len(found.unchecked) > 10
    assert "markers of an older version" in found.summary


def test_a_store_in_memory_is_verified_and_repaired(filled_once: Filled) -> None:
    memory = fsspec.filesystem("memory")
    memory.put(str(filled_once.store), "/verified", recursive=True)
    try:
        url = "memory://verified"
        assert not verify(url, jobs=1).problems
        [index] = memory.glob("/verified/probes/*/index.parquet")
        memory.pipe_file(index, memory.cat_file(index)[:-1])
        found = verify(url, jobs=1)
        assert list(kinds(found).values()) == ["torn"]
        repair(found)
        assert not memory.exists(index)
    finally:
        memory.rm("/verified", recursive=True)


def test_partial_files_are_unfinished_work(filled: Filled) -> None:
    [folder] = filled.store.glob("probes/*")
    (folder / f".index.parquet.{os.getpid()}-01234567.partial").write_bytes(b"x")
    found = verified(filled)
    assert not found.problems and len(found.unfinished) == 3
    assert repair(found) == [] and len(verified(filled).unfinished) == 3


def test_nothing_is_repaired_while_a_run_is_at_work(filled: Filled) -> None:
    [index] = filled.store.glob("probes/*/index.parquet")
    index.write_bytes(b"")
    with Store.existing(str(filled.store)).leases.held("something", lambda _: None):
        found = verified(filled)
        assert list(kinds(found).values()) == ["torn"]
        with pytest.raises(BusyError, match=r"leases/something\.lock"):
            repair(found)
    assert index.is_file() and len(repair(verified(filled))) == 2


def test_verifying_imports_neither_torch_nor_prefect() -> None:
    program = "import sys, storage.repair, storage.verify; sys.exit(bool({'torch', 'prefect'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
