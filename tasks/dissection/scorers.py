"""One layer's neurons scored against one panel of concepts after the other, without ever holding `P [I, C]`.

The prior of a concept needs every neuron but no other concept, so a panel is scored to its end: all neurons, prior,
similarity. Only the softmax over all concepts joins panels, by one number per image that a first pass finds
(`log_normaliser`). Images come in blocks, so that what a panel holds depends on the number of neurons alone. Rank
reorder is the exception: it needs all of a neuron's top images at once.

Shapes: `U` images that count, `D` embedding width, `W` concepts of a panel, `N` neurons, `S` null neurons (which
come after the layer's own), `B` images of a block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Any, Protocol

import torch
from torch import Tensor

from tasks.dissection.kernels import TERMS_PER_TILE, product
from tasks.dissection.similarity import (
    LogLikelihood,
    Scores,
    SoftTerms,
    Variant,
    log_sum_of_exponentials,
    membership,
    rank_reorder,
    sum_over_top,
    wpmi_likelihood,
    wpmi_reference_likelihood,
)
from tasks.dissection.streaming import CosineMoments, TopImages
from tasks.dissection.threads import COLUMNS_PER_PART, each, in_threads

#: Embeddings of images `[b, D]`, block after block; iterated again for every panel.
Images = Iterable[Tensor]
#: Images of a block at least: a block's product with a panel should stay in the last cache.
IMAGES_PER_BLOCK = 4_096
#: Images and concepts of a panel of the first pass, 8 MB of products. Fixed, so that the sums do not depend on the
#: memory given.
IMAGES_PER_SUM, CONCEPTS_PER_SUM = 1_024, 2_048
#: Float32 that a panel needs per concept. Of each neuron: the sum of logarithms, likelihood, similarity, and what
#: sorting takes. Of each image of a block: its product, and that again by tiles.
FLOATS_PER_NEURON, FLOATS_PER_IMAGE = 5, 2


@dataclass(frozen=True)
class Scored:
    """Scores of a panel: of the layer's neurons, and similarities of its null neurons `[S, W]`."""

    scores: Scores
    null: Tensor


class Scorer(Protocol):
    """A layer of neurons that any panel of concepts can be scored for."""

    @property
    def floats_per_concept(self) -> int:
        """Float32 that scoring holds per concept of the panel."""

    def __call__(self, concepts: Tensor) -> Scored:
        """Scores for the unit concept embeddings `[W, D]` of a panel."""


@dataclass(frozen=True)
class PmiScorer:
    """SoftWPMI or WPMI.

    `top`: positions among the `images` that count, of the layer's `num_neurons` and then of its null neurons, which
    are null layers of `null_layer_size`. `log_normaliser [U]`: see `log_normaliser`.
    """

    images: Images
    log_normaliser: Tensor
    top: TopImages
    num_neurons: int
    null_layer_size: int
    hyperparameters: dict[str, Any]
    variant: Variant
    soft: bool
    live: Tensor | None = None

    @property
    def floats_per_concept(self) -> int:
        """Float32 that scoring holds per concept of the panel."""
        return FLOATS_PER_NEURON * self.top.num_neurons + FLOATS_PER_IMAGE * self._images_per_block

    def __call__(self, concepts: Tensor) -> Scored:
        """Scores for the unit concept embeddings `[W, D]` of a panel."""
        likelihood, lam = self._likelihood(concepts), self.hyperparameters["lam"]
        neurons = torch.arange(self.top.num_neurons)
        null = [
            likelihood.against_prior(lam, neurons=slice(int(layer[0]), int(layer[-1]) + 1)).similarity
            for layer in torch.split(neurons[self.num_neurons :], max(1, self.null_layer_size))
            if len(layer)
        ]
        scores = likelihood.against_prior(lam, self.live, slice(self.num_neurons))
        return Scored(scores, torch.cat(null) if null else scores.similarity[:0])

    def _likelihood(self, concepts: Tensor) -> LogLikelihood:
        a = self.hyperparameters["a"]
        if not self.soft and self.variant == "paper":
            return wpmi_likelihood(product(self._sums, concepts), self.log_normaliser, self.top, a)
        P = products(self.images, concepts, self._images_per_block)
        if not self.soft:
            return wpmi_reference_likelihood(P, self.log_normaliser, self.top, a)
        return self._terms.likelihood(P, self.log_normaliser, a)

    @cached_property
    def _sums(self) -> Tensor:
        return sum_over_top(self.images, self.top)  # [N + S, D]

    @cached_property
    def _terms(self) -> SoftTerms:
        of = self.hyperparameters
        return SoftTerms.of(self.top, membership(of["top_k"], of["p_start"], of["p_end"], self.variant), self.variant)

    @property
    def _images_per_block(self) -> int:
        sparse = TERMS_PER_TILE * len(self.log_normaliser) // self.top.num_images
        return min(max(IMAGES_PER_BLOCK, sparse), len(self.log_normaliser))


@dataclass(frozen=True)
class RankReorderScorer:
    """Rank reorder; `top` as in `PmiScorer`, of `num_images` images that count."""

    images: Images
    num_images: int
    top: TopImages
    num_neurons: int
    hyperparameters: dict[str, Any]
    variant: Variant

    @property
    def floats_per_concept(self) -> int:
        """Float32 that scoring holds per concept of the panel."""
        # Of each top image of a neuron a key of two, its value, and its place.
        return self.num_images + 6 * self.top.num_images + 2 * self.top.num_neurons

    def __call__(self, concepts: Tensor) -> Scored:
        """Scores for the unit concept embeddings `[W, D]` of a panel."""
        P = concepts.new_empty(self.num_images, len(concepts))
        first = 0
        for block in self.images:
            P[first : first + len(block)] = product(block, concepts)
            first += len(block)
        similarity = rank_reorder(P, self.top, variant=self.variant, **self.hyperparameters).similarity
        return Scored(Scores(similarity[: self.num_neurons]), similarity[self.num_neurons :])


@dataclass(frozen=True)
class CosScorer:
    """Cosine, by the moments of the layer's neurons and of null neurons after them."""

    moments: CosineMoments
    num_neurons: int

    @property
    def floats_per_concept(self) -> int:
        """Float32 that scoring holds per concept of the panel."""
        return 2 * FLOATS_PER_NEURON * len(self.moments.neurons)  # in float64

    def __call__(self, concepts: Tensor) -> Scored:
        """Scores for the unit concept embeddings `[W, D]` of a panel."""
        similarity = self.moments.finish(concepts)
        return Scored(Scores(similarity[: self.num_neurons]), similarity[self.num_neurons :])


@dataclass(frozen=True)
class CosCubedScorer:
    """Cosine of centred cubes, from blocks of `embeddings [b, D], activations [b, N + S]`, read for every panel.

    `mean_image [D]`, `mean [N + S]` and `largest [N + S]` (largest distance from the mean) are over all images.
    """

    blocks: Callable[[], Iterable[tuple[Tensor, Tensor]]]
    mean_image: Tensor
    mean: Tensor
    largest: Tensor
    num_neurons: int
    min_norm: float

    @property
    def floats_per_concept(self) -> int:
        """Float32 that scoring holds per concept of the panel."""
        return 4 * len(self.mean) + 3 * IMAGES_PER_BLOCK

    def __call__(self, concepts: Tensor) -> Scored:
        """Scores for the unit concept embeddings `[W, D]` of a panel."""
        dots = concepts.new_zeros(len(self.mean), len(concepts))
        of_neurons = torch.zeros(len(self.mean), dtype=torch.float64)
        of_concepts = torch.zeros(len(concepts), dtype=torch.float64)
        mean_P = concepts.double() @ self.mean_image.double()  # [W]
        # Cubes of small activations would leave float32: the largest is taken out first.
        scale = self.largest.double().where(self.largest > 0, 1.0)
        for embeddings, activations in self.blocks():
            for E, A in zip(
                torch.split(embeddings, IMAGES_PER_BLOCK), torch.split(activations, IMAGES_PER_BLOCK), strict=True
            ):
                images = product(E, concepts)  # [b, W]
                centred = torch.where(A.isneginf(), 0.0, A.double() - self.mean)
                neurons = centred.div_(scale).pow_(3).to(A)  # [b, N]
                self._add(images, neurons, mean_P, dots, of_concepts)
                of_neurons += neurons.double().square_().sum(0)
        neuron_norms = of_neurons.sqrt().maximum(self.min_norm / scale**3)
        concept_norms = of_concepts.sqrt().clamp_(min=self.min_norm)
        tiny = torch.finfo(torch.float64).tiny
        similarity = dots / (neuron_norms.clamp(min=tiny)[:, None] * concept_norms.clamp(min=tiny)).to(dots)
        return Scored(Scores(similarity[: self.num_neurons]), similarity[self.num_neurons :])

    @staticmethod
    def _add(images: Tensor, neurons: Tensor, mean_P: Tensor, dots: Tensor, of_concepts: Tensor) -> None:
        """Adds products of cubes to `dots [N + S, W]`, and sums of squares to `of_concepts [W]`.

        `images [b, W]`, which are cubed in place, less their mean `[W]`; `neurons [b, N + S]` are cubes.
        """

        def add(start: int) -> None:
            some = slice(start, start + COLUMNS_PER_PART)
            cubes = images[:, some].sub_(mean_P[some].to(images)).pow_(3)  # [b, w]
            dots[:, some] += neurons.T @ cubes
            of_concepts[some] += cubes.double().square_().sum(0)

        each(add, range(0, images.shape[1], COLUMNS_PER_PART))


def used_rows(top: TopImages) -> Tensor:
    """Rows `[U]` (rising) that are a top image of some neuron, if only as one that does not count."""
    rows: Tensor = top.rows.unique()  # type: ignore[no-untyped-call]
    return rows


def by_position(top: TopImages, rows: Tensor) -> TopImages:
    """The same top images by position (int32) among `rows` (rising), which hold all of them."""
    return TopImages(top.values, torch.searchsorted(rows, top.rows, out_int32=True))


def log_normaliser(images: Images, concepts: Tensor, a: float) -> Tensor:
    """`log Σ_m exp(a P[x, m])` `[U]` over all concepts `[C, D]`: what makes `exp(a P)` a softmax."""
    panels = torch.split(concepts, CONCEPTS_PER_SUM)

    def normaliser(block: Tensor) -> Tensor:
        return reduce(torch.logaddexp, (log_sum_of_exponentials(product(block, panel), a) for panel in panels))

    return torch.cat(list(in_threads(normaliser, in_blocks(images, IMAGES_PER_SUM))))


def products(images: Images, concepts: Tensor, images_per_block: int) -> Iterator[Tensor]:
    """`P [B, W]` of one block of images after the other."""
    for block in in_blocks(images, images_per_block):
        yield product(block, concepts)


def in_blocks(images: Images, size: int) -> Iterator[Tensor]:
    """The same images in blocks of at most `size`, most of them just that."""
    held: list[Tensor] = []
    for block in images:
        held.append(block)
        if sum(map(len, held)) >= size:
            *whole, rest = torch.split(_joined(held), size)
            yield from whole
            held = [rest]
    if held:
        yield from torch.split(_joined(held), size)


def _joined(blocks: list[Tensor]) -> Tensor:
    # A single block may be all embeddings: views of it cost nothing, a copy takes gigabytes.
    return blocks[0] if len(blocks) == 1 else torch.cat(blocks)
