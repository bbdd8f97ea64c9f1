"""What scoring a block needs of the store: top images, embeddings, softmax sums, null neurons."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, reduce
from threading import Lock

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from storage.bundles import read_bundle
from tasks import recorded
from tasks.concepts import concept_list, read_concept_embeddings
from tasks.dissection.null import Null
from tasks.dissection.scorers import (
    CosCubedScorer,
    CosScorer,
    Images,
    PmiScorer,
    RankReorderScorer,
    Scorer,
    by_position,
    used_rows,
)
from tasks.dissection.streaming import CosineMoments, TopImages
from tasks.labelling import FOUND, USED, WITH_PRIOR, Block, LabelPlan

#: Activations and embeddings that the cosines read at a time, in bytes. Null neurons are shuffled within it.
WINDOW = 2**28
_one_at_a_time = Lock()


def used_images(plan: LabelPlan, layer: str) -> Tensor:
    """Rows `[U]` of the images that are a top image of some neuron or null neuron of a layer."""
    return torch.from_numpy(read_bundle(plan.folder(layer), USED)["rows"])


def with_null(plan: LabelPlan, null: Null, top: TopImages) -> TopImages:
    """Top images of neurons, and of their null neurons after them."""
    return top.beside(null.top_images(top, plan.probe.num_images))


def null_of(plan: LabelPlan, layer: str, neurons: pd.DataFrame) -> Null:
    """The null neurons of some neurons: their share of those of the layer."""
    share = len(neurons) / plan.activations.num_neurons[layer]
    live = torch.from_numpy(~neurons["is_dead"].to_numpy())
    return plan.null.of(live, round(plan.spec.null_samples * share), plan.spec.null_seed)


def scorer_of(plan: LabelPlan, layer: str, block: Block) -> Scorer:
    """What the spec's similarity function needs to see of the block's neurons, and no more.

    One is made at a time: two tasks that begin together would read the same twice.
    """
    with _one_at_a_time:
        return _scorer(plan, layer, block)


def _scorer(plan: LabelPlan, layer: str, block: Block) -> Scorer:
    similarity, variant, parameters = plan.spec.similarity, plan.spec.variant, plan.hyperparameters
    columns = slice(block.neurons.start, block.neurons.stop)
    neurons = plan.neurons(layer)[columns]
    if "top_k" not in parameters:
        return _cosine_scorer(plan, layer, columns, neurons)
    null = null_of(plan, layer, neurons)
    top = with_null(plan, null, plan.top(layer, parameters["top_k"], columns))
    if similarity == "rank_reorder":
        rows = used_rows(top)
        images = images_of(plan, rows)
        return RankReorderScorer(images, len(rows), by_position(top, rows), len(neurons), parameters, variant)
    rows = used_images(plan, layer)
    parts = [read_bundle(plan.softmax_folder(layer), part.name) for part in plan.softmax_parts(layer)]
    return PmiScorer(
        _images_of_blocks(plan, layer),
        torch.from_numpy(np.concatenate([part["log_normaliser"] for part in parts])),
        by_position(top, rows),
        len(neurons),
        null.layer_size,
        parameters,
        variant,
        similarity == "soft_wpmi",
        # A neuron with no top images has no p(m|B_k); in the published code its first rows stand for them.
        torch.from_numpy(~neurons["is_dead"].to_numpy()) if variant == "paper" else None,
    )


def _cosine_scorer(plan: LabelPlan, layer: str, columns: slice, neurons: pd.DataFrame) -> Scorer:
    """Of cos and cos_cubed, which look at all images."""
    null = null_of(plan, layer, neurons)

    def blocks() -> Iterator[tuple[Tensor, Tensor]]:
        return null.beside(_windows(plan, layer, columns))

    if plan.spec.similarity == "cos":
        moments = reduce(CosineMoments.merge, (CosineMoments.of(E, A) for E, A in blocks()))
        return CosScorer(moments, len(neurons))
    total = sum(E.double().sum(0) for E in recorded.embeddings(plan.embeddings, plan.probe.num_images))
    minimum, maximum, mean = (torch.tensor(neurons[name].to_numpy()) for name in ("minimum", "maximum", "mean"))
    largest = torch.maximum(maximum - mean, mean - minimum)
    with_null = torch.cat([torch.arange(len(neurons)), null.neurons])
    return CosCubedScorer(
        blocks,
        torch.as_tensor(total) / plan.probe.num_images,
        mean[with_null],
        largest[with_null],
        len(neurons),
        plan.hyperparameters["min_norm"],
    )


def _windows(plan: LabelPlan, layer: str, columns: slice) -> Iterator[tuple[Tensor, Tensor]]:
    """Embeddings `[b, D]` and activations `[b, n]` of the same images, as many at a time as fit in `WINDOW`."""
    num_images = plan.probe.num_images
    held: list[tuple[Tensor, Tensor]] = []
    for E, A in recorded.both(plan.embeddings, plan.activations, num_images, layer, columns):
        held.append((E, A))
        if sum(E.nbytes + A.nbytes for E, A in held) >= WINDOW:
            yield torch.cat([E for E, _ in held]), torch.cat([A for _, A in held])
            held = []
    if held:
        yield torch.cat([E for E, _ in held]), torch.cat([A for _, A in held])


def concepts_of(plan: LabelPlan) -> Tensor:
    """Embeddings `[C, D]` of the concepts, in list order."""
    return torch.from_numpy(read_concept_embeddings(plan.concepts, plan.spec))  # [C, D]


def repeated_of(plan: LabelPlan) -> Tensor | None:
    """`[C]`: concepts whose text stands further up in the list; None where there are none."""
    is_repeated = concept_list(plan.spec).is_repeated
    return torch.from_numpy(is_repeated) if is_repeated.any() else None


def images_of(plan: LabelPlan, rows: Tensor) -> Images:
    """Embeddings of some rows (rising) of the probe set: held where they fit, else read whenever they are used."""

    def read() -> Iterator[Tensor]:
        return recorded.embeddings(plan.embeddings, plan.probe.num_images, rows)

    if not _bytes_held(plan, len(rows)):
        return _Reread(read)
    whole, first = torch.empty(len(rows), plan.embeddings.num_dimensions), 0
    for block in read():
        whole[first : first + len(block)] = block
        first += len(block)
    return [whole]


def _bytes_held(plan: LabelPlan, num_images: int) -> int:
    """Bytes of the memory given that so many images' embeddings take; 0 where they do not fit."""
    size = 4 * num_images * plan.embeddings.num_dimensions
    return size if size <= _memory(plan) else 0


def _memory(plan: LabelPlan) -> int:
    return int(plan.spec.memory * 2**30)


def panel_memory(plan: LabelPlan, layer: str) -> int:
    """Bytes that panels may take: what is given, less the embeddings that are held."""
    if plan.spec.similarity not in WITH_PRIOR:
        return _memory(plan)
    return _memory(plan) - _bytes_held(plan, plan.done(layer).facts(FOUND)["num_images_used"])


@lru_cache(maxsize=1)
def _images_of_blocks(plan: LabelPlan, layer: str) -> Images:
    """Those of the images that count, once for all blocks of a layer that this process scores."""
    return images_of(plan, used_images(plan, layer))


def forget() -> None:
    """Lets go of what is held from one block to the next."""
    _images_of_blocks.cache_clear()


@dataclass(frozen=True)
class _Reread:
    read: Callable[[], Iterator[Tensor]]

    def __iter__(self) -> Iterator[Tensor]:
        return self.read()
