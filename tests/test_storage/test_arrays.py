"""Rows of arrays: whole shards only, nothing lost between writers, nothing read that was not written."""

from __future__ import annotations

import errno
import uuid
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage import arrays
from storage.arrays import COLUMNS_PER_CHUNK
from storage.completion import ROWS_UNIT, Rows, groups
from storage.errors import ArrayError, IdentityError, RegionError, StorageError
from storage.files import Folder

IDENTITY = {"probe": "ab", "weights": "cd"}
NUM_IMAGES = 2 * ROWS_UNIT + 88
#: Less than a chunk, and more than one.
WIDTHS = (3, COLUMNS_PER_CHUNK + 2)
AXES = ("image", "neuron")


def block(rows: Rows, num_columns: int) -> arrays.Floats:
    """Values that tell their own row and column."""
    i, n = np.meshgrid(np.arange(rows.start, rows.stop), np.arange(num_columns), indexing="ij")
    return (i * 1000 + n).astype(np.float32)


def make(url: str, num_columns: int = 3) -> zarr.Group:
    group = arrays.open_group(url, IDENTITY)
    arrays.create_rows(group, "conv1", (NUM_IMAGES, num_columns), ROWS_UNIT, AXES, {"layer": "conv1"})
    return group


def write_group(url: str, rows: Rows, num_columns: int) -> None:
    """What one worker does."""
    arrays.write_rows(arrays.open_group(url, IDENTITY), "conv1", rows, block(rows, num_columns))


def write_all(url: str, num_columns: int) -> None:
    for rows in groups(NUM_IMAGES):
        write_group(url, rows, num_columns)


@pytest.mark.parametrize("num_columns", WIDTHS)
def test_what_is_written_in_groups_is_read_as_one(folder: Folder, num_columns: int) -> None:
    group = make(folder.url, num_columns)
    write_all(folder.url, num_columns)
    everything = Rows(0, NUM_IMAGES)
    assert arrays.shape(group, "conv1") == (NUM_IMAGES, num_columns)
    assert np.array_equal(arrays.read_rows(group, "conv1", everything), block(everything, num_columns))
    some = Rows(ROWS_UNIT - 3, ROWS_UNIT + 4)
    assert np.array_equal(arrays.read_rows(group, "conv1", some), block(some, num_columns))


def test_rows_that_nobody_wrote_are_nan(folder: Folder) -> None:
    group, second = make(folder.url), groups(NUM_IMAGES)[1]
    write_group(folder.url, second, 3)
    found = arrays.read_rows(group, "conv1", Rows(0, NUM_IMAGES))
    written = np.zeros(NUM_IMAGES, dtype=bool)
    written[second.start : second.stop] = True
    assert np.array_equal(np.isnan(found).all(1), ~written)
    assert not np.isnan(found[written]).any()


def test_a_group_of_another_identity_is_refused_and_kept(folder: Folder) -> None:
    group = make(folder.url)
    write_all(folder.url, 3)
    with pytest.raises(IdentityError, match="weights: stored 'cd', wanted 'ef'") as caught:
        arrays.open_group(folder.url, {**IDENTITY, "weights": "ef"})
    assert folder.url in str(caught.value)
    assert not np.isnan(arrays.read_rows(group, "conv1", Rows(0, NUM_IMAGES))).any()


def test_making_an_array_again_keeps_its_rows(folder: Folder) -> None:
    make(folder.url)
    write_all(folder.url, 3)
    again = make(folder.url)
    assert not np.isnan(arrays.read_rows(again, "conv1", Rows(0, NUM_IMAGES))).any()


@pytest.mark.parametrize(
    ("rows", "width"),
    [
        (Rows(1, ROWS_UNIT + 1), 3),
        (Rows(0, ROWS_UNIT - 1), 3),
        (Rows(0, ROWS_UNIT + 1), 3),
        (Rows(ROWS_UNIT // 2, ROWS_UNIT), 3),
        (Rows(2 * ROWS_UNIT, NUM_IMAGES - 1), 3),
        (Rows(2 * ROWS_UNIT, 3 * ROWS_UNIT), 3),
        (Rows(0, ROWS_UNIT), 2),
    ],
    ids=str,
)
def test_a_region_that_covers_no_whole_shards_is_refused(disk: Folder, rows: Rows, width: int) -> None:
    group = make(disk.url)
    with pytest.raises(RegionError, match=f"for {rows.start} to {rows.stop} .*shards of {ROWS_UNIT} x 3"):
        arrays.write_rows(group, "conv1", rows, block(rows, width))
    assert np.isnan(arrays.read_rows(group, "conv1", Rows(0, NUM_IMAGES))).all()


def test_a_block_of_other_rows_than_said_is_refused(disk: Folder) -> None:
    with pytest.raises(RegionError):
        arrays.write_rows(make(disk.url), "conv1", Rows(0, ROWS_UNIT), block(Rows(0, 1), 3))


@pytest.mark.parametrize(
    ("shape", "side"),
    [((300, 200), (300, 64)), ((300, 200), (128, 200)), ((5, 3), (5, 3)), ((2500, 70), (2500, 64)), ((1, 1), (1, 1))],
    ids=str,
)
def test_blocks_of_an_array_are_shards_of_their_own(
    disk: Folder, shape: tuple[int, int], side: tuple[int, int]
) -> None:
    group = arrays.open_group(disk.url, IDENTITY)
    arrays.create_blocks(group, "conv1", shape, side, (128, 64), AXES, {})
    values = np.arange(shape[0] * shape[1], dtype=np.float32).reshape(shape)
    blocks = [
        (Rows(n, min(n + side[0], shape[0])), Rows(c, min(c + side[1], shape[1])))
        for n in range(0, shape[0], side[0])
        for c in range(0, shape[1], side[1])
    ]
    for number, (neurons, concepts) in enumerate(blocks, start=1):
        part = values[neurons.start : neurons.stop, concepts.start : concepts.stop]
        arrays.write_region(group, "conv1", (neurons, concepts), part)
        assert len([path for path in Path(disk.url, "conv1", "c").rglob("*") if path.is_file()]) == number
    assert np.array_equal(arrays.read_rows(group, "conv1", Rows(0, shape[0])), values)


def test_a_part_of_a_block_is_refused(disk: Folder) -> None:
    group = arrays.open_group(disk.url, IDENTITY)
    arrays.create_blocks(group, "conv1", (300, 200), (300, 64), (128, 64), AXES, {})
    with pytest.raises(RegionError, match=r"0 to 300 x 0 to 63 .*shards of 300 x 64"):
        arrays.write_region(group, "conv1", (Rows(0, 300), Rows(0, 63)), np.zeros((300, 63), np.float32))


def threads() -> Executor:
    return ThreadPoolExecutor(3)


def processes() -> Executor:
    return ProcessPoolExecutor(2, mp_context=get_context("spawn"))


@pytest.mark.parametrize("workers", [threads, processes])
def test_writers_of_neighbouring_groups_lose_nothing(disk: Folder, workers: Any) -> None:
    with workers() as pool:
        work = [pool.submit(make_and_write, disk.url, rows) for rows in groups(NUM_IMAGES)]
        for future in work:
            future.result()
    everything = Rows(0, NUM_IMAGES)
    assert np.array_equal(arrays.read_rows(make(disk.url), "conv1", everything), block(everything, 3))


def make_and_write(url: str, rows: Rows) -> None:
    """Also makes the array: whoever comes first does."""
    make(url)
    write_group(url, rows, 3)


def test_plain_zarr_opens_an_array_with_names_and_attributes(folder: Folder) -> None:
    make(folder.url)
    write_all(folder.url, 3)
    group = zarr.open_group(folder.url, mode="r")
    array = group["conv1"]
    assert isinstance(array, zarr.Array)
    assert group.attrs["identity"] == IDENTITY
    assert array.metadata.dimension_names == AXES  # type: ignore[union-attr]
    assert array.attrs["layer"] == "conv1"
    assert np.array_equal(array[:], block(Rows(0, NUM_IMAGES), 3))


def test_plain_xarray_opens_a_group_with_named_axes(folder: Folder) -> None:
    make(folder.url)
    write_all(folder.url, 3)
    with xarray.open_zarr(folder.url, consolidated=False) as dataset:
        assert dict(dataset["conv1"].sizes) == {"image": NUM_IMAGES, "neuron": 3}
        assert np.array_equal(dataset["conv1"].to_numpy(), block(Rows(0, NUM_IMAGES), 3))


def test_a_task_writes_one_object(disk: Folder) -> None:
    num_columns = 2 * COLUMNS_PER_CHUNK + 1
    make(disk.url, num_columns)
    before = set(Path(disk.url).rglob("*"))
    write_group(disk.url, groups(NUM_IMAGES)[0], num_columns)
    assert sum(path.is_file() for path in set(Path(disk.url).rglob("*")) - before) == 1


def data_file(folder: Folder) -> Path:
    """The file of the first shard."""
    return Path(folder.url) / "conv1" / "c" / "0" / "0"


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None, derandomize=True
)
@given(position=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_is_never_read_as_a_value(disk: Folder, position: float, bit: int) -> None:
    folder, rows = disk / uuid.uuid4().hex, groups(NUM_IMAGES)[0]
    group = make(folder.url)
    write_group(folder.url, rows, 3)
    data = bytearray(data_file(folder).read_bytes())
    data[int(position * len(data))] ^= 1 << bit
    data_file(folder).write_bytes(data)
    try:
        found = arrays.read_rows(group, "conv1", rows)
    except Exception:
        return
    assert np.array_equal(found, block(rows, 3))


def test_damaged_rows_can_be_written_anew(disk: Folder) -> None:
    # As after a power cut: the shard is torn, its marker absent, and the rerun writes it again.
    group, rows = make(disk.url), groups(NUM_IMAGES)[0]
    write_group(disk.url, rows, 3)
    data_file(disk).write_bytes(data_file(disk).read_bytes()[:-10])
    write_group(disk.url, rows, 3)
    assert np.array_equal(arrays.read_rows(group, "conv1", rows), block(rows, 3))


def test_a_group_that_was_not_made_when_a_process_was_killed_is_made_by_the_next(disk: Folder) -> None:
    shape, name = (NUM_IMAGES, 3), "conv1/values"
    group = arrays.open_group(disk.url, IDENTITY)
    arrays.create_rows(group, name, shape, ROWS_UNIT, AXES, {})
    made = {path: path.read_bytes() for path in Path(disk.url).rglob("zarr.json")}
    (Path(disk.url) / "conv1" / "zarr.json").unlink()
    arrays.create_rows(group, name, shape, ROWS_UNIT, AXES, {})
    assert {path: path.read_bytes() for path in Path(disk.url).rglob("zarr.json")} == made
    assert [member for member, _ in group.members(max_depth=None)] == ["conv1", name]


@pytest.mark.parametrize("damage", ["a flipped bit", "a torn end"])
def test_a_damaged_array_is_named_with_the_way_out(disk: Folder, damage: str) -> None:
    group, rows = make(disk.url), groups(NUM_IMAGES)[0]
    write_group(disk.url, rows, 3)
    data = bytearray(data_file(disk).read_bytes())
    if damage == "a flipped bit":
        data[len(data) // 2] ^= 1
    else:
        del data[-10:]
    data_file(disk).write_bytes(data)
    with pytest.raises(StorageError, match="conv1") as caught:
        arrays.read_rows(group, "conv1", rows)
    assert disk.url in str(caught.value)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32"])
def test_rows_of_more_axes_are_read_in_part_and_absent_ones_are_refused(folder: Folder, dtype: Any) -> None:
    group = arrays.open_group(folder.url, IDENTITY)
    for _ in range(2):
        arrays.create_rows(
            group, "a/b", (3, 4, 5), 1, ("shard_group", "rank", "neuron"), {}, dtype=dtype, columns_per_chunk=2
        )
    written = np.arange(40, dtype=dtype).reshape(2, 4, 5)
    arrays.write_rows(group, "a/b", Rows(0, 1), written[:1])
    arrays.write_rows(group, "a/b", Rows(2, 3), written[1:])
    part = arrays.read_finished_rows(group, "a/b", Rows(2, 3), slice(3), slice(1, 4))
    assert part.dtype == dtype
    assert np.array_equal(part, written[1:, :3, 1:4])
    with pytest.raises(ArrayError, match=r"'a/b'.* 1 of 3 rows"):
        arrays.read_finished_rows(group, "a/b", Rows(0, 3))
    with pytest.raises(RegionError):
        arrays.write_rows(group, "a/b", Rows(1, 2), written[:1, :3])


def test_a_full_disk_is_said_with_the_way_out(disk: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    group = make(disk.url)

    def full(*args: object, **more: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(zarr.Array, "__setitem__", full)
    with pytest.raises(OSError, match=r"No space left to write.*--store") as caught:
        write_group(disk.url, groups(NUM_IMAGES)[0], 3)
    assert caught.value.errno == errno.ENOSPC
    assert arrays.shape(group, "conv1") == (NUM_IMAGES, 3)
