"""Images into shards: nothing is lost, nothing is done twice, and content alone makes the probe's digest."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from pathlib import Path

import fsspec
import numpy as np
import pandas as pd
import pytest

from storage.completion import Rows
from storage.errors import IncompleteError, SourceError
from storage.shards import INDEX_COLUMNS, read_images
from tasks.images import decode
from tasks.shard import ShardWork, finish_probe, finished_probe, make_shards, plan_shards, probe_at
from tasks.spec import ShardSpec
from tests.test_tasks.conftest import Bench, png, shard
from tests.test_tasks.test_images import compressed_text, gif_that_claims


@pytest.fixture
def spec(images: Path, tmp_path: Path) -> ShardSpec:
    return ShardSpec(probe=str(images), store=str(tmp_path / "store"), images_per_shard=20)


def test_every_image_is_packed_with_its_own_bytes(spec: ShardSpec, images: Path) -> None:
    probe = shard(spec)
    index = probe.index()
    assert (probe.num_images, probe.num_rejects, probe.num_shards) == (48, 0, 3)
    assert list(index.columns) == INDEX_COLUMNS
    assert index["row"].tolist() == list(range(48))
    assert index["path"].tolist() == sorted(str(p.relative_to(images)) for p in images.rglob("*.*"))
    assert index["shard"].value_counts().tolist() == [20, 20, 8]
    for (row, data), entry in zip(read_images(probe.folder, index), index.itertuples(), strict=True):
        original = (images / str(entry.path)).read_bytes()
        assert (row, data) == (entry.row, original)
        assert entry.sha256 == hashlib.sha256(original).hexdigest()
        assert (entry.width, entry.height, entry.num_bytes) == (24, 20, len(original))
        assert entry.label == str(entry.path).split("/")[0]


@pytest.mark.parametrize(("start", "stop"), [(0, 48), (0, 1), (6, 7), (7, 14), (5, 30), (41, 48), (47, 48)])
def test_a_task_s_rows_are_read_without_the_others(
    start: int, stop: int, spec: ShardSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storage.tables.GROUP_ROWS", 7)
    probe = shard(spec)
    some = probe.rows(Rows(start, stop))
    pd.testing.assert_frame_equal(some, probe.index().iloc[start:stop])
    assert some.index.tolist() == some["row"].tolist() == list(range(start, stop))
    assert [row for row, _ in read_images(probe.folder, some)] == list(range(start, stop))


def test_keys_of_the_index_are_those_in_the_shards(spec: ShardSpec) -> None:
    probe = shard(spec)
    for name, rows in probe.index().groupby("shard"):
        with tarfile.open(fileobj=io.BytesIO(probe.folder.read(str(name)))) as tar:
            assert [member.rsplit(".", 1)[0] for member in tar.getnames()] == rows["key"].tolist()


@pytest.mark.parametrize("images_per_shard", [1, 7, 48, 1000])
def test_any_number_of_images_per_shard_gives_the_same_index(spec: ShardSpec, images_per_shard: int) -> None:
    wanted = [column for column in INDEX_COLUMNS if column not in ("shard", "offset")]
    probe = shard(spec.model_copy(update={"images_per_shard": images_per_shard}))
    assert probe.num_shards == -(-48 // images_per_shard)
    pd.testing.assert_frame_equal(probe.index()[wanted], shard(spec).index()[wanted])


def test_the_same_files_leave_nothing_to_do(spec: ShardSpec) -> None:
    probe = shard(spec)
    plan = plan_shards(spec)
    assert plan.missing == ()
    assert finish_probe.fn(plan) == probe


def test_a_stopped_run_goes_on_with_the_shards_that_are_missing(spec: ShardSpec) -> None:
    plan = plan_shards(spec)
    make_shards.fn(plan.packing, ShardWork(plan.missing[1:2]))
    assert [part.number for part in plan_shards(spec).missing] == [0, 2]
    with pytest.raises(IncompleteError, match=r"2 of 3 shards .*clip-dissect shard"):
        finished_probe(spec)
    assert shard(spec).num_images == 48


def test_the_order_in_which_shards_are_made_does_not_matter(spec: ShardSpec, tmp_path: Path) -> None:
    one = shard(spec)
    plan = plan_shards(spec.model_copy(update={"store": str(tmp_path / "other")}))
    for part in reversed(plan.missing):
        make_shards.fn(plan.packing, ShardWork((part,)))
    other = finish_probe.fn(plan)
    assert other.digest == one.digest
    for name in ("index.parquet", "rejects.parquet", "shard-000001.tar"):
        assert other.folder.read(name) == one.folder.read(name)


def test_a_touched_file_is_packed_again_and_gives_the_same_probe(spec: ShardSpec, images: Path) -> None:
    before = shard(spec)
    os.utime(images / "red" / "00.jpg", (1, 1))
    assert len(plan_shards(spec).missing) > 0
    assert shard(spec).digest == before.digest


def test_a_changed_file_gives_another_probe(spec: ShardSpec, images: Path) -> None:
    before = shard(spec)
    (images / "red" / "01.png").write_bytes(png(99, (24, 20)))
    after = shard(spec)
    assert after.digest != before.digest
    assert before.index()["sha256"].ne(after.index()["sha256"]).sum() == 1


def test_a_copy_of_the_images_elsewhere_is_the_same_probe(spec: ShardSpec, images: Path, tmp_path: Path) -> None:
    before = shard(spec)
    images.rename(tmp_path / "moved")
    assert shard(spec.model_copy(update={"probe": (str(tmp_path / "moved"),)})).digest == before.digest


def test_a_limit_takes_the_first_paths(spec: ShardSpec) -> None:
    limited = shard(spec.model_copy(update={"limit": 5}))
    assert limited.index()["path"].tolist() == [f"blue/{i:02d}.{'png' if i % 2 else 'jpg'}" for i in range(5)]


def damage(images: Path) -> dict[str, int]:
    """Damaged files among the good ones, with their sizes."""
    whole = (images / "red" / "01.png").read_bytes()
    files = {
        "red/empty.png": b"",
        "red/half.png": whole[: len(whole) // 2],
        "red/page.jpg": b"<html>404</html>",
        "red/bomb.gif": gif_that_claims(60_000, 60_000, disposal=2),
        "0first.jpg": b"nothing",
        "zlast.gif": b"GIF89a",
    }
    for path, data in files.items():
        (images / path).write_bytes(data)
    return {path: len(data) for path, data in files.items()}


def test_what_cannot_be_decoded_is_listed_with_its_reason_and_the_rest_goes_on(spec: ShardSpec, images: Path) -> None:
    sizes = damage(images)
    probe = shard(spec)
    rejects = probe.rejects()
    assert probe.num_images == 48
    assert probe.num_rejects == len(sizes)
    assert dict(zip(rejects["path"], rejects["num_bytes"], strict=True)) == sizes
    reasons = dict(zip(rejects["path"], rejects["reason"], strict=True))
    assert reasons["red/empty.png"] == "the file is empty"
    assert "not an image" in reasons["red/page.jpg"]
    assert "truncated" in reasons["red/half.png"]
    assert "3600000000 pixels" in reasons["red/bomb.gif"]
    assert all(reasons.values())
    assert not set(sizes) & set(probe.index()["path"])


def test_an_image_is_what_it_holds_whatever_its_file_is_called(spec: ShardSpec, images: Path) -> None:
    (images / "red" / "png.jpg").write_bytes(png(7))
    (images / "red" / "jpeg.png").write_bytes((images / "red" / "00.jpg").read_bytes())
    probe = shard(spec)
    found = probe.index()[probe.index()["path"].isin(["red/png.jpg", "red/jpeg.png"])]
    assert found[["path", "width"]].to_numpy().tolist() == [["red/jpeg.png", 24], ["red/png.jpg", 5]]
    assert [decode(data).size for _, data in read_images(probe.folder, found)] == [(24, 20), (5, 4)]


def test_rows_stay_whole_where_a_shard_has_no_image_at_all(spec: ShardSpec, images: Path) -> None:
    for path in sorted(images.rglob("*.*"))[:20]:
        path.write_bytes(b"nothing")
    probe = shard(spec)
    index = probe.index()
    assert index["row"].tolist() == list(range(28))
    assert index.dtypes[["num_bytes", "width", "height", "offset"]].tolist() == [np.dtype("int64")] * 4
    assert [row for row, _ in read_images(probe.folder, index)] == list(range(28))


@pytest.mark.parametrize("trouble", ["removed", "broken link"])
def test_a_file_that_cannot_be_read_is_listed_with_its_reason(spec: ShardSpec, images: Path, trouble: str) -> None:
    path = images / "red" / "00.jpg"
    if trouble == "broken link":
        path.unlink()
        path.symlink_to(images / "nowhere.jpg")
    plan = plan_shards(spec)
    path.unlink()
    for part in plan.missing:
        make_shards.fn(plan.packing, ShardWork((part,)))
    rejects = finish_probe.fn(plan).rejects()
    assert rejects["path"].tolist() == ["red/00.jpg"]
    assert rejects["reason"].tolist() == ["cannot be read: No such file or directory"]


def test_images_none_of_which_can_be_decoded_are_refused_with_reasons(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for i in range(5):
        (tmp_path / "images" / f"{i}.jpg").write_bytes(b"nothing")
    spec = ShardSpec(probe=str(tmp_path / "images"), store=str(tmp_path / "store"))
    with pytest.raises(SourceError, match=r"None of the 5 image files can be decoded \(0\.jpg: not an image"):
        shard(spec)
    with pytest.raises(SourceError):
        shard(spec)
    for i in range(5):
        (tmp_path / "images" / f"{i}.jpg").write_bytes(png(i))
        os.utime(tmp_path / "images" / f"{i}.jpg", (1, 1))
    assert shard(spec).num_images == 5


def test_images_and_store_may_lie_in_any_file_system() -> None:
    memory = fsspec.filesystem("memory")
    for i in range(3):
        memory.pipe(f"/shard-test/images/class {i}/ü.png", png(i))
    memory.pipe("/shard-test/images/no.png", b"nothing")
    spec = ShardSpec(probe="memory://shard-test/images", store="memory://shard-test/store", images_per_shard=2)
    probe = shard(spec)
    assert [data for _, data in read_images(probe.folder, probe.index())] == [png(i) for i in range(3)]
    assert probe.rejects()["path"].tolist() == ["no.png"]
    assert plan_shards(spec).missing == ()


def test_a_removed_file_of_another_file_system_has_a_reason_too() -> None:
    memory = fsspec.filesystem("memory")
    for i in range(2):
        memory.pipe(f"/removed-test/images/{i}.png", png(i))
    plan = plan_shards(ShardSpec(probe="memory://removed-test/images", store="memory://removed-test/store"))
    memory.rm("/removed-test/images/0.png")
    make_shards.fn(plan.packing, ShardWork(plan.missing))
    (reason,) = finish_probe.fn(plan).rejects()["reason"]
    assert "None" not in reason


def test_a_relative_folder_is_the_one_of_now(spec: ShardSpec, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(images.parent)
    assert shard(spec.model_copy(update={"probe": ("images",)})).digest == shard(spec).digest


def test_planning_reads_no_image(spec: ShardSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(url: str) -> bytes:
        raise AssertionError(url)

    monkeypatch.setattr("storage.sources.folder.read_file", read)
    assert plan_shards(spec).num_files == 48


def test_duplicate_stems_are_all_kept(bench: Bench, images: Path) -> None:
    for name in ("a.png", "a.b.png", "a_b.png", "a.PNG"):
        (images / name).write_bytes(png(len(name)))
    probe = shard(bench.spec())
    assert probe.num_images == 52
    assert probe.index()["key"].is_unique


def test_a_strip_is_refused_and_the_rest_goes_on(spec: ShardSpec, images: Path) -> None:
    (images / "red" / "spacer.png").write_bytes(png(5, (1, 9_000)))
    (images / "red" / "panorama.png").write_bytes(png(5, (900, 3)))
    for resize in (None, 2):
        probe = shard(spec.model_copy(update={"resize": resize}))
        (reject,) = probe.rejects().itertuples()
        assert reject.path == "red/spacer.png" and "589,824,000 once its shorter side" in str(reject.reason)
        assert probe.num_images == 49


def test_an_image_too_long_for_jpeg_is_reduced_without_loss(spec: ShardSpec, images: Path) -> None:
    (images / "red" / "long.png").write_bytes(png(5, (67_000, 70)))
    probe = shard(spec.model_copy(update={"resize": 69}))
    index = probe.index()
    found = index[index["path"] == "red/long.png"]
    assert found[["encoding", "width", "height"]].to_numpy().tolist() == [["png", 66_043, 69]]


def test_files_left_out_are_counted_as_they_are_now(spec: ShardSpec, images: Path) -> None:
    (images / "red" / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic")
    (images / "red" / "without").write_bytes(png(9))
    probe = shard(spec)
    assert probe.left_out == probe.folder.read_json("manifest.json")["left_out"] == {".heic (HEIC)": 1}
    assert (probe.num_images, "red/without" in set(probe.index()["path"])) == (49, True)
    # One file more that is left out makes no other probe set, and is counted where the folder is listed again.
    (images / "red" / "note.txt").write_text("a dog")
    plan = plan_shards(spec)
    assert plan.folder == probe.folder and plan.missing == ()
    assert finished_probe(spec).left_out == {".heic (HEIC)": 1, ".txt": 1}
    assert probe_at(probe.folder).left_out == {".heic (HEIC)": 1}


def test_a_probe_set_finished_before_files_were_counted_is_opened(spec: ShardSpec) -> None:
    probe = shard(spec)
    manifest = probe.folder.read_json("manifest.json")
    del manifest["left_out"]
    probe.folder.write_json("manifest.json", manifest)
    assert probe_at(probe.folder) == probe and plan_shards(spec).missing == ()


def test_an_image_without_ending_and_with_long_text_is_stored_as_what_it_is(spec: ShardSpec, images: Path) -> None:
    (images / "red" / "generated").write_bytes(compressed_text(b"zTXt", b"node " * 400_000))
    probe = shard(spec)
    assert probe.num_rejects == 0
    with tarfile.open(probe.folder.path("shard-000002.tar")) as written:
        assert "red/generated.png" in written.getnames()
