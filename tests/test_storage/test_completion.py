"""Shard groups cover the rows once; markers say what is done."""

from __future__ import annotations

import os
import re
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.completion import (
    MAX_ROWS,
    MAX_SHARD_BYTES,
    MAX_TASKS,
    ROWS_UNIT,
    Completion,
    Rows,
    groups,
    in_tasks,
    rows_per_group,
    rows_per_shard,
)
from storage.files import Folder

some_images = st.integers(1, 3_000_000)


@given(some_images)
def test_groups_cover_every_row_once_in_order(num_images: int) -> None:
    found = groups(num_images)
    assert found[0].start == 0
    assert found[-1].stop == num_images
    assert all(before.stop == after.start for before, after in pairwise(found))
    assert all(len(rows) > 0 for rows in found)


@given(some_images)
def test_groups_are_aligned_and_of_bounded_number(num_images: int) -> None:
    found, step = groups(num_images), rows_per_group(num_images)
    assert len(found) <= MAX_TASKS or step == MAX_ROWS
    assert step % ROWS_UNIT == 0 and step <= MAX_ROWS
    assert all(len(rows) == step for rows in found[:-1])


@given(some_images, st.integers(1, 1_000_000))
def test_a_zarr_shard_is_a_part_of_a_group_that_a_task_can_hold(num_images: int, columns: int) -> None:
    rows = rows_per_shard(num_images, columns)
    assert rows_per_group(num_images) % rows == 0
    assert 4 * rows * columns <= MAX_SHARD_BYTES
    if rows < rows_per_group(num_images):
        assert 8 * rows * columns > MAX_SHARD_BYTES


@given(st.integers(0, 100_000))
def test_tasks_share_all_items_in_order(num_items: int) -> None:
    found = in_tasks(range(num_items))
    assert [item for share in found for item in share] == list(range(num_items))
    assert len(found) <= MAX_TASKS
    assert all(found)


@given(some_images)
def test_names_of_markers_sort_like_their_rows(num_images: int) -> None:
    found = groups(num_images)
    assert sorted(rows.name for rows in found) == [rows.name for rows in found]


def test_no_image_makes_no_group() -> None:
    assert groups(0) == []


def test_rows_are_shown_as_people_count_them() -> None:
    assert str(Rows(256, 512)) == "images 256-511"


def test_what_is_marked_is_done_and_gives_its_facts(folder: Folder) -> None:
    completion = Completion(folder)
    assert completion.done() == frozenset()
    completion.mark("a", {"seconds": 1.5})
    completion.mark("b.c", {})
    assert completion.done() == {"a", "b.c"}
    assert completion.facts("a") == {"seconds": 1.5}
    with pytest.raises(FileNotFoundError):
        completion.facts("d")


def test_data_beside_the_markers_is_no_marker(folder: Folder) -> None:
    folder.write("labels.parquet", b"")
    (folder / "conv1").write("x.json", b"{}")
    assert Completion(folder).done() == frozenset()


def test_data_and_their_names_are_on_the_disk_before_a_marker_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    fsync = os.fsync

    def listening(file: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{file}").readlink()))
        fsync(file)

    folder = Folder.at(str(tmp_path))
    data = (folder / "arrays").write("shard", b"data")
    monkeypatch.setattr(os, "fsync", listening)
    Completion(folder / "done").mark("0", {}, [data])
    assert synced[:2] == [str(tmp_path / "arrays" / "shard"), str(tmp_path / "arrays")]
    assert re.fullmatch(r".*/done/\.0\.json\..*\.partial", synced[2])
