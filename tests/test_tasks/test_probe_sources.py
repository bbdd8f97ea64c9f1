"""Probe sets of several sources: nothing is mixed up, tars stay where they are, and what is wrong is named."""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from storage.completion import MAX_TASKS
from storage.errors import ShardError, SourceError
from storage.files import Folder
from storage.shards import read_images
from tasks.images import decode
from tasks.precomputed import ImageEmbeddingsFile
from tasks.shard import ShardWork, finish_probe, make_shards, plan_shards
from tasks.spec import ShardSpec
from tests.test_storage.test_broden import broden_at
from tests.test_storage.test_tars import tar
from tests.test_tasks.conftest import png, shard


@pytest.fixture
def tars(tmp_path: Path) -> Folder:
    """Three tars of four samples each, `0.png` to `3.png` with their class; one image of the last is none."""
    folder = Folder(str(tmp_path / "tars"))
    for number in range(3):
        members = []
        for i in range(4):
            bad = (number, i) == (2, 1)
            members += [(f"{i}.png", b"bad" if bad else png(10 * number + i)), (f"{i}.cls", f"{i % 2}".encode())]
        folder.write(f"x-{number}.tar", tar(*members))
    return folder


def test_all_kinds_are_joined_in_the_order_given(spec_of: Any, images: Path, tars: Folder, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("path,label\nimages/red/00.jpg,rot\nnowhere.png,x\n")
    broden = broden_at(Folder(str(tmp_path / "broden")), png(99))
    texts = [tars.path("x-{0..2}.tar"), images, tmp_path / "list.csv", broden.text]
    probe = shard(spec_of(*texts, images_per_shard=20))
    index = probe.index()
    assert list(index["source"].unique()) == ["x-0..2", "images", "list", "broden"]
    assert index["source"].value_counts().to_dict() == {"images": 48, "x-0..2": 11, "broden": 2, "list": 1}
    assert index["path"].is_unique and index["key"].is_unique
    assert index["path"].iloc[[0, 11, 59, 60]].tolist() == [
        "x-0..2/x-0.tar/0.png",
        "images/blue/00.jpg",
        "list/images/red/00.jpg",
        "broden/ade20k/A_1.jpg",
    ]
    assert index["label"].iloc[[0, 1, 11, 59, 60]].tolist() == ["0", "1", "blue", "rot", ""]
    assert probe.rejects()[["source", "path"]].to_numpy().tolist() == [
        ["x-0..2", "x-0..2/x-2.tar/1.png"],
        ["list", "list/nowhere.png"],
    ]
    for (row, data), entry in zip(read_images(probe.folder, index), index.itertuples(), strict=True):
        assert row == entry.row and hashlib.sha256(data).hexdigest() == entry.sha256
    annotations = pd.read_parquet(probe.folder.path("broden.parquet"))
    assert index["path"].iloc[annotations["row"]].tolist() == annotations["path"].tolist()
    assert set(annotations["row"]) == {60, 61}
    assert probe.folder.exists("broden-concepts.parquet")
    assert shard(spec_of(*texts, images_per_shard=20)) == probe


def test_tars_are_used_where_they_are(spec_of: Any, tars: Folder) -> None:
    probe = shard(spec_of(tars.path("*.tar")))
    index = probe.index()
    assert not [name for name in probe.folder.names() if name.endswith(".tar")]
    assert index["shard"].unique().tolist() == [tars.path(f"x-{n}.tar") for n in range(3)]
    for entry in index.itertuples():
        with tarfile.open(tars.path(str(entry.path).split("/")[0])) as whole:
            content = whole.extractfile(str(entry.path).split("/")[1])
            assert content and hashlib.sha256(content.read()).hexdigest() == entry.sha256
    for facts in probe.folder.read_json("manifest.json")["shards"]:
        data = tars.read(facts["shard"].rpartition("/")[2])
        assert (facts["num_bytes"], facts["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
    some = index.iloc[[10, 0, 5, 6]]
    assert [row for row, _ in read_images(probe.folder, some)] == [10, 0, 5, 6]


def test_the_same_images_are_the_same_probe_in_whatever_shards(spec_of: Any, images: Path, tmp_path: Path) -> None:
    one = shard(spec_of(images, images_per_shard=7))
    assert shard(spec_of(images)).digest == one.digest
    assert shard(spec_of(images, limit=47)).digest != one.digest


def changed(tars: Folder) -> bytes:
    data = bytearray(tars.read("x-1.tar"))
    data[530] ^= 1
    return bytes(data)


@pytest.mark.parametrize("how", ["flipped", "shorter", "gone"])
def test_a_tar_that_changes_later_is_named_and_gives_no_wrong_image(how: str, spec_of: Any, tars: Folder) -> None:
    probe = shard(spec_of(tars.path("*.tar")))
    size = tars.size("x-1.tar")
    if how == "gone":
        Path(tars.path("x-1.tar")).unlink()
    else:
        tars.write("x-1.tar", changed(tars) if how == "flipped" else tar(("other.png", png(7))))
    with pytest.raises(ShardError, match=rf"tar .*x-1\.tar is used in place .*had {size:,} bytes .* Put it back"):
        list(read_images(probe.folder, probe.index()))
    if how == "gone":
        assert shard(spec_of(tars.path("*.tar"))).num_images == 7
        with pytest.raises(SourceError, match=r"1 of the 3 tar files .*x-1\.tar"):
            plan_shards(spec_of(tars.path("x-{0..2}.tar")))
    else:
        assert shard(spec_of(tars.path("*.tar"))).digest != probe.digest


def test_a_tar_that_is_cut_later_is_named_when_it_is_read(spec_of: Any, tars: Folder) -> None:
    probe = shard(spec_of(tars.path("*.tar")))
    for length in (0, 100, 600, 1100, 5000):
        whole = tars.read("x-1.tar")
        tars.write("x-1.tar", whole[:length])
        with pytest.raises(
            ShardError, match=rf"x-1\.tar is used in place .* It has {length:,} bytes now\. Put it back"
        ):
            list(read_images(probe.folder, probe.index()))
        tars.write("x-1.tar", whole)
    assert len(list(read_images(probe.folder, probe.index()))) == 11


@pytest.mark.parametrize("kept", ["nothing", "half a header", "half an image", "whole members"])
def test_a_tar_that_is_cut_or_gone_before_it_is_packed_is_named(kept: str, spec_of: Any, tars: Folder) -> None:
    plan = plan_shards(spec_of(tars.path("*.tar")))
    with tarfile.open(tars.path("x-1.tar")) as whole:
        start = whole.getmember("2.png").offset
    if kept == "nothing":
        tars.remove_file("x-1.tar")
        words = r"was listed and is not there any more\. Put it back"
    else:
        length = start + {"half a header": 100, "half an image": 530, "whole members": 0}[kept]
        tars.write("x-1.tar", tars.read("x-1.tar")[:length])
        words = r"has changed since it was listed \(.*\)\. Run again"
    with pytest.raises(SourceError, match=rf"x-1\.tar {words}"):
        make_shards.fn(plan.packing, ShardWork(plan.missing))
    assert not plan.folder.exists("manifest.json")


def test_one_key_in_several_tars_is_several_images_and_one_name_in_a_tar_is_one(spec_of: Any, tmp_path: Path) -> None:
    folder = Folder(str(tmp_path / "some"))
    folder.write("a.tar", tar(("0.png", png(1)), ("0.png", png(2)), ("0.jpg", png(3)), ("1.png", png(4))))
    folder.write("b.tar", tar(("0.png", png(5)), ("1.png", png(4))))
    probe = shard(spec_of(folder.path("*.tar")))
    index = probe.index()
    assert index["path"].tolist() == ["a.tar/0.png", "a.tar/0.jpg", "a.tar/1.png", "b.tar/0.png", "b.tar/1.png"]
    assert index["key"].is_unique
    assert [data for _, data in read_images(probe.folder, index)] == [png(value) for value in (1, 3, 4, 5, 4)]
    assert probe.rejects()[["path", "reason"]].to_numpy().tolist() == [
        ["a.tar/0.png", "another image of the source has this path"]
    ]


def test_a_tar_all_of_whose_images_are_bad_is_survived(spec_of: Any, tars: Folder) -> None:
    tars.write("x-1.tar", tar(*((f"{i}.png", b"bad") for i in range(4))))
    probe = shard(spec_of(tars.path("*.tar")))
    index = probe.index()
    assert (probe.num_images, probe.num_rejects) == (7, 5)
    assert [row for row, _ in read_images(probe.folder, index)] == index["row"].tolist() == list(range(7))


def test_a_truncated_tar_is_refused_before_any_work(spec_of: Any, tars: Folder) -> None:
    tars.write("x-1.tar", tars.read("x-1.tar")[:1000])
    with pytest.raises(SourceError, match=r"x-1\.tar is no whole tar file: .* of 1,000"):
        plan_shards(spec_of(tars.path("*.tar")))


def test_precomputed_embeddings_match_by_the_path_of_the_index(
    spec_of: Any, images: Path, tars: Folder, tmp_path: Path
) -> None:
    probe = shard(spec_of(images, tars.path("*.tar"), limit=50))
    paths = probe.index()["path"].tolist()
    np.save(tmp_path / "e.npy", np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32))
    (tmp_path / "e.keys.txt").write_text("\n".join(reversed(paths)))
    rows = ImageEmbeddingsFile.at(str(tmp_path / "e.npy")).rows(paths)
    assert np.allclose(rows[0], ImageEmbeddingsFile.at(str(tmp_path / "e.npy")).rows([paths[0]]))


def test_a_sample_is_recorded_and_of_the_limit(spec_of: Any, images: Path) -> None:
    whole = shard(spec_of(images)).index()["path"].tolist()
    sampled = shard(spec_of(images, limit=20, sample=5, sample_seed=3))
    paths = sampled.index()["path"].tolist()
    assert len(paths) == 5 and paths == [path for path in whole[:20] if path in paths]
    manifest = sampled.folder.read_json("manifest.json")
    assert manifest["selection"] == {"limit": 20, "sample": 5, "sample_seed": 3}
    assert shard(spec_of(images, limit=20, sample=5, sample_seed=4)).digest != sampled.digest


def test_a_sample_of_tars_reads_their_images_alone(spec_of: Any, tars: Folder) -> None:
    probe = shard(spec_of(tars.path("*.tar"), sample=4))
    index = probe.index()
    assert len(index) + probe.num_rejects == 4
    assert len(list(read_images(probe.folder, index))) == len(index)
    assert all(facts["num_samples"] == 4 for facts in probe.folder.read_json("manifest.json")["shards"])


def test_larger_images_are_reduced_and_the_index_says_so(spec_of: Any, tmp_path: Path) -> None:
    folder = Folder(str(tmp_path / "some"))
    folder.write("large.png", png(9, (90, 60)))
    folder.write("small.png", png(9, (30, 20)))
    probe = shard(spec_of(folder.url, resize=20))
    index = probe.index().set_index("path")
    assert index[["encoding", "width", "height"]].to_numpy().tolist() == [["jpeg-95", 30, 20], ["original", 30, 20]]
    (_, large), (_, small) = read_images(probe.folder, probe.index())
    assert Image.open(io.BytesIO(large)).format == "JPEG" and decode(large).size == (30, 20)
    assert small == folder.read("small.png")
    with tarfile.open(probe.folder.path("shard-000000.tar")) as written:
        assert written.getnames() == ["large.jpg", "small.png"]
    assert shard(spec_of(folder.url)).digest != probe.digest


def test_tars_in_place_are_not_resized(spec_of: Any, tars: Folder) -> None:
    with pytest.raises(SourceError, match=r"--resize 20 .*\*\.tar are used in place.*unpack"):
        plan_shards(spec_of(tars.path("*.tar"), resize=20))


def test_a_list_may_name_images_that_say_nothing_of_their_format(spec_of: Any, tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(png(3))
    (tmp_path / "list.csv").write_text("path\nimage\n")
    probe = shard(spec_of(tmp_path / "list.csv"))
    with tarfile.open(probe.folder.path("shard-000000.tar")) as written:
        assert written.getnames() == ["image.png"]


def test_wids_reads_the_shards(spec_of: Any, images: Path, tars: Folder) -> None:
    probe = shard(spec_of(images, tars.path("*.tar"), images_per_shard=20))
    index = probe.folder.read_json("wids.json")
    assert index["wids_version"] == 1
    # As `wids.ShardListDataset` resolves and counts them: URLs below the base, samples by key.
    for entry in index["shardlist"]:
        file = Path(probe.folder.url) / entry["url"]
        assert entry["filesize"] == file.stat().st_size
        with tarfile.open(file) as shard_file:
            assert entry["nsamples"] == len({name.split(".")[0] for name in shard_file.getnames()})
    assert sum(entry["nsamples"] for entry in index["shardlist"]) == 60


def test_many_parts_are_few_tasks_and_a_killed_one_goes_on_at_its_part(spec_of: Any, images: Path) -> None:
    for number in range(100):
        (images / f"{number:03d}.png").write_bytes(png(number))
    plan = plan_shards(spec_of(images, images_per_shard=1))
    assert plan.num_parts == 148 and len(plan.work) <= MAX_TASKS
    assert [part for work in plan.work for part in work.parts] == list(plan.missing)
    make_shards.fn(plan.packing, ShardWork(plan.work[0].parts[:2]))
    again = plan_shards(spec_of(images, images_per_shard=1))
    assert again.missing == plan.missing[2:]
    for work in reversed(again.work):
        make_shards.fn(again.packing, work)
    other = spec_of(images, images_per_shard=1, store="memory://many-parts")
    assert finish_probe.fn(again).digest == shard(other).digest
    assert str(plan.work[0]) == "shards 0-2"


def test_a_part_is_of_one_tar(spec_of: Any, tars: Folder, images: Path) -> None:
    same = tars.path("x-0.tar")
    probe = shard(spec_of(same, same, images, same, images_per_shard=30))
    assert probe.num_shards == 5 and probe.num_images == 60
    assert probe.index()["key"].is_unique
    assert len(list(read_images(probe.folder, probe.index()))) == 60


def test_our_own_shards_are_a_source_too(spec_of: Any, images: Path, tmp_path: Path) -> None:
    first = shard(spec_of(images, images_per_shard=20))
    second = shard(spec_of(first.folder.path("*.tar"), store=tmp_path / "second"))
    assert second.index()["sha256"].tolist() == first.index()["sha256"].tolist()
    assert second.index()["key"].tolist() == first.index()["key"].tolist()


def test_tars_in_place_may_lie_in_any_file_system(spec_of: Any) -> None:
    folder = Folder("memory://in-place/tars")
    folder.write("a.tar", tar(("0.png", png(1)), ("1.png", png(2))))
    probe = shard(spec_of("memory://in-place/tars/*.tar", store="memory://in-place/store"))
    assert [data for _, data in read_images(probe.folder, probe.index())] == [png(1), png(2)]


def test_nothing_but_refused_rows_is_an_error_with_reasons(spec_of: Any, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("path\na.png\nb.png\n")
    with pytest.raises(SourceError, match=r"None of the 2 image files .*a\.png: cannot be read: No such file"):
        shard(spec_of(tmp_path / "list.csv"))


def test_a_spec_takes_one_source_or_several() -> None:
    assert ShardSpec(probe="/data/{a,b}.tar").probe == ("/data/{a,b}.tar",)
    assert ShardSpec(probe=["a", "b"]).sources == "a + b"
    with pytest.raises(ValueError, match="at least 1"):
        ShardSpec(probe=[])
