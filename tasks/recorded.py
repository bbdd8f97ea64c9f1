"""What other tasks read of a recording, in bounded memory: a shard group or a block of neurons at a time."""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce

import torch
from torch import Tensor

from storage import arrays
from storage.completion import Rows, groups
from tasks import summaries
from tasks.dissection.streaming import Statistics, TopImages
from tasks.observation import EMBEDDINGS, ActivationsRef, EmbeddingsRef

ALL = slice(None)


def top_images(ref: ActivationsRef, num_images: int, layer: str, k: int, neurons: slice = ALL) -> TopImages:
    """Top `min(k, num_images)` images of a layer's neurons.

    Up to `TOP_IMAGES_RECORDED` of them were recorded; for more, all activations are read. Raises `ArrayError` where
    what was recorded is damaged.
    """
    if k > summaries.TOP_IMAGES_RECORDED:
        return _top_images_of_activations(ref, num_images, layer, k, neurons)
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


def _top_images_of_activations(ref: ActivationsRef, num_images: int, layer: str, k: int, neurons: slice) -> TopImages:
    """As many shard groups as have `k` images are sorted together: merging costs as much as `k` images do."""
    tops: TopImages | None = None
    waiting: list[Tensor] = []
    first_row = 0
    for rows, block in activations(ref, num_images, layer, neurons):
        waiting.append(block)
        if rows.stop - first_row >= k or rows.stop == num_images:
            top = TopImages.of(torch.cat(waiting), k, first_row)
            tops = top if tops is None else tops.merge(top, k=k)
            waiting, first_row = [], rows.stop
    assert tops is not None  # a probe set has an image
    return tops


def statistics(ref: ActivationsRef, num_images: int, layer: str, neurons: slice = ALL) -> Statistics:
    """Statistics of a layer's neurons over all images. Raises `ArrayError` where what was recorded is damaged."""
    group = ref.summaries()
    return reduce(Statistics.merge, summaries.read_statistics(group, layer, num_images, neurons))


def activations(
    ref: ActivationsRef, num_images: int, layer: str, neurons: slice = ALL
) -> Iterator[tuple[Rows, Tensor]]:
    """The activations of a layer, a shard group `[rows, n]` at a time; -inf where an activation is to be ignored.

    Raises `ArrayError` where they are damaged or lost.
    """
    for rows in groups(num_images):
        yield rows, activations_of_rows(ref, layer, rows, neurons)


def activations_of_rows(ref: ActivationsRef, layer: str, rows: Rows, neurons: slice = ALL) -> Tensor:
    """The activations of a layer on some images `[rows, n]`, as `activations` gives them and raises."""
    return torch.from_numpy(arrays.read_finished_rows(ref.group(), layer, rows, neurons)).float()


def embeddings(ref: EmbeddingsRef, num_images: int, wanted: Tensor | None = None) -> Iterator[Tensor]:
    """Embeddings of the rows `wanted` (rising; all by default), `[b, D]` of a shard group at a time.

    A group with no wanted row is not read. Raises `ArrayError` where they are damaged or lost.
    """
    group = ref.group()
    for rows in groups(num_images):
        here: slice | Tensor = ALL
        if wanted is not None:
            first, last = torch.searchsorted(wanted, torch.tensor([rows.start, rows.stop]))
            if first == last:
                continue
            here = wanted[first:last] - rows.start
        yield torch.from_numpy(arrays.read_finished_rows(group, EMBEDDINGS, rows))[here]
