"""A shard gives back exactly the bytes that went in, or says which shard is damaged."""

from __future__ import annotations

import gc
import hashlib
import io
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import webdataset as wds
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage.errors import ShardError
from storage.files import Folder
from storage.shards import INDEX_COLUMNS, ShardMember, read_images, write_shard
from storage.sources.folder import ImageFolder
from storage.sources.joined import joined

rng = np.random.default_rng(0)
#: Sizes around a tar block, and an empty file.
SIZES = (0, 1, 511, 512, 513, 700, 5, 3000)
MEMBERS = [ShardMember(f"class/{i:03d}", "jpg", rng.bytes(size)) for i, size in enumerate(SIZES)]
LONG = [
    ShardMember("x" * 99, "jpg", b"99"),
    ShardMember("x" * 150, "jpg", b"150"),
    ShardMember("/".join(["folder" * 8] * 10), "jpg", b"deep"),
    ShardMember("Straße/grün 写真 " + "é" * 80, "jpg", b"unicode"),
]


def write(folder: Folder, *shards: list[ShardMember]) -> pd.DataFrame:
    """Shards `000.tar`, `001.tar` …, and the index of them all."""
    rows = []
    for number, members in enumerate(shards):
        written = write_shard(folder, f"{number:03d}.tar", members)
        for member, offset in zip(members, written.offsets, strict=True):
            sha256 = hashlib.sha256(member.data).hexdigest()
            path = f"{member.key}.{member.ending}"
            where = written.name, offset, len(member.data), sha256
            rows.append((len(rows), member.key, "one", path, "", *where, "original", 1, 1))
    return pd.DataFrame(rows, columns=INDEX_COLUMNS)


def test_all_rows_come_back_in_order(folder: Folder) -> None:
    index = write(folder, MEMBERS[:3], MEMBERS[3:4], MEMBERS[4:])
    assert list(read_images(folder, index)) == [(row, member.data) for row, member in enumerate(MEMBERS)]


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50, deadline=None, derandomize=True
)
@given(rows=st.lists(st.integers(0, len(MEMBERS) - 1), unique=True))
def test_any_rows_in_any_order_come_back_as_asked(folder: Folder, rows: list[int]) -> None:
    index = write(folder, MEMBERS[:5], MEMBERS[5:])
    assert list(read_images(folder, index.iloc[rows])) == [(row, MEMBERS[row].data) for row in rows]


def test_the_same_images_give_the_same_bytes(folder: Folder) -> None:
    one, other = write_shard(folder / "a", "x.tar", MEMBERS), write_shard(folder / "b", "x.tar", iter(MEMBERS))
    data = (folder / "a").read("x.tar")
    assert one == other
    assert data == (folder / "b").read("x.tar")
    assert (one.num_bytes, one.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert one.num_images == len(MEMBERS)


def test_plain_tarfile_reads_a_shard(folder: Folder) -> None:
    write_shard(folder, "x.tar", MEMBERS + LONG)
    with tarfile.open(fileobj=io.BytesIO(folder.read("x.tar"))) as tar:
        found = [(info.name, file.read()) for info in tar if (file := tar.extractfile(info))]
        assert {(info.mtime, info.uname, info.gname, info.uid, info.gid) for info in tar} == {(0, "", "", 0, 0)}
    assert found == [(f"{member.key}.{member.ending}", member.data) for member in MEMBERS + LONG]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # webdataset leaves its file open
def test_plain_webdataset_reads_a_shard(disk: Folder) -> None:
    members = [*MEMBERS, *LONG, ShardMember("class/100", "png", b"png")]
    write_shard(disk, "x.tar", members)
    assert read_by_webdataset(disk) == [(member.key, member.data) for member in members]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("path", ["__init__.jpg", "__MACOSX__/a.jpg", "a/__b__/c.jpg", "v1.0/a.b.jpg"])
def test_plain_webdataset_reads_an_image_of_any_path(disk: Folder, path: str) -> None:
    (disk / "images").write(path, b"image")
    (image,) = joined({"one": ImageFolder((disk / "images").url)})
    write_shard(disk, "x.tar", [ShardMember(image.key, image.ending, b"image")])
    assert read_by_webdataset(disk) == [(image.key, b"image")]


def read_by_webdataset(folder: Folder) -> list[tuple[str, bytes]]:
    dataset = wds.WebDataset(folder.path("x.tar"), shardshuffle=False, empty_check=False)
    found = [(sample["__key__"], sample.get("jpg", sample.get("png"))) for sample in dataset]
    del dataset
    gc.collect()
    return found


def test_long_and_unicode_names_come_back_from_any_row(folder: Folder) -> None:
    index = write(folder, LONG)
    for row, member in enumerate(LONG):
        assert list(read_images(folder, index.iloc[[row]])) == [(row, member.data)]


def test_an_empty_shard_is_written_and_read(folder: Folder) -> None:
    index = write(folder, [], MEMBERS[:1])
    assert [row for row, _ in read_images(folder, index)] == [0]
    assert not list(read_images(folder, index.iloc[:0]))


def test_a_failing_member_leaves_no_shard(folder: Folder) -> None:
    def members():  # type: ignore[no-untyped-def]
        yield MEMBERS[0]
        raise RuntimeError("the source went away")

    with pytest.raises(RuntimeError, match="went away"):
        write_shard(folder, "x.tar", members())
    assert folder.names() == []


def test_a_missing_shard_is_named_with_the_way_out(folder: Folder) -> None:
    index = write(folder, MEMBERS)
    (folder / "000.tar").remove()
    with pytest.raises(ShardError, match=r"000\.tar.*is not there.*run again"):
        list(read_images(folder, index))


@pytest.mark.parametrize("kept", range(1, len(MEMBERS)))
def test_a_shard_cut_where_a_member_ends_is_damaged(folder: Folder, kept: int) -> None:
    # tarfile takes such a file for a whole archive.
    index = write(folder, MEMBERS)
    folder.write("000.tar", folder.read("000.tar")[: index["offset"][kept]])
    reading = read_images(folder, index)
    with pytest.raises(ShardError, match=rf"000\.tar.*{MEMBERS[kept].key}"):
        for row, data in reading:
            assert data == MEMBERS[row].data


def gives_the_right_bytes_or_says_what_is_damaged(folder: Folder, index: pd.DataFrame) -> None:
    try:
        for row, data in read_images(folder, index):
            assert data == MEMBERS[row].data
    except ShardError as error:
        assert "000.tar" in str(error)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None, derandomize=True
)
@given(length=st.integers(0, 9_000), first=st.integers(0, len(MEMBERS) - 1))
def test_a_shard_cut_anywhere_gives_the_right_bytes_or_is_damaged(disk: Folder, length: int, first: int) -> None:
    index = write(disk, MEMBERS)
    disk.write("000.tar", disk.read("000.tar")[:length])
    gives_the_right_bytes_or_says_what_is_damaged(disk, index.iloc[first:])


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None, derandomize=True
)
@given(position=st.integers(0, 9_000), bit=st.integers(0, 7), first=st.integers(0, len(MEMBERS) - 1))
def test_a_flipped_bit_anywhere_gives_the_right_bytes_or_is_damaged(
    disk: Folder, position: int, bit: int, first: int
) -> None:
    index = write(disk, MEMBERS)
    data = bytearray(disk.read("000.tar"))
    data[position % len(data)] ^= 1 << bit
    disk.write("000.tar", bytes(data))
    gives_the_right_bytes_or_says_what_is_damaged(disk, index.iloc[first:])


def test_a_flipped_bit_of_an_image_is_damage(folder: Folder) -> None:
    index = write(folder, MEMBERS)
    data = bytearray(folder.read("000.tar"))
    data[index["offset"][3] + 512] ^= 1  # a member's data follows its header of 512 bytes
    folder.write("000.tar", bytes(data))
    with pytest.raises(ShardError, match=r"000\.tar.*class/003"):
        list(read_images(folder, index))


def test_a_file_that_is_no_tar_is_damage(disk: Folder) -> None:
    index = write(disk, MEMBERS)
    Path(disk.path("000.tar")).write_bytes(b"<html>not found</html>" * 100)
    with pytest.raises(ShardError, match=r"000\.tar"):
        list(read_images(disk, index))
