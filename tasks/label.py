"""Embeddings and activations into labels: one task a layer."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import pandas as pd
import torch
from prefect import task
from prefect.cache_policies import NO_CACHE
from torch import Tensor

from storage import arrays
from storage.completion import Completion, Rows, groups
from storage.errors import IncompleteError
from storage.identity import Identity, digest_of
from storage.layout import Store
from storage.tables import read_parquet, write_parquet
from tasks.concepts import ConceptEmbeddingsRef, concept_embeddings_of, concept_list, read_concept_embeddings
from tasks.dissection.labels import Labels
from tasks.dissection.panels import Problem, label, used_rows
from tasks.dissection.similarity import SIMILARITIES
from tasks.dissection.streaming import CosineMoments, Range, TopImages
from tasks.observation import EMBEDDINGS, ActivationsRef, EmbeddingsRef, activations_of, embeddings_of
from tasks.shard import ProbeRef
from tasks.spec import LabelSpec

#: Raised by one when the same inputs would give another table than before.
VERSION = 2
#: Stands in the tables where a neuron has no label: its activation is the same on every image.
DEAD = "(dead)"
#: Top images kept in the store; a run publishes as many of them as it is asked for.
TOP_IMAGES_KEPT = 100
#: Keywords of similarity functions that no user chooses.
NO_HYPERPARAMETERS = ("variant", "live", "log_normaliser")
#: Share of the images that rank reorder looks at (A.1); its function takes their number.
DEFAULT_TOP_FRACTION = 0.05
LABELS, TOP_IMAGES, DONE = "labels.parquet", "top_images.parquet", "done"


@dataclass(frozen=True)
class LabelPlan:
    """What labelling takes, and where the labels go."""

    spec: LabelSpec
    probe: ProbeRef
    embeddings: EmbeddingsRef
    activations: ActivationsRef
    concepts: ConceptEmbeddingsRef
    num_concepts: int
    digest: str
    missing: tuple[str, ...]

    @property
    def store(self) -> Store:
        """Where all of it lies."""
        return self.activations.store

    def done(self, layer: str) -> Completion:
        """Marker of a labelled layer."""
        return Completion(self.store.labels(self.digest, layer))

    def labels(self, layer: str) -> pd.DataFrame:
        """Label table of a layer: a row per neuron and rank."""
        return read_parquet(self.store.labels(self.digest, layer), LABELS)

    def first_labels(self, layer: str, most: int = 1_000) -> list[dict[str, Any]]:
        """First labels of a layer's first neurons as plain rows, for people to look at."""
        labels = self.labels(layer)
        first = labels.loc[labels["rank"] == 1, ["neuron", "concept", "similarity"]].head(most)
        rows: list[dict[str, Any]] = first.to_dict("records")  # type: ignore[assignment]
        return rows

    def top_images(self, layer: str) -> pd.DataFrame:
        """Top images of a layer: a row per neuron and rank, `row` being the row of the probe set."""
        return read_parquet(self.store.labels(self.digest, layer), TOP_IMAGES)


def plan_labels(probe: ProbeRef, spec: LabelSpec) -> LabelPlan:
    """Checks that all inputs are finished and says which layers are not labelled yet.

    Raises `IncompleteError` saying which stage has to run first.
    """
    embeddings, activations = embeddings_of(probe, spec), activations_of(probe, spec)
    concepts, listed = concept_embeddings_of(spec), concept_list(spec)
    wanted = [rows.name for rows in groups(probe.num_images)]
    _require(wanted, embeddings.store.embeddings_done(embeddings.digest).done(), "image embeddings", "embed")
    for layer in activations.layouts:
        done = activations.store.activations_done(activations.digest, layer).done()
        _require(wanted, done, f"activations of layer {layer}", "record")
    identity: Identity = {
        "version": VERSION,
        "embeddings": embeddings.digest,
        "activations": activations.digest,
        "concepts": {"encoder": concepts.digest, "list": digest_of({"concepts": listed.concepts})},
        "prompt": spec.prompt,
        "similarity": [spec.similarity, spec.variant, hyperparameters(spec, probe.num_images)],
        "ranks": spec.ranks,
    }
    digest = digest_of(identity)
    missing = tuple(
        layer
        for layer in activations.layouts
        if DONE not in Completion(activations.store.labels(digest, layer)).done()
    )
    return LabelPlan(spec, probe, embeddings, activations, concepts, len(listed.concepts), digest, missing)


def hyperparameters(spec: LabelSpec, num_images: int) -> dict[str, Any]:
    """All hyperparameters of the spec's similarity function: those given, and the defaults in its signature.

    `top_k` is lowered to the number of images; the share of rank reorder becomes a number of images.
    """
    chosen = defaults(spec.similarity) | spec.hyperparameters()
    if spec.similarity == "rank_reorder":
        chosen["top_k"] = max(1, int(num_images * chosen.pop("top_fraction", DEFAULT_TOP_FRACTION)))
    if "top_k" in chosen:
        chosen["top_k"] = min(chosen["top_k"], num_images)
    return chosen


def defaults(similarity: str) -> dict[str, Any]:
    """A similarity function's hyperparameters as its signature gives them."""
    keywords: dict[str, Any] = getattr(SIMILARITIES[similarity], "__kwdefaults__", None) or {}
    return {name: value for name, value in keywords.items() if name not in NO_HYPERPARAMETERS}


@task(task_run_name="label {layer}", cache_policy=NO_CACHE)
def label_layer(plan: LabelPlan, layer: str) -> int:
    """Labels every neuron of a layer; returns how many there are."""
    started = time.perf_counter()
    spec, parameters = plan.spec, hyperparameters(plan.spec, plan.probe.num_images)
    top, is_dead = _read_tops(plan, layer, max(TOP_IMAGES_KEPT, parameters.get("top_k", 0)))
    problem = _problem(plan, layer, top, parameters.get("top_k"))
    given = dict(parameters)
    if spec.similarity in ("soft_wpmi", "wpmi") and spec.variant == "paper":
        # A neuron with no top images has no p(m|B_k); in the published code its first rows stand for them.
        given["live"] = ~is_dead
    labels = label(problem, spec.similarity, spec.ranks, int(spec.memory * 2**30), variant=spec.variant, **given)
    folder = plan.store.labels(plan.digest, layer)
    table = label_table(layer, labels, is_dead, concept_list(spec).concepts)
    write_parquet(folder, LABELS, table)
    write_parquet(folder, TOP_IMAGES, top_images_table(layer, top.first(TOP_IMAGES_KEPT)))
    plan.done(layer).mark(
        DONE,
        {
            "num_neurons": len(is_dead),
            "num_dead": int(is_dead.sum()),
            "hyperparameters": parameters,
            "seconds": time.perf_counter() - started,
        },
    )
    return len(is_dead)


def label_table(layer: str, labels: Labels, is_dead: Tensor, concepts: tuple[str, ...]) -> pd.DataFrame:
    """A row per neuron and rank, best first; a dead neuron has one row, with no concept and zeros."""
    num_neurons, num_ranks = labels.concept_rows.shape
    absent = np.full((num_neurons, num_ranks), np.nan)
    likelihood = absent if labels.log_likelihood is None else labels.log_likelihood
    prior = absent if labels.log_prior is None else labels.log_prior
    table = pd.DataFrame(
        {
            "layer": layer,
            "neuron": np.repeat(np.arange(num_neurons), num_ranks),
            "rank": np.tile(np.arange(1, num_ranks + 1), num_neurons),
            "concept": np.asarray(concepts, dtype=object)[labels.concept_rows.ravel()],
            "similarity": labels.similarity.ravel(),
            # Null, not NaN, for the similarity functions that have no likelihood.
            "log_likelihood": pd.array(likelihood.ravel(), dtype="Float64"),
            "log_prior": pd.array(prior.ravel(), dtype="Float64"),
            "is_dead": np.repeat(is_dead.numpy(), num_ranks),
        }
    )
    table = table[~table["is_dead"] | (table["rank"] == 1)].reset_index(drop=True)
    dead = table["is_dead"]
    table.loc[dead, "concept"] = DEAD
    table.loc[dead, ["similarity", "log_likelihood", "log_prior"]] = 0.0
    return table


def top_images_table(layer: str, top: TopImages) -> pd.DataFrame:
    """A row per neuron and rank: the row of the image in the probe set, and its activation."""
    num_images, num_neurons = top.rows.shape
    return pd.DataFrame(
        {
            "layer": layer,
            "neuron": np.repeat(np.arange(num_neurons), num_images),
            "rank": np.tile(np.arange(1, num_images + 1), num_neurons),
            "row": top.rows.T.numpy().ravel(),
            "activation": top.values.T.numpy().ravel(),
        }
    )


def _read_tops(plan: LabelPlan, layer: str, k: int) -> tuple[TopImages, Tensor]:
    """Top `k` images of every neuron, and which neurons are dead `[N]`, read a shard group at a time."""
    tops: TopImages | None = None
    ranges: Range | None = None
    for rows, activations in _activations(plan, layer):
        top, of_block = TopImages.of(activations, k, rows.start), Range.of(activations)
        tops = top if tops is None else tops.merge(top, k)
        ranges = of_block if ranges is None else ranges.merge(of_block)
    assert tops is not None and ranges is not None  # a probe set has an image
    return tops, ranges.finish()


def _problem(plan: LabelPlan, layer: str, top: TopImages, top_k: int | None) -> Problem:
    """What the spec's similarity function needs to see of the layer, and no more."""
    concepts = torch.from_numpy(read_concept_embeddings(plan.concepts, plan.spec))  # [C, D]
    if top_k is not None:
        used, by_position = used_rows(top.first(top_k))
        return Problem(_image_embeddings(plan, used), concepts, by_position)
    everything = torch.arange(plan.probe.num_images)
    if plan.spec.similarity == "cos":
        moments = reduce(
            CosineMoments.merge,
            (
                CosineMoments.of(_image_embeddings(plan, everything[rows.start : rows.stop]), activations)
                for rows, activations in _activations(plan, layer)
            ),
        )
        return Problem(torch.empty(0, concepts.shape[1]), concepts, moments)
    whole = torch.cat([activations for _, activations in _activations(plan, layer)])  # [I, N]
    return Problem(_image_embeddings(plan, everything), concepts, whole)


def _activations(plan: LabelPlan, layer: str) -> Iterator[tuple[Rows, Tensor]]:
    """The activations of a layer, a shard group `[rows, N]` at a time."""
    group = arrays.open_group(plan.store.activations(plan.activations.digest), plan.activations.identity)
    for rows in groups(plan.probe.num_images):
        yield rows, torch.from_numpy(arrays.read_finished_rows(group, layer, rows))


def _image_embeddings(plan: LabelPlan, wanted: Tensor) -> Tensor:
    """Embeddings of some rows (rising) of the probe set, `[len(wanted), D]`."""
    group = arrays.open_group(plan.store.embeddings(plan.embeddings.digest), plan.embeddings.identity)
    parts = []
    for rows in groups(plan.probe.num_images):
        here = wanted[(wanted >= rows.start) & (wanted < rows.stop)] - rows.start
        if len(here):
            parts.append(torch.from_numpy(arrays.read_finished_rows(group, EMBEDDINGS, rows))[here])
    return torch.cat(parts)


def _require(wanted: list[str], done: frozenset[str], what: str, stage: str) -> None:
    missing = sum(name not in done for name in wanted)
    if missing:
        raise IncompleteError(
            f"The {what} of {missing} of {len(wanted)} shard groups are missing. "
            f"Run `clip-dissect {stage}` with the same options first, or `clip-dissect run`."
        )
