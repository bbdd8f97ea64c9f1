"""A run's stored embeddings and activations labelled anew, by the steps of the flow `label_neurons`.

By other parameters, or by some of the images: what comes out is what a run with these would give.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor

from storage.completion import Rows
from storage.identity import digest_of, digest_of_bytes
from storage.layout import Store
from tasks.dissection.null import Null
from tasks.dissection.scorers import Scorer
from tasks.label import find_top_images, join_labels, score_block, sum_softmax
from tasks.labelling import Block, LabelPlan, plan_labels_of
from tasks.scoring import forget, scorer_of
from tasks.spec import LabelSpec


def changed(plan: LabelPlan, **changes: Any) -> LabelPlan:
    """The same inputs labelled by other parameters. Raises `ValidationError` for those that do not go together."""
    spec = LabelSpec(**plan.spec.model_dump() | changes)
    return plan_labels_of(plan.probe, spec, plan.embeddings, plan.activations, plan.concepts)


def of_images(plan: LabelPlan, rows: Tensor) -> LabelPlan:
    """The same layers labelled by the images of `rows` `[R]` (rising) alone: its image i is that of `rows[i]`.

    Takes all activations: a recording of top images alone (`kept`) does not know what else activates a neuron.
    """
    digest = digest_of({"labels": plan.digest, "rows": digest_of_bytes(rows.numpy().tobytes())})
    return replace(
        plan,
        probe=replace(plan.probe, num_images=len(rows)),
        embeddings=replace(plan.embeddings, rows=rows),
        activations=replace(plan.activations, rows=rows),
        digest=digest,
        missing=tuple(plan.activations.layouts),
    )


@contextmanager
def aside(plan: LabelPlan, null: type[Null] = Null, **changes: Any) -> Iterator[LabelPlan]:
    """The same plan, inside the `with`, which leaves what it finds in a temporary folder.

    `changes` are those of its parameters, and `null` shuffles its neurons.
    """
    with TemporaryDirectory(prefix="clip-dissect-") as folder:
        spec, missing = plan.spec.model_copy(update=changes), tuple(plan.activations.layouts)
        try:
            yield replace(plan, spec=spec, missing=missing, aside=Store.at(folder), null=null)
        finally:
            forget()


def steps(plan: LabelPlan) -> Iterator[str]:
    """Labels what is missing, layer by layer; gives the name of each layer before it is labelled.

    A layer that is labelled already stays as it is, and one that was begun goes on.
    """
    for layer in plan.missing:
        yield layer
        prepare(plan, layer)
        for block in plan.unscored(layer):
            score_block.fn(plan, layer, block)
        join_labels.fn(plan, layer)


def prepare(plan: LabelPlan, layer: str) -> None:
    """Finds what scoring a layer's neurons takes, as far as it is missing."""
    if layer in plan.unfound:
        find_top_images.fn(plan, layer)
    for part in plan.unsummed(layer):
        sum_softmax.fn(plan, layer, part)


def scorer(plan: LabelPlan, layer: str, neurons: Rows) -> Scorer:
    """Scores any concepts for some neurons of a layer that is prepared."""
    return scorer_of(plan, layer, Block(neurons, Rows(0, plan.num_concepts)))
