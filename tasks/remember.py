"""What a published run is made of, on record in its store: what nobody refers to can then be told."""

from __future__ import annotations

from storage.runs import Run, now, record, where
from tasks.publish import PublishPlan


def remember(plan: PublishPlan) -> None:
    """Records a run in its store. Called before it is published, so that what it is made of is never without it."""
    of, store = plan.labels, plan.labels.store
    run = Run(
        where(plan.out, store),
        plan.digest,
        plan.spec.model_dump(mode="json"),
        of.probe.folder.name,
        plan.digests,
        of.concepts.blocks(),
        list(of.activations.layouts),
        plan.spec.keep_similarities,
        of.counts | {"neurons": sum(of.activations.num_neurons[layer] for layer in of.activations.layouts)},
        now(),
        plan.out.url,
    )
    record(store, run)
