"""What other tasks read of a recording, in bounded memory: a shard group or a block of neurons at a time.

A reference that looks at some images alone (`rows`) is read as a recording of these would be: `num_images` is their
number, images are numbered among them, and they come in the shard groups that so many images have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial, reduce

import torch
import zarr
from torch import Tensor

from storage import arrays
from storage.completion import Rows, groups, steps
from storage.layer_arrays import array_name
from tasks import summaries
from tasks.dissection.streaming import Statistics, TopImages
from tasks.observation import EMBEDDINGS, ActivationsRef, EmbeddingsRef

ALL = slice(None)
#: Neurons whose recorded top images are merged at a time, and whose activations are read: 64 MiB of a shard group.
NEURONS_MERGED, NEURONS_READ = 4_096, 1_024


def top_and_statistics(ref: ActivationsRef, num_images: int, layer: str, k: int) -> tuple[TopImages, Statistics]:
    """Top `min(k, num_images)` images of a layer's neurons, and statistics over all images.

    Both are worked out anew where not all images are looked at. Raises `ArrayError` where what was recorded is
    damaged.
    """
    neurons = Rows(0, ref.num_neurons[layer])
    if ref.rows is None:
        parts = (top_images(ref, num_images, layer, k, _slice(some)) for some in steps(neurons, NEURONS_MERGED))
        return reduce(TopImages.beside, parts), statistics(ref, num_images, layer)
    tops, of_parts = zip(
        *(_of_activations(ref, num_images, layer, k, _slice(some)) for some in steps(neurons, NEURONS_READ)),
        strict=True,
    )
    return reduce(TopImages.beside, tops), reduce(Statistics.beside, of_parts)


def top_images(ref: ActivationsRef, num_images: int, layer: str, k: int, neurons: slice = ALL) -> TopImages:
    """Top `min(k, num_images)` images of a layer's neurons.

    Up to `TOP_IMAGES_RECORDED` of them were recorded; for more, all activations are read. Raises `ArrayError` where
    what was recorded is damaged.
    """
    if ref.rows is not None or k > summaries.TOP_IMAGES_RECORDED:
        return _of_activations(ref, num_images, layer, k, neurons)[0]
    group = ref.summaries()
    first, last, _ = neurons.indices(ref.num_neurons[layer])
    blocks = []
    for start in range(first, last, summaries.COLUMNS_PER_CHUNK):
        block = slice(start, min(start + summaries.COLUMNS_PER_CHUNK, last))
        top: TopImages | None = None
        for some in summaries.read_top_images(group, layer, num_images, block):
            first_of, *others = [top, *some] if top else some
            top = first_of.merge(*others, k=k)
        assert top is not None  # a probe set has an image
        blocks.append(top)
    return TopImages(torch.cat([top.values for top in blocks], 1), torch.cat([top.rows for top in blocks], 1))


def _of_activations(
    ref: ActivationsRef, num_images: int, layer: str, k: int, neurons: slice
) -> tuple[TopImages, Statistics]:
    """As many shard groups as have `k` images are sorted together: merging costs as much as `k` images do."""
    tops: TopImages | None = None
    found: Statistics | None = None
    waiting: list[Tensor] = []
    first_row = 0
    for rows, block in activations(ref, num_images, layer, neurons):
        of_block = Statistics.of(block)
        found = of_block if found is None else found.merge(of_block)
        waiting.append(block)
        if rows.stop - first_row >= k or rows.stop == num_images:
            top = TopImages.of(torch.cat(waiting), k, first_row)
            tops = top if tops is None else tops.merge(top, k=k)
            waiting, first_row = [], rows.stop
    assert tops is not None and found is not None  # a probe set has an image
    return tops, found


def statistics(ref: ActivationsRef, num_images: int, layer: str, neurons: slice = ALL) -> Statistics:
    """Statistics of a layer's neurons over all images. Raises `ArrayError` where what was recorded is damaged."""
    if ref.rows is not None:
        return _of_activations(ref, num_images, layer, 1, neurons)[1]
    group = ref.summaries()
    return reduce(Statistics.merge, summaries.read_statistics(group, layer, num_images, neurons))


def activations(
    ref: ActivationsRef, num_images: int, layer: str, neurons: slice = ALL
) -> Iterator[tuple[Rows, Tensor]]:
    """The activations of a layer, a shard group `[rows, n]` at a time; -inf where an activation is to be ignored.

    Raises `ArrayError` where they are damaged or lost.
    """
    read = partial(activations_of_rows, ref, layer, neurons=neurons)
    if ref.rows is None:
        blocks = _blocks(read, num_images, None)
    else:
        group = ref.group()
        blocks = _of_some(read, group, array_name(group, layer), ref.rows)
    yield from zip(groups(num_images), blocks, strict=True)


def both(
    images: EmbeddingsRef, of: ActivationsRef, num_images: int, layer: str, neurons: slice = ALL
) -> Iterator[tuple[Tensor, Tensor]]:
    """Embeddings `[b, D]` and activations `[b, n]` of the same images, as `activations` gives and raises."""
    blocks = activations(of, num_images, layer, neurons)
    return ((E, A) for E, (_, A) in zip(embeddings(images, num_images), blocks, strict=True))


def activations_of_rows(ref: ActivationsRef, layer: str, rows: Rows, neurons: slice = ALL) -> Tensor:
    """The activations of a layer on some images of the probe set `[rows, n]`, as `activations` gives and raises."""
    group = ref.group()
    return torch.from_numpy(arrays.read_finished_rows(group, array_name(group, layer), rows, neurons)).float()


def embeddings(ref: EmbeddingsRef, num_images: int, wanted: Tensor | None = None) -> Iterator[Tensor]:
    """Embeddings of the rows `wanted` (rising; all by default), `[b, D]` of a shard group at a time.

    A group with no wanted row is not read. Raises `ArrayError` where they are damaged or lost.
    """
    group = ref.group()

    def read(rows: Rows) -> Tensor:
        return torch.from_numpy(arrays.read_finished_rows(group, EMBEDDINGS, rows))

    if ref.rows is None:
        return _blocks(read, num_images, wanted)
    return _of_some(read, group, EMBEDDINGS, ref.rows, wanted)


def _blocks(read: Callable[[Rows], Tensor], num_images: int, wanted: Tensor | None) -> Iterator[Tensor]:
    """The rows `wanted` (rising; all by default) of an array, of a shard group at a time."""
    for rows in groups(num_images):
        if wanted is None:
            yield read(rows)
        elif len(here := _within(rows, wanted)):
            yield read(rows)[here]


def _of_some(
    read: Callable[[Rows], Tensor], group: zarr.Group, name: str, rows: Tensor, wanted: Tensor | None = None
) -> Iterator[Tensor]:
    """As `_blocks`, of an array that has the `rows` of this one: in its shard groups."""
    wanted = torch.arange(len(rows)) if wanted is None else wanted
    blocks = _blocks(read, arrays.shape(group, name)[0], rows[wanted])
    held: list[Tensor] = []
    for size in (len(_within(of, wanted)) for of in groups(len(rows))):
        while sum(map(len, held)) < size:
            held.append(next(blocks))
        if size:
            joined = torch.cat(held)
            yield joined[:size]
            held = [joined[size:]]


def _within(rows: Rows, wanted: Tensor) -> Tensor:
    """Those of the rows `wanted` (rising) that are in a range, counted from its start."""
    first, last = torch.searchsorted(wanted, torch.tensor([rows.start, rows.stop]))
    return wanted[first:last] - rows.start


def _slice(some: Rows) -> slice:
    return slice(some.start, some.stop)
