"""What `run.json` says of a run: spec, digests, counts, notes, seconds, versions."""

from __future__ import annotations

import importlib.metadata
import platform
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from storage.completion import Completion
from storage.shards import MANIFEST
from storage.sources.left_out import images_left_out, told
from storage.whereabouts import SIMILARITIES, references
from tasks import detailing
from tasks.concepts import concept_list, list_digest
from tasks.dissection.metrics import accuracy, has_right, right_ranks
from tasks.evaluation.truth import names_of, read_truth
from tasks.label_tables import num_distinct
from tasks.labelling import DONE, LabelPlan, notes
from tasks.models.trial import network_notes
from tasks.published import REJECTS
from tasks.spec import DissectSpec

if TYPE_CHECKING:
    from tasks.publish import PublishPlan

PACKAGES = ("clip-dissect", "prefect", "torch", "torchvision", "open_clip_torch", "zarr", "webdataset", "numpy")


def run_facts(plan: PublishPlan, layers: Sequence[str], labels: pd.DataFrame) -> dict[str, Any]:
    """What `run.json` says, but for passes and files; `labels` is the table of all layers."""
    of, spec = plan.labels, plan.spec
    done = {layer: of.done(layer).facts(DONE) for layer in layers}
    above = labels[labels["rank"] == 1].groupby("layer")["interpretable"].sum(min_count=1)
    return {
        "digest": plan.digest,
        "spec": spec.model_dump(mode="json"),
        **store_facts(plan),
        "digests": plan.digests,
        "identity": {"embeddings": dict(of.embeddings.identity), "activations": dict(of.activations.identity)},
        "concept_list": list_digest(concept_list(spec).concepts),
        "counts": of.counts,
        "layers": {
            layer: {
                "neurons": done[layer]["num_neurons"],
                "dead": done[layer]["num_dead"],
                "nearly_constant": done[layer]["num_nearly_constant"],
                "activations_ignored": done[layer]["num_activations_ignored"],
                "interpretable": None if pd.isna(above[layer]) else int(above[layer]),
                "distinct_labels": num_distinct(labels[labels["layer"] == layer]),
                "layout": str(of.activations.layouts[layer]),
            }
            for layer in layers
        },
        "details": _details(plan),
        "hyperparameters": done[layers[0]]["hyperparameters"],
        "tau": str(plan.spec.cut),
        "accuracy": _accuracy(plan, layers[-1]),
        "notes": _notes(plan, done),
        "seconds": _seconds(plan, layers, done),
        "versions": {"python": platform.python_version()}
        | {package: importlib.metadata.version(package) for package in PACKAGES},
    }


def store_facts(plan: PublishPlan) -> dict[str, Any]:
    """Where the store is, what in it the run refers to by path, and where the run works."""
    of = plan.labels
    kept = f"{SIMILARITIES}/{of.digest}.zarr" if plan.spec.keep_similarities else None
    return {**references(plan.out, of.store, of.probe.folder.name), SIMILARITIES: kept}


def truth_of(labels: LabelPlan, spec: DissectSpec) -> tuple[str, ...] | None:
    """A line for each neuron of the last layer: the names of its true concept."""
    last = list(labels.activations.layouts)[-1]
    return read_truth(spec.truth).of(last, labels.activations.num_neurons[last]) if spec.truth else None


def _accuracy(plan: PublishPlan, layer: str) -> dict[str, Any] | None:
    truth = truth_of(plan.labels, plan.spec)
    if truth is None:
        return None
    labels = plan.labels.labels(layer)
    known = {neuron: names_of(line) for neuron, line in enumerate(truth) if line}
    ranked = [group["concept"].tolist() for neuron, group in labels.groupby("neuron", sort=True) if neuron in known]
    ranks, listed = right_ranks(ranked, list(known.values())), concept_list(plan.spec).concepts
    is_possible = has_right(listed, list(known.values()))

    def tops(of: npt.NDArray[np.float64]) -> dict[str, float]:
        return {f"top{top}": accuracy(of, top).value() for top in (1, 5) if top <= plan.spec.ranks}

    facts = {"layer": layer, "neurons": len(known), **tops(ranks), "possible": int(is_possible.sum())}
    if is_possible.any() and not is_possible.all():
        facts["of_possible"] = tops(ranks[is_possible])
    return facts | {"truth": list(truth)}


def _notes(plan: PublishPlan, done: dict[str, dict[str, Any]]) -> list[str]:
    spec, probe = plan.spec, plan.labels.probe
    found = [*network_notes(spec), *notes(plan.labels), *(detailing.notes(plan.details) if plan.details else [])]
    if probe.num_rejects:
        found.append(f"{probe.num_rejects} files were refused; {REJECTS} gives the reasons.")
    if images := images_left_out(probe.left_out):
        found.append(told(images))
    found += concept_list(spec).notes()
    for layer, facts in done.items():
        if facts["num_activations_ignored"]:
            found.append(_ignored(plan, layer, facts["num_activations_ignored"]))
    return found


def _details(plan: PublishPlan) -> dict[str, dict[str, int]]:
    """Of how many images the details of each layer are; of none where there are none."""
    if plan.details is None:
        return {}
    facts = {layer: plan.details.done(layer).facts(DONE) for layer in plan.details.layers}
    return {layer: {name: of[name] for name in ("images_read", "images_compared")} for layer, of in facts.items()}


def _ignored(plan: PublishPlan, layer: str, num_activations: int) -> str:
    """Says which images gave NaN or infinite activations."""
    of = plan.labels.activations
    markers = of.done(layer)
    rows = [row for name in sorted(markers.done()) for row in markers.facts(name)["ignored"]["images"]]
    paths = plan.labels.probe.paths(np.array(rows[:3])).tolist()
    return (
        f"{num_activations} activations of {layer} are NaN or infinite; each such image is ignored for that neuron "
        f"({', '.join(paths)}{' …' if len(rows) > 3 else ''})."
    )


def _seconds(plan: PublishPlan, layers: Sequence[str], done: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Seconds of work by stage, summed over tasks, from the markers: a resumed run counts what it found."""
    of = plan.labels

    embedded = _spent([of.embeddings.done()])
    recorded = _spent([of.activations.done(layer) for layer in layers])
    seconds = {
        "shard": of.probe.folder.read_json(MANIFEST)["seconds"],
        **{stage: embedded[stage] + recorded[stage] for stage in ("reading", "decoding", "writing")},
        "embedding": embedded["inferring"],
        "recording": recorded["inferring"],
        "label": sum(one["seconds"] for one in done.values()),
    }
    if plan.details:
        seconds["details"] = sum(plan.details.done(layer).facts(DONE)["seconds"] for layer in layers)
    return {stage: round(value, 3) for stage, value in seconds.items()}


def _spent(markers: Sequence[Completion]) -> Counter[str]:
    """Seconds that shard groups took, by what they went into."""
    seconds: Counter[str] = Counter()
    for of in markers:
        for name in sorted(of.done()):
            seconds.update(of.facts(name)["seconds"])
    return seconds
