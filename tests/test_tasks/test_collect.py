"""What no run refers to is found and removed; what a run refers to, and work in progress, never."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest

from storage.collect import Collected, Thing, collect, remove
from storage.errors import BusyError, DamagedError, IncompleteError
from storage.layout import Store
from storage.runs import Run, differences, known, record, recorded
from storage.verify import verify
from tests.test_tasks.stores import Filled, run

pytestmark = pytest.mark.usefixtures("small_groups")

DAY = 86_400.0


def store_of(filled: Filled) -> Store:
    return Store.existing(str(filled.store))


def paths(things: list[Thing]) -> set[str]:
    return {one.path for thing in things for one in thing.files}


def kinds(things: list[Thing]) -> list[str]:
    return sorted(thing.place.kind for thing in things)


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def age(filled: Filled, days: float = 30) -> None:
    """All files were written so long ago."""
    then = time.time() - days * DAY
    for path in filled.store.rglob("*"):
        os.utime(path, (then, then))


def forget_all(filled: Filled) -> list[str]:
    """The folders of all runs, which are removed."""
    outs = [one.folder(store_of(filled)).url for one in recorded(store_of(filled))]
    for out in outs:
        shutil.rmtree(out)
    return outs


@pytest.fixture
def begun(filled: Filled) -> str:
    """The layer of the run that was killed before its end."""
    [path] = filled.store.glob("labels/*/head/blocks")
    return str(path.parent.relative_to(filled.store))


def test_only_the_work_of_a_run_that_never_ended_is_without_a_run(filled: Filled, begun: str) -> None:
    found = collect(store_of(filled))
    assert [str(thing) for thing in found.things] == [begun.replace("/", " ")]
    assert [state for _, state in found.runs] == ["published", "published"] and not found.in_progress
    young = collect(store_of(filled), older_than=DAY)
    assert not young.things and paths(young.in_progress) == paths(found.things)
    assert files(filled.store) >= paths(found.things)  # nothing was removed
    before = files(filled.store)
    remove(found)
    assert files(filled.store) == before - paths(found.things)
    assert not (filled.store / begun).parent.exists()
    assert not verify(str(filled.store), [str(filled.out)]).problems
    assert all(plan.is_done for plan in filled.runs())


def test_a_layer_that_no_run_refers_to_is_removed_alone(filled: Filled, begun: str) -> None:
    def published() -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in filled.out.rglob("*") if path.is_file()}

    store, outside = store_of(filled), published()
    for one in recorded(store):
        record(store, replace(one, layers=["head"]))
    found = collect(store)
    of_conv = {path for path in files(filled.store) if "/conv/" in path}
    assert paths(found.things) - of_conv == {path for path in files(filled.store) if path.startswith(begun)}
    assert of_conv <= paths(found.things)
    remove(found)
    assert not list(filled.store.rglob("conv"))
    assert not verify(str(filled.store)).problems
    [again, _] = filled.runs()
    assert again.labels.labels("conv").equals(again.labels.labels("conv")) and not verify(str(filled.store)).problems
    assert published() == outside


def test_a_run_counts_until_it_is_forgotten(filled: Filled) -> None:
    store = store_of(filled)
    filled.out.rename(filled.folder / "elsewhere")
    shutil.rmtree(filled.store / "runs" / recorded(store)[1].folder(store).name)
    found = collect(store)
    assert [state for _, state in found.runs] == ["not there", "not there"] and len(found.things) == 1
    one, other = (run for run, _ in found.runs)
    assert len(collect(store, forget=[str(filled.out)]).things) == 1  # the other run is made of the same
    both = collect(store, forget=[str(filled.out), str(filled.store / other.out)])
    kept = {path for path in files(filled.store) if path.startswith(("runs/", "checkpoints/", "store.json"))}
    assert paths(both.things) == files(filled.store) - kept
    (filled.folder / "elsewhere").rename(filled.out)
    assert one.state(store) == "published"


def test_forgotten_runs_leave_an_empty_store_and_all_that_is_not_ours(filled: Filled) -> None:
    outs = forget_all(filled)
    (filled.store / "embeddings" / "mine.txt").write_text("mine")
    inputs = {
        path: path.read_bytes() for path in filled.folder.rglob("*") if path.is_file() and "store" not in path.parts
    }
    remove(collect(store_of(filled), forget=outs))
    assert files(filled.store) == {"store.json", "embeddings/mine.txt", f"checkpoints/{'0' * 20}.json"}
    assert not [folder for folder in (filled.store / "embeddings").iterdir() if folder.is_dir()]
    assert all(path.read_bytes() == data for path, data in inputs.items())


def test_a_folder_with_another_run_in_it_is_not_the_run_on_record(filled: Filled) -> None:
    shutil.rmtree(filled.out)
    store = store_of(filled)
    [inside] = [one for one in recorded(store) if one.out.startswith("runs/")]
    shutil.copytree(inside.folder(store).url, filled.out)
    assert [state for _, state in collect(store).runs] == ["replaced", "published"]
    assert len(collect(store, forget=[str(filled.out)]).runs) == 1


def test_only_runs_that_are_gone_can_be_forgotten(filled: Filled, tmp_path: Path) -> None:
    with pytest.raises(IncompleteError, match=r"is there\. Remove that folder first"):
        collect(store_of(filled), forget=[str(filled.out)])
    with pytest.raises(IncompleteError, match="is on record"):
        collect(store_of(filled), forget=[str(tmp_path)])


def test_without_any_run_nothing_is_removed(filled: Filled) -> None:
    shutil.rmtree(filled.store / "runs")
    before = files(filled.store)
    found = collect(store_of(filled))
    assert len(found.things) > 10
    with pytest.raises(IncompleteError, match="Give --out of each run"):
        remove(found)
    assert files(filled.store) == before
    # What older versions published, of which there is no record, counts where it is named.
    named = collect(store_of(filled), outs=[str(filled.out)])
    assert len(named.things) == 1 and named.runs[0][1] == "published"
    with pytest.raises(IncompleteError, match="holds no published run"):
        collect(store_of(filled), outs=[str(filled.folder)])


def test_a_run_in_the_store_without_a_record_counts(filled: Filled) -> None:
    for path in (filled.store / "runs").glob("*.json"):
        path.unlink()
    assert len(collect(store_of(filled)).things) == 1


def test_work_in_progress_keeps_all_that_it_is_made_of(filled: Filled, begun: str) -> None:
    age(filled)
    outs = forget_all(filled)
    os.utime(filled.store / begun / "found.json")
    found = collect(store_of(filled), forget=outs, older_than=7 * DAY)
    wanted = ["activations", "activations", "concepts", "embeddings", "labels", "list of a tar", "probe set"]
    assert kinds(found.in_progress) == wanted
    assert {thing.place.layer for thing in found.in_progress} == {"", "head"}
    assert kinds(found.things) == sorted(["activations", *["details"] * 2, "labels", "labels", *["similarities"] * 3])
    remove(found)
    plan = run(filled.spec(a=7.0, keep_similarities=False))  # goes on where it was
    assert not plan.is_done and not verify(str(filled.store)).problems


def test_an_unfinished_recording_keeps_its_probe_set(filled: Filled) -> None:
    age(filled)
    outs = forget_all(filled)
    [group] = filled.store.glob("activations/*[0-9a-f].zarr/zarr.json")
    os.utime(next(filled.store.glob("activations/*.zarr/conv/c/0/0")))
    found = collect(store_of(filled), forget=outs, older_than=7 * DAY)
    assert kinds(found.in_progress) == ["activations", "activations", "list of a tar", "probe set"]
    assert group.relative_to(filled.store).as_posix() in paths(found.in_progress)


def test_while_a_run_is_at_work_nothing_is_removed(filled: Filled) -> None:
    store, before = store_of(filled), files(filled.store)
    with store.leases.held("something", lambda _: None):
        found = collect(store)
        assert found.held == ["leases/something.lock"] and "leases/something.lock" not in paths(found.things)
        with pytest.raises(BusyError, match=r"leases/something\.lock"):
            remove(found)
        assert files(filled.store) == before | {"leases/something.lock"}
    (filled.store / "leases" / "left.lock").touch()
    (filled.store / "leases" / "of-an-object.lease").mkdir()
    (filled.store / "leases" / "of-an-object.lease" / "0000000001").write_text("host 1 token 0")
    assert collect(store).held == ["leases/of-an-object.lease/0000000001"]
    age(filled)
    remove(collect(store, older_than=DAY))
    assert not (filled.store / "leases").exists()


def test_partial_writes_stay_while_their_writer_lives(filled: Filled) -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    names = [f".a.{os.getpid()}-01234567.partial", f".a.{dead.pid}-01234567.partial", "0.0123456789abcdef.partial"]
    for name in names:
        (filled.store / "tars" / name).write_bytes(b"part")
    age(filled)
    (filled.store / "tars" / "1.0123456789abcdef.partial").write_bytes(b"part")
    found = collect(store_of(filled), older_than=DAY)
    assert {path for path in paths(found.things) if "partial" in path} == {f"tars/{name}" for name in names[1:]}
    assert paths(found.in_progress) == {f"tars/{names[0]}", "tars/1.0123456789abcdef.partial"}


def test_what_a_crash_left_beside_finished_labels_is_removed(filled: Filled) -> None:
    [block] = filled.store.glob("labels/*/head/blocks/*")
    [done] = filled.store.glob("labels/*/head/done.json")
    (done.parent / "blocks").mkdir()
    left = shutil.copy(block, done.parent / "blocks")
    found = collect(store_of(filled))
    assert str(Path(left).relative_to(filled.store)) in [thing.files[0].path for thing in found.things]
    remove(found)
    assert done.is_file() and not (done.parent / "blocks").exists()


def test_a_torn_record_stops_the_collection(filled: Filled) -> None:
    record_file = next((filled.store / "runs").glob("*.json"))
    record_file.write_bytes(record_file.read_bytes()[:-9])
    with pytest.raises(DamagedError, match=record_file.name):
        collect(store_of(filled))


@pytest.fixture
def memory(filled: Filled) -> Iterator[Store]:
    """The same in memory."""
    fs = fsspec.filesystem("memory")
    fs.put(str(filled.store), "/collected", recursive=True)
    yield Store.existing("memory://collected")
    fs.rm("/collected", recursive=True)


def test_a_store_in_memory_is_collected_too(memory: Store, begun: str) -> None:
    found: Collected = collect(memory)
    assert len(found.things) == 1 and all(path.startswith(begun) for path in paths(found.things))
    remove(found)
    assert not (memory.root / begun).files() and not verify(memory.root.url).problems
    assert not collect(memory, older_than=DAY).things


def test_runs_on_record_say_where_and_of_what(filled: Filled) -> None:
    store = store_of(filled)
    elsewhere, inside = recorded(store)
    assert elsewhere.out == "../out" and inside.out == f"runs/{inside.digest}"
    assert elsewhere.counts | {"images": 53, "concepts": 4, "neurons": 8} == elsewhere.counts
    assert elsewhere.digests == inside.digests and differences([elsewhere.spec, inside.spec]) == ["top_images"]
    (filled.store / "runs" / f"{elsewhere.name}.json").unlink()
    [plan, _] = filled.runs()  # done before, and recorded where it was not
    assert plan.is_done and {one.out for one in recorded(store)} == {elsewhere.out, inside.out}
    assert [one.when for one in recorded(store) if one.out == inside.out] == [inside.when]
    moved = filled.folder / "store elsewhere"
    filled.store.rename(moved)
    at = Store.existing(str(moved))
    assert [one.state(at) for one in known(at, [])] == ["published", "published"]
    moved.rename(filled.store)


def test_another_run_in_the_same_folder_takes_the_place_of_the_record(filled: Filled) -> None:
    store = store_of(filled)
    run(filled.spec(ranks=2))
    assert len(recorded(store)) == 2
    assert {one.spec["ranks"] for one in recorded(store)} == {2, 4}
    one: Run = next(one for one in recorded(store) if one.out == "../out")
    assert one.spec["ranks"] == 2 and one.state(store) == "published"
