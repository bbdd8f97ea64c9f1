"""The permutation null: neurons that keep their activations and get images at random.

What such neurons score by chance is what a label has to beat. Null neurons are scored beside a layer's own, in the
same pass.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from tasks.dissection.streaming import TopImages

#: Null neurons draw their top images from so many images of the probe set: each image that is somebody's costs a row
#: of the product with all concepts.
NULL_IMAGES = 4_096


@dataclass(frozen=True)
class Null:
    """Which of a layer's neurons `[S]` are shuffled, and how many of them make one null layer.

    A layer of fewer neurons than are asked for is shuffled several times: a null layer has as many neurons as the
    layer, up to `samples`, because what SoftWPMI gives depends on it (its prior is over the layer).
    """

    neurons: Tensor
    layer_size: int
    seed: int

    @classmethod
    def of(cls, live: Tensor, samples: int, seed: int) -> Null:
        """At least `samples` of the neurons that are `live` `[N]`; none where none is."""
        candidates = live.nonzero().squeeze(1)
        size = min(len(candidates), samples)
        if size == 0:
            return cls(candidates[:0], 0, seed)
        generator = torch.Generator().manual_seed(seed)
        drawn = [
            candidates[torch.randperm(len(candidates), generator=generator)[:size]]
            for _ in range(math.ceil(samples / size))
        ]
        return cls(torch.cat(drawn), size, seed)

    def __len__(self) -> int:
        return len(self.neurons)

    def top_images(self, top: TopImages, num_images: int) -> TopImages:
        """Their activations of `top`, and in place of each one's images as many of the probe set at random."""
        generator = torch.Generator().manual_seed(self.seed)
        k = top.num_images
        sample = torch.randperm(num_images, generator=generator)[: max(NULL_IMAGES, 2 * k)]
        rows = torch.empty(k, len(self), dtype=torch.int64)
        for neuron in range(len(self)):
            rows[:, neuron] = sample[torch.randperm(len(sample), generator=generator)[:k]]
        return TopImages(top.values[:, self.neurons], rows)

    def beside(self, blocks: Iterable[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
        """Blocks of `embeddings [b, D], activations [b, N]` with the null neurons as further columns `[b, N + S]`.

        Their rows are shuffled within the block: a block should hold many images.
        """
        generator = torch.Generator().manual_seed(self.seed)
        for embeddings, activations in blocks:
            layers = [
                activations[torch.randperm(len(activations), generator=generator)][:, layer]
                for layer in torch.split(self.neurons, max(1, self.layer_size))
                if len(layer)
            ]
            yield embeddings, torch.cat([activations, *layers], dim=1)


@dataclass(frozen=True)
class Shuffled(Null):
    """All live neurons of a layer, whose images are put into another order, one for all: by chance, as a layer."""

    @classmethod
    def of(cls, live: Tensor, samples: int, seed: int) -> Null:
        """All of the neurons that are `live` `[N]`, once, whatever `samples` says."""
        del samples
        neurons = live.nonzero().squeeze(1)
        return cls(neurons, len(neurons), seed)

    def top_images(self, top: TopImages, num_images: int) -> TopImages:
        """Their activations of `top`, and in place of each image the one that is in its place of the other order."""
        order = torch.randperm(num_images, generator=torch.Generator().manual_seed(self.seed))
        return TopImages(top.values[:, self.neurons], order[top.rows[:, self.neurons]])


def null_quantile(similarity: Tensor, null_best: Tensor) -> Tensor:
    """The share of null neurons whose best label scores less, for each of `similarity` (any shape).

    0.95 means that one null neuron in twenty scores as high. NaN where there is no null neuron.
    """
    ordered = null_best.sort().values
    below = torch.searchsorted(ordered, similarity.contiguous())
    return below.double() / len(ordered) if len(ordered) else torch.full(similarity.shape, math.nan).double()
