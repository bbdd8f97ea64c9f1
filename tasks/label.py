"""Embeddings and activations into labels, in four steps: top images, softmax, scores by blocks, labels."""

from __future__ import annotations

import time
from functools import reduce
from typing import Any

import numpy as np
import pandas as pd
import torch
from prefect import task
from prefect.cache_policies import NO_CACHE

from storage.bundles import Arrays, read_bundle, write_bundle
from storage.completion import Rows
from storage.errors import EmbeddingsError
from storage.tables import write_parquet
from tasks import recorded, similarities
from tasks.concepts import concept_list
from tasks.dissection.labels import Labels
from tasks.dissection.null import null_quantile
from tasks.dissection.panels import Labelled, label
from tasks.dissection.scorers import log_normaliser, used_rows
from tasks.dissection.threads import computes_alone
from tasks.label_tables import label_table, neurons_table, top_images_table
from tasks.labelling import DONE, FOUND, LABELS, NEURONS, TOP_IMAGES, USED, WITH_PRIOR, Block, LabelPlan
from tasks.running import Waiting
from tasks.scoring import (
    concepts_of,
    forget,
    images_of,
    null_of,
    panel_memory,
    repeated_of,
    scorer_of,
    used_images,
    with_null,
)
from tasks.summaries import TOP_IMAGES_RECORDED


@task(task_run_name="top images of {layer}", cache_policy=NO_CACHE)
@computes_alone
def find_top_images(plan: LabelPlan, layer: str) -> None:
    """Finds every neuron's top images and whether it is dead."""
    with plan.held(layer, FOUND, Waiting()):
        if not plan.done(layer).has(FOUND):
            _find_top_images(plan, layer)


def _find_top_images(plan: LabelPlan, layer: str) -> None:
    started = time.perf_counter()
    of, num_images = plan.activations, plan.probe.num_images
    num_neurons, k = of.num_neurons[layer], plan.hyperparameters.get("top_k", 0)
    top, statistics = recorded.top_and_statistics(of, num_images, layer, max(TOP_IMAGES_RECORDED, k))
    neurons = neurons_table(statistics, top.first(k or TOP_IMAGES_RECORDED), num_images)
    files = [
        write_parquet(plan.folder(layer), TOP_IMAGES, top_images_table(top)),
        write_parquet(plan.folder(layer), NEURONS, neurons),
    ]
    facts: dict[str, Any] = {"num_neurons": num_neurons, "num_dead": int(neurons["is_dead"].sum())}
    facts["digests"] = plan.digests
    if plan.spec.similarity in WITH_PRIOR:
        used = used_rows(with_null(plan, null_of(plan, layer, neurons), top.first(k)))
        files.append(write_bundle(plan.folder(layer), USED, {"rows": used.numpy()}))
        facts["num_images_used"] = len(used)
    plan.done(layer).mark(FOUND, facts | {"seconds": time.perf_counter() - started}, files)


@task(task_run_name="softmax over concepts of {layer}: {part}", cache_policy=NO_CACHE)
@computes_alone
def sum_softmax(plan: LabelPlan, layer: str, part: Rows) -> None:
    """Sums the exponentials over all concepts for some of the images that count."""
    with plan.held(layer, f"softmax-{part.name}", Waiting()):
        if part in plan.unsummed(layer):
            _sum_softmax(plan, layer, part)


def _sum_softmax(plan: LabelPlan, layer: str, part: Rows) -> None:
    started = time.perf_counter()
    images = images_of(plan, used_images(plan, layer)[part.start : part.stop])
    sums = log_normaliser(images, concepts_of(plan), plan.hyperparameters["a"])
    arrays = {"log_normaliser": sums.numpy(), "seconds": np.array(time.perf_counter() - started)}
    write_bundle(plan.softmax_folder(layer), part.name, arrays)


@task(task_run_name="score {layer}: {block}", cache_policy=NO_CACHE)
@computes_alone
def score_block(plan: LabelPlan, layer: str, block: Block) -> None:
    """Finds the best labels of a block's neurons among its concepts."""
    with plan.held(layer, block.name, Waiting()):
        if block in plan.unscored(layer):
            _score_block(plan, layer, block)


def _score_block(plan: LabelPlan, layer: str, block: Block) -> None:
    started = time.perf_counter()
    spec, is_repeated = plan.spec, repeated_of(plan)
    labelled = label(
        scorer_of(plan, layer, block),
        concepts_of(plan)[block.concepts.start : block.concepts.stop],
        spec.ranks + 1,  # one more, for the margin
        panel_memory(plan, layer),
        first_concept=block.concepts.start,
        is_repeated=None if is_repeated is None else is_repeated[block.concepts.start : block.concepts.stop],
        keep=spec.keep_similarities,
    )
    if labelled.similarities is not None:
        similarities.write(plan, layer, block, labelled.similarities)
    found = labelled.labels
    arrays: Arrays = {"concept_rows": found.concept_rows, "similarity": found.similarity}
    if found.log_likelihood is not None and found.log_prior is not None:
        arrays |= {"log_likelihood": found.log_likelihood, "log_prior": found.log_prior}
    arrays |= {"null_best": labelled.null_best.numpy(), "seconds": np.array(time.perf_counter() - started)}
    write_bundle(plan.blocks_folder(layer), block.name, arrays)


@task(task_run_name="label {layer}", cache_policy=NO_CACHE)
@computes_alone
def join_labels(plan: LabelPlan, layer: str) -> None:
    """Joins a layer's blocks into its label table."""
    with plan.held(layer, DONE, Waiting()):
        if not plan.done(layer).has(DONE):
            _join_labels(plan, layer)


def _join_labels(plan: LabelPlan, layer: str) -> None:
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
    written = write_parquet(plan.folder(layer), LABELS, table)
    found, marker = plan.done(layer).marker(FOUND)
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
    plan.done(layer).mark(DONE, facts, [written, marker, *similarities.finish(plan, layer)])
    forget()
    plan.remove_parts(layer)


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
