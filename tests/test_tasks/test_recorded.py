"""What is read of a recording: that of the whole array, whatever the groups, and never what was lost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray
import zarr
from torch import Tensor

from storage import arrays
from storage.completion import groups, rows_per_shard, steps
from storage.errors import ArrayError
from storage.files import Folder
from storage.layer_arrays import array_name
from storage.layout import Store, safe
from tasks import recorded, summaries
from tasks.dissection.layouts import Axes, Layout
from tasks.dissection.streaming import Statistics, TopImages
from tasks.observation import EMBEDDINGS, ActivationsRef, EmbeddingsRef

#: A layer whose name is no file name.
LAYER = "blocks.0/a b"


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups of 12 images or twice as many, of which 5 are kept; chunks of 3 neurons; 2 groups read at a time."""
    monkeypatch.setattr("storage.completion.ROWS_UNIT", 12)
    monkeypatch.setattr("storage.completion.MAX_TASKS", 4)
    monkeypatch.setattr(summaries, "TOP_IMAGES_RECORDED", 5)
    monkeypatch.setattr(summaries, "COLUMNS_PER_CHUNK", 3)
    monkeypatch.setattr(summaries, "GROUPS_AT_A_TIME", 2)


def drawn(num_images: int, num_neurons: int = 7) -> Tensor:
    """Activations with many ties, a dead neuron, and some that are ignored."""
    generator = torch.Generator().manual_seed(num_images)
    A = torch.randint(-3, 4, (num_images, num_neurons), generator=generator).float() / 2
    A[torch.rand(A.shape, generator=generator) < 0.1] = -torch.inf
    A[:, 0] = 1.0
    return A


def record(folder: Path, A: Tensor) -> ActivationsRef:
    """Writes activations as a recording does."""
    num_images, num_neurons = A.shape
    ref = ActivationsRef(
        Store.at(str(folder / "store")),
        "d",
        {"a": "b"},
        "mean",
        "float32",
        {LAYER: Layout(Axes.VECTOR)},
        {LAYER: num_neurons},
    )
    group = arrays.open_group(ref.store.activations(ref.digest), ref.identity)
    kept = arrays.open_group(ref.store.summaries(ref.digest), ref.identity)
    name = array_name(group, LAYER)
    arrays.create_rows(group, name, tuple(A.shape), rows_per_shard(num_images, num_neurons), ("image", "neuron"), {})
    summaries.create(kept, LAYER, num_images, num_neurons)
    for rows in groups(num_images):
        arrays.write_rows(group, name, rows, A[rows.start : rows.stop].numpy())
        of_group = summaries.Kept()
        for part in steps(rows, 3):
            of_group.add(A[part.start : part.stop], part.start)
        summaries.write(kept, LAYER, num_images, rows, of_group)
    return ref


def same(one: TopImages, other: TopImages) -> bool:
    return torch.equal(one.values, other.values) and torch.equal(one.rows, other.rows)


@pytest.mark.parametrize("num_images", [1, 3, 8, 9, 15, 16, 32, 33, 77])
def test_top_images_are_those_of_all_activations(tmp_path: Path, num_images: int) -> None:
    A = drawn(num_images)
    ref = record(tmp_path, A)
    for k in (1, 4, 5, 6, 12, 100):  # as many as were recorded, and more
        assert same(recorded.top_images(ref, num_images, LAYER, k), TopImages.of(A, k))
        part = recorded.top_images(ref, num_images, LAYER, k, slice(1, 6))
        assert same(part, TopImages.of(A[:, 1:6].contiguous(), k))


@pytest.mark.parametrize("num_images", [1, 8, 9, 77])
def test_statistics_are_those_of_all_activations(tmp_path: Path, num_images: int) -> None:
    A = drawn(num_images)
    ref = record(tmp_path, A)
    for neurons in (slice(None), slice(2, 6)):
        found, expected = recorded.statistics(ref, num_images, LAYER, neurons), Statistics.of(A[:, neurons])
        for name in summaries.FIELDS:
            assert torch.equal(getattr(found, name), getattr(expected, name))
            assert getattr(found, name).dtype == getattr(expected, name).dtype


def test_activations_come_a_group_at_a_time(tmp_path: Path) -> None:
    A = drawn(77)
    ref = record(tmp_path, A)
    for neurons in (slice(None), slice(2, 6)):
        blocks = list(recorded.activations(ref, 77, LAYER, neurons))
        assert [rows for rows, _ in blocks] == groups(77)
        assert torch.equal(torch.cat([block for _, block in blocks]), A[:, neurons])


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[tuple[EmbeddingsRef, Tensor]]:
    """77 embeddings of 3 dimensions."""
    E = torch.arange(231.0).reshape(77, 3)
    ref = EmbeddingsRef(Store.at(str(tmp_path / "store")), "e", {"a": "b"}, 3)
    group = arrays.open_group(ref.store.embeddings("e"), ref.identity)
    arrays.create_rows(group, EMBEDDINGS, (77, 3), rows_per_shard(77, 3), ("image", "embedding"), {})
    for rows in groups(77):
        arrays.write_rows(group, EMBEDDINGS, rows, E[rows.start : rows.stop].numpy())
    yield ref, E


def test_only_the_wanted_embeddings_come_and_groups_without_are_not_read(
    embedded: tuple[EmbeddingsRef, Tensor],
) -> None:
    ref, E = embedded
    assert torch.equal(torch.cat(list(recorded.embeddings(ref, 77))), E)
    wanted = torch.tensor([0, 23, 24, 25, 76])
    (Folder.at(ref.store.embeddings("e")) / EMBEDDINGS / "c" / "2").remove()
    found = list(recorded.embeddings(ref, 77, wanted))
    assert [len(block) for block in found] == [2, 2, 1]
    assert torch.equal(torch.cat(found), E[wanted])
    with pytest.raises(ArrayError, match="embeddings"):
        list(recorded.embeddings(ref, 77))


@pytest.mark.parametrize("step", [1, 2, 5, 20])
def test_some_images_are_read_as_a_recording_of_them_alone(
    tmp_path: Path, embedded: tuple[EmbeddingsRef, Tensor], step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.recorded.NEURONS_READ", 4)
    A, rows = drawn(77), torch.arange(step - 1, 77, step)
    num, alone = len(rows), record(tmp_path / "alone", A[rows])
    of = replace(record(tmp_path / "all", A), rows=rows)
    for k in (5, 12):
        found, statistics = recorded.top_and_statistics(of, num, LAYER, k)
        assert same(found, recorded.top_images(alone, num, LAYER, k))
        assert same(found, recorded.top_images(of, num, LAYER, k))
        for all_of in (statistics, recorded.statistics(of, num, LAYER)):
            for name in summaries.FIELDS:
                assert torch.equal(getattr(all_of, name), getattr(Statistics.of(A[rows]), name))
    blocks = zip(recorded.activations(of, num, LAYER), recorded.activations(alone, num, LAYER), strict=True)
    assert all(one == other and torch.equal(block, expected) for (one, block), (other, expected) in blocks)
    ref, E = embedded
    some = replace(ref, rows=rows)
    assert [len(block) for block in recorded.embeddings(some, num)] == [len(group) for group in groups(num)]
    assert torch.equal(torch.cat(list(recorded.embeddings(some, num))), E[rows])
    wanted = torch.arange(0, num, 3)
    parts = list(recorded.embeddings(some, num, wanted))
    assert torch.equal(torch.cat(parts), E[rows[wanted]])
    assert [len(part) for part in parts] == [
        size for group in groups(num) if (size := sum(group.start <= row < group.stop for row in wanted.tolist()))
    ]


@pytest.mark.parametrize("damage", ["lost", "flipped"])
@pytest.mark.parametrize("number", [0, 3])  # a whole group, and the last one, which has fewer images than are kept
@pytest.mark.parametrize("name", [summaries.TOP_VALUES, summaries.TOP_ROWS, summaries.STATISTICS])
def test_damaged_summaries_are_never_read_as_values(tmp_path: Path, name: str, number: int, damage: str) -> None:
    ref = record(tmp_path, drawn(75))
    folder = Path(ref.store.summaries(ref.digest)) / "blocks.0%2Fa%20b" / name / "c" / str(number)
    [file] = [path for path in folder.rglob("*") if path.is_file()]
    if damage == "lost":
        file.unlink()
    else:
        data = bytearray(file.read_bytes())
        data[len(data) // 4] ^= 1
        file.write_bytes(data)
    read = recorded.statistics if name == summaries.STATISTICS else lambda *of: recorded.top_images(*of, 5)
    with pytest.raises(ArrayError, match=rf"{name}.*(not there any more|cannot be read)"):
        read(ref, 75, LAYER)


def test_lost_activations_are_never_read_as_values(tmp_path: Path) -> None:
    ref = record(tmp_path, drawn(75))
    (Folder.at(ref.store.activations(ref.digest)) / safe(LAYER) / "c" / "1").remove()
    with pytest.raises(ArrayError, match="24 of 24 rows"):
        recorded.top_images(ref, 75, LAYER, 6)


def test_a_shard_group_is_one_object_of_each_array(tmp_path: Path) -> None:
    ref = record(tmp_path, drawn(75))
    files = Path(ref.store.summaries(ref.digest)).rglob("c/**/*")
    assert sum(path.is_file() for path in files) == 3 * len(groups(75))


def test_plain_zarr_and_xarray_open_the_summaries_of_a_layer(tmp_path: Path) -> None:
    A = drawn(75)
    ref = record(tmp_path, A)
    url = ref.store.summaries(ref.digest)
    of_layer = zarr.open_group(url, mode="r")["blocks.0%2Fa%20b"]
    assert isinstance(of_layer, zarr.Group)
    assert sorted(of_layer.array_keys()) == sorted([summaries.TOP_VALUES, summaries.TOP_ROWS, summaries.STATISTICS])
    with xarray.open_zarr(url, group="blocks.0%2Fa%20b", consolidated=False) as dataset:
        assert dict(dataset.sizes) == {"shard_group": 4, "rank": 5, "neuron": 7, "statistic": 4}
        assert dataset["top_rows"].dtype == np.int32
        assert dataset["top_rows"][3].to_numpy().T.tolist() == [
            [*column, -1, -1] for column in TopImages.of(A[72:], 5, 72).rows.T.tolist()
        ]
        assert dataset["top_values"][3, 3:].isnull().all()
        assert dataset["statistics"].attrs["holds"] == ["count", "minimum", "maximum", "total"]
        assert dataset["statistics"][0, 0].to_numpy().tolist() == A[:24].isfinite().sum(0).tolist()
