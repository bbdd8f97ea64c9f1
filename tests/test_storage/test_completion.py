"""Shard groups cover the rows once; markers say what is done."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.completion import MAX_GROUPS, ROWS_UNIT, Completion, Rows, groups, rows_per_group
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
    assert len(found) <= MAX_GROUPS
    assert step % ROWS_UNIT == 0
    assert all(len(rows) == step for rows in found[:-1])


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
