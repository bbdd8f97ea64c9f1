"""What is kept of every shard group's activations beside them: top images and statistics of each neuron.

They are what labelling reads, so that its cost does not depend on the number of images. `G` shard groups, `K` top
images of each, `N` neurons.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import zarr
from torch import Tensor

from storage import arrays
from storage.completion import Rows, groups, rows_per_group, steps
from storage.files import Written
from storage.layout import safe
from tasks.dissection.streaming import Statistics, TopImages
from tasks.parameters import TOP_IMAGES_RECORDED as TOP_IMAGES_RECORDED

#: Shard groups that are read at a time: of a hundred million images there are 6,104, in a hundred times the memory.
GROUPS_AT_A_TIME = 64
#: A shard group has few rows here, so that chunks as narrow as those of activations would be many small ones.
COLUMNS_PER_CHUNK = 512

TOP_VALUES, TOP_ROWS, STATISTICS = "top_values", "top_rows", "statistics"
FIELDS = ("count", "minimum", "maximum", "total")


def create(group: zarr.Group, layer: str, num_images: int, num_neurons: int) -> None:
    """Makes the arrays of a layer, each in the layer's own group: xarray wants one length for axes of one name."""

    def array(name: str, axis: str, length: int, dtype: arrays.DataType, what: str | list[str]) -> None:
        arrays.create_rows(
            group,
            _name(layer, name),
            (len(groups(num_images)), length, num_neurons),
            1,
            ("shard_group", axis, "neuron"),
            {"layer": layer, "holds": what},
            dtype=dtype,
            columns_per_chunk=COLUMNS_PER_CHUNK,
        )

    k = min(TOP_IMAGES_RECORDED, rows_per_group(num_images))
    array(TOP_VALUES, "rank", k, "float32", "largest activations, falling; NaN where a group has fewer images")
    array(TOP_ROWS, "rank", k, "int32", "their images, rows of the probe set; -1 where a group has fewer images")
    array(STATISTICS, "statistic", len(FIELDS), "float64", list(FIELDS))


@dataclass
class Kept:
    """Top images and statistics of a shard group, a block of its rows at a time."""

    top: TopImages | None = None
    statistics: Statistics | None = None

    def add(self, activations: Tensor, first_row: int) -> None:
        """Takes in a block of activations `[rows, N]`, the first of row `first_row` of the probe set."""
        top, of = TopImages.of(activations, TOP_IMAGES_RECORDED, first_row), Statistics.of(activations)
        self.top = self.top.merge(top, k=TOP_IMAGES_RECORDED) if self.top else top
        self.statistics = self.statistics.merge(of) if self.statistics else of


def write(group: zarr.Group, layer: str, num_images: int, rows: Rows, kept: Kept) -> list[Written]:
    """Writes what is kept of one shard group; gives the files."""
    number = rows.start // rows_per_group(num_images)
    at = Rows(number, number + 1)
    top, of = kept.top, kept.statistics
    assert top is not None and of is not None  # a shard group has an image
    _, k, num_neurons = arrays.shape(group, _name(layer, TOP_ROWS))
    absent = k - top.num_images, num_neurons
    values = torch.cat([top.values, torch.full(absent, torch.nan)])  # [K, N]
    top_rows = torch.cat([top.rows, torch.full(absent, -1)])
    statistics = torch.stack([getattr(of, field).double() for field in FIELDS])  # [4, N]
    blocks = {TOP_VALUES: values, TOP_ROWS: top_rows.int(), STATISTICS: statistics}
    files = arrays.metadata(group, *(_name(layer, name) for name in blocks))
    for name, block in blocks.items():
        files += arrays.write_rows(group, _name(layer, name), at, block[None].numpy())
    return files


def read_top_images(group: zarr.Group, layer: str, num_images: int, neurons: slice) -> Iterator[list[TopImages]]:
    """The top images of every shard group in order, of `GROUPS_AT_A_TIME` groups at a time.

    Raises `ArrayError` where they are damaged or lost.
    """
    of = groups(num_images)
    num_whole = num_images // len(of[0])
    for whole, num_rows in ((Rows(0, num_whole), len(of[0])), (Rows(num_whole, len(of)), len(of[-1]))):
        for at in steps(whole, GROUPS_AT_A_TIME):
            part = slice(min(TOP_IMAGES_RECORDED, num_rows)), neurons
            values = arrays.read_finished_rows(group, _name(layer, TOP_VALUES), at, *part)  # [groups, K, n]
            rows = arrays.read_finished_rows(group, _name(layer, TOP_ROWS), at, *part)
            yield list(map(TopImages, torch.from_numpy(values), torch.from_numpy(rows).long()))


def read_statistics(group: zarr.Group, layer: str, num_images: int, neurons: slice) -> Iterator[Statistics]:
    """The statistics of every shard group in order. Raises `ArrayError` where they are damaged or lost."""
    for at in steps(Rows(0, len(groups(num_images))), GROUPS_AT_A_TIME):
        for block in arrays.read_finished_rows(group, _name(layer, STATISTICS), at, slice(None), neurons):  # [4, n]
            count, minimum, maximum, total = torch.from_numpy(block)
            yield Statistics(count.long(), minimum.float(), maximum.float(), total)


def _name(layer: str, array: str) -> str:
    return f"{safe(layer)}/{array}"


def bytes_per_neuron(num_images: int) -> int:
    """What is kept of a neuron and shard group takes at most."""
    return 8 * min(TOP_IMAGES_RECORDED, rows_per_group(num_images)) + 8 * len(FIELDS)
