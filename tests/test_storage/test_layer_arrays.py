"""Arrays of layers with names of all kinds: each has its own, and says whose it is."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage import arrays
from storage.completion import Rows
from storage.layer_arrays import array_name
from storage.layout import safe

AXES = "image", "neuron"
#: One in another, names that Zarr would write alike or not at all, and more bytes than file systems take.
NAMES = (
    *("conv", "conv/1", "conv/1/relu", "conv//1", "/conv/1", "conv\\1", "conv/1/", "conv%2F1", "zarr.json"),
    *("c", "c/0", "c/0/0", "__", "..", ".", " ", "a?b#c:d", "sae[1]", "sae[codes]", "größe", "x" * 260, "x" * 261),
)
_numbers = count()


def add(group: zarr.Group, layer: str, value: float, name: str | None = None) -> None:
    name = array_name(group, layer) if name is None else name
    arrays.create_rows(group, name, (2, 1), 2, AXES, {"layer": layer})
    arrays.write_rows(group, name, Rows(0, 2), np.full((2, 1), value, np.float32))


def read(group: zarr.Group, layer: str) -> tuple[str, float]:
    name = array_name(group, layer)
    found = group[name]
    assert isinstance(found, zarr.Array)
    return str(found.attrs["layer"]), float(arrays.read_finished_rows(group, name, Rows(0, 2))[0, 0])


def group_at(folder: Path) -> zarr.Group:
    return arrays.open_group(str(folder / "x.zarr"), {"a": "b"})


def test_every_layer_has_an_array_of_its_own(tmp_path: Path) -> None:
    group = group_at(tmp_path)
    for number, layer in enumerate(NAMES):
        add(group, layer, number)
    again = group_at(tmp_path)
    assert [read(again, layer) for layer in NAMES] == [(layer, number) for number, layer in enumerate(NAMES)]
    # Right below the group, as every reader of Zarr finds them.
    assert {found.attrs["layer"] for _, found in zarr.open_group(str(tmp_path / "x.zarr"), mode="r").arrays()} == {
        *NAMES
    }


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=st.lists(st.text(st.sampled_from("a/.\\c%[0]:"), min_size=1, max_size=6), min_size=2, unique=True))
def test_whatever_layers_there_are_each_is_read_back(names: list[str], tmp_path: Path) -> None:
    group = group_at(tmp_path / str(next(_numbers)))
    for number, layer in enumerate(names):
        add(group, layer, number)
    assert [read(group, layer) for layer in names] == [(layer, number) for number, layer in enumerate(names)]


@pytest.mark.parametrize("layer", ["conv/1", "a b", "größe", "block:0"])
def test_the_array_that_an_older_version_has_made_is_the_layers(layer: str, tmp_path: Path) -> None:
    group = group_at(tmp_path)
    add(group, layer, 7, name=layer)
    assert array_name(group, layer) == layer
    assert read(group, layer) == (layer, 7)


def test_an_array_of_another_layer_is_not_taken_for_one_of_an_older_version(tmp_path: Path) -> None:
    group = group_at(tmp_path)
    add(group, "conv/1", 1, name="conv/1")
    add(group, "conv//1", 2)
    add(group, "conv/1/relu", 3)
    assert [read(group, layer) for layer in ("conv/1", "conv//1", "conv/1/relu")] == [
        ("conv/1", 1),
        ("conv//1", 2),
        ("conv/1/relu", 3),
    ]


def test_a_plain_name_is_the_arrays_and_nothing_is_looked_up(tmp_path: Path) -> None:
    group = group_at(tmp_path)
    (tmp_path / "x.zarr").rename(tmp_path / "gone")
    assert array_name(group, "layer1.0.Conv-2_a~") == safe("layer1.0.Conv-2_a~") == "layer1.0.Conv-2_a~"
