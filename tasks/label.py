"""Embeddings and activations into labels, in four steps: top images, softmax, scores by blocks, labels."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, reduce
from threading import Lock

import numpy as np
import pandas as pd
import torch
from prefect import task
from prefect.cache_policies import NO_CACHE
from torch import Tensor

from storage.bundles import Arrays, read_bundle, write_bundle
from storage.completion import Rows
from storage.errors import EmbeddingsError
from storage.tables import write_parquet
from tasks import recorded
from tasks.concepts import concept_list, read_concept_embeddings
from tasks.dissection.labels import Labels
from tasks.dissection.null import Null, null_quantile
from tasks.dissection.panels import Labelled, label
from tasks.dissection.scorers import (
    CosCubedScorer,
    CosScorer,
    Images,
    PmiScorer,
    RankReorderScorer,
    Scorer,
    by_position,
    log_normaliser,
    used_rows,
)
from tasks.dissection.streaming import CosineMoments, TopImages
from tasks.label_tables import label_table, neurons_table, top_images_table
from tasks.labelling import DONE, FOUND, LABELS, NEURONS, TOP_IMAGES, USED, WITH_PRIOR, Block, LabelPlan
from tasks.similarities import write_similarities

#: Top images kept in the store; a run publishes as many of them as it is asked for.
TOP_IMAGES_KEPT = 100
#: Neurons whose top images are merged at a time.
NEURONS_AT_A_TIME = 4_096
#: Activations and embeddings that the cosines read at a time, in bytes. Null neurons are shuffled within it.
WINDOW = 2**28
_one_at_a_time = Lock()


@task(task_run_name="top images of {layer}", cache_policy=NO_CACHE)
def find_top_images(plan: LabelPlan, layer: str) -> int:
    """Finds every neuron's top images and whether it is dead; returns how many neurons there are."""
    started = time.perf_counter()
    of, num_images = plan.activations, plan.probe.num_images
    num_neurons, k = of.num_neurons[layer], plan.hyperparameters.get("top_k", 0)
    parts = [
        recorded.top_images(of, num_images, layer, max(TOP_IMAGES_KEPT, k), slice(n, n + NEURONS_AT_A_TIME))
        for n in range(0, num_neurons, NEURONS_AT_A_TIME)
    ]
    top = reduce(TopImages.beside, parts)
    neurons = neurons_table(recorded.statistics(of, num_images, layer), top.first(k or TOP_IMAGES_KEPT), num_images)
    write_parquet(plan.folder(layer), TOP_IMAGES, top_images_table(top))
    write_parquet(plan.folder(layer), NEURONS, neurons)
    facts = {"num_neurons": num_neurons, "num_dead": int(neurons["is_dead"].sum())}
    if plan.spec.similarity in WITH_PRIOR:
        used = used_rows(_with_null(plan, _null(plan, layer, neurons), top.first(k)))
        write_bundle(plan.folder(layer), USED, {"rows": used.numpy()})
        facts["num_images_used"] = len(used)
    plan.done(layer).mark(FOUND, facts | {"seconds": time.perf_counter() - started})
    return num_neurons


@task(task_run_name="softmax over concepts of {layer}: {part}", cache_policy=NO_CACHE)
def sum_softmax(plan: LabelPlan, layer: str, part: Rows) -> int:
    """Sums the exponentials over all concepts for some of the images that count; returns how many."""
    started = time.perf_counter()
    images = _images(plan, _used(plan, layer)[part.start : part.stop])
    sums = log_normaliser(images, _concepts(plan), plan.hyperparameters["a"])
    arrays = {"log_normaliser": sums.numpy(), "seconds": np.array(time.perf_counter() - started)}
    write_bundle(plan.softmax_folder(layer), part.name, arrays)
    return len(part)


@task(task_run_name="score {layer}: {block}", cache_policy=NO_CACHE)
def score_block(plan: LabelPlan, layer: str, block: Block) -> int:
    """The best labels of a block's neurons among its concepts; returns how many similarities that took."""
    started = time.perf_counter()
    spec, memory = plan.spec, _memory(plan)
    if spec.similarity in WITH_PRIOR:
        memory -= _bytes_held(plan, plan.done(layer).facts(FOUND)["num_images_used"])
    with _one_at_a_time:  # two tasks that begin together would read the same twice
        scorer = _scorer(plan, layer, block)
    labelled = label(
        scorer,
        _concepts(plan)[block.concepts.start : block.concepts.stop],
        spec.ranks + 1,  # one more, for the margin
        memory,
        first_concept=block.concepts.start,
        keep=spec.keep_similarities,
    )
    if labelled.similarities is not None:
        write_similarities(plan, layer, block, labelled.similarities)
    found = labelled.labels
    arrays: Arrays = {"concept_rows": found.concept_rows, "similarity": found.similarity}
    if found.log_likelihood is not None and found.log_prior is not None:
        arrays |= {"log_likelihood": found.log_likelihood, "log_prior": found.log_prior}
    arrays |= {"null_best": labelled.null_best.numpy(), "seconds": np.array(time.perf_counter() - started)}
    write_bundle(plan.blocks_folder(layer), block.name, arrays)
    return len(block)


@task(task_run_name="label {layer}", cache_policy=NO_CACHE)
def join_labels(plan: LabelPlan, layer: str) -> int:
    """Joins a layer's blocks into its label table; returns how many neurons there are."""
    started = time.perf_counter()
    neurons = plan.neurons(layer)
    bundles = {block: read_bundle(plan.blocks_folder(layer), block.name) for block in plan.blocks(layer)}
    sums = [read_bundle(plan.softmax_folder(layer), part.name) for part in plan.softmax_parts(layer)]
    labelled = _joined(plan, bundles)
    labels = labelled.labels
    _refuse_unlabelled(plan, layer, labels, neurons)
    quantile = null_quantile(torch.from_numpy(labels.similarity), labelled.null_best.double()).numpy()
    concepts = concept_list(plan.spec).concepts
    table = label_table(layer, labels, quantile, neurons, concepts, plan.spec.ranks)
    write_parquet(plan.folder(layer), LABELS, table)
    found = plan.done(layer).facts(FOUND)
    seconds = found["seconds"] + sum(float(one["seconds"]) for one in (*bundles.values(), *sums))
    facts = {
        "num_neurons": len(neurons),
        "num_dead": int(neurons["is_dead"].sum()),
        "num_nearly_constant": int(neurons["is_nearly_constant"].sum()),
        "num_activations_ignored": int(neurons["images_ignored"].sum()),
        "num_null": len(labelled.null_best),
        "hyperparameters": plan.hyperparameters,
        "seconds": seconds + time.perf_counter() - started,
    }
    plan.done(layer).mark(DONE, facts)
    # What the blocks held is in the table now.
    _images_of_blocks.cache_clear()
    plan.blocks_folder(layer).remove()
    plan.softmax_folder(layer).remove()
    return len(neurons)


def _joined(plan: LabelPlan, bundles: dict[Block, Arrays]) -> Labelled:
    """Of the blocks of a layer: concepts are merged, neurons follow each other."""
    by_neurons: dict[Rows, list[Labelled]] = {}
    for block, arrays in bundles.items():
        labels = Labels(
            arrays["concept_rows"], arrays["similarity"], arrays.get("log_likelihood"), arrays.get("log_prior")
        )
        by_neurons.setdefault(block.neurons, []).append(Labelled(labels, torch.from_numpy(arrays["null_best"])))
    num_ranks = plan.spec.ranks + 1
    merged = [reduce(lambda mine, other: mine.merge(other, num_ranks), parts) for parts in by_neurons.values()]
    return reduce(Labelled.beside, merged)


def _refuse_unlabelled(plan: LabelPlan, layer: str, labels: Labels, neurons: pd.DataFrame) -> None:
    without = np.flatnonzero((labels.similarity[:, 0] == -np.inf) & ~neurons["is_dead"].to_numpy())
    if len(without):
        raise EmbeddingsError(
            f"Layer {layer!r}: for {len(without)} of {len(neurons)} neurons (first: {without[0]}) the mean CLIP "
            f"similarity of the top images is negative with each of the {plan.num_concepts} concepts, and the "
            f"reference variant of rank reorder takes its power {plan.hyperparameters['scale']}. "
            "Use --variant paper, or --scale 0."
        )


def _used(plan: LabelPlan, layer: str) -> Tensor:
    """Rows `[U]` of the images that are a top image of some neuron or null neuron of a layer."""
    return torch.from_numpy(read_bundle(plan.folder(layer), USED)["rows"])


def _with_null(plan: LabelPlan, null: Null, top: TopImages) -> TopImages:
    """Top images of neurons, and of their null neurons after them."""
    return top.beside(null.top_images(top, plan.probe.num_images))


def _null(plan: LabelPlan, layer: str, neurons: pd.DataFrame) -> Null:
    """The null neurons of some neurons: their share of those of the layer."""
    share = len(neurons) / plan.activations.num_neurons[layer]
    live = torch.from_numpy(~neurons["is_dead"].to_numpy())
    return Null.of(live, round(plan.spec.null_samples * share), plan.spec.null_seed)


def _scorer(plan: LabelPlan, layer: str, block: Block) -> Scorer:
    """What the spec's similarity function needs to see of the block's neurons, and no more."""
    similarity, variant, parameters = plan.spec.similarity, plan.spec.variant, plan.hyperparameters
    columns = slice(block.neurons.start, block.neurons.stop)
    neurons = plan.neurons(layer)[columns]
    if "top_k" not in parameters:
        return _cosine_scorer(plan, layer, columns, neurons)
    null = _null(plan, layer, neurons)
    top = _with_null(plan, null, plan.top(layer, parameters["top_k"], columns))
    if similarity == "rank_reorder":
        rows = used_rows(top)
        images = _images(plan, rows)
        return RankReorderScorer(images, len(rows), by_position(top, rows), len(neurons), parameters, variant)
    rows = _used(plan, layer)
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
    null = _null(plan, layer, neurons)

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
    both = zip(
        recorded.embeddings(plan.embeddings, num_images),
        recorded.activations(plan.activations, num_images, layer, columns),
        strict=True,
    )
    for E, (_, A) in both:
        held.append((E, A))
        if sum(E.nbytes + A.nbytes for E, A in held) >= WINDOW:
            yield torch.cat([E for E, _ in held]), torch.cat([A for _, A in held])
            held = []
    if held:
        yield torch.cat([E for E, _ in held]), torch.cat([A for _, A in held])


def _concepts(plan: LabelPlan) -> Tensor:
    return torch.from_numpy(read_concept_embeddings(plan.concepts, plan.spec))  # [C, D]


def _images(plan: LabelPlan, rows: Tensor) -> Images:
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


@lru_cache(maxsize=1)
def _images_of_blocks(plan: LabelPlan, layer: str) -> Images:
    """Those of the images that count, once for all blocks of a layer that this process scores."""
    return _images(plan, _used(plan, layer))


@dataclass(frozen=True)
class _Reread:
    read: Callable[[], Iterator[Tensor]]

    def __iter__(self) -> Iterator[Tensor]:
        return self.read()
