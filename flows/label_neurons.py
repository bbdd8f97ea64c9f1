"""Embeddings and activations into labels per layer, over blocks of neurons and concepts."""

from __future__ import annotations

from prefect import flow
from prefect.artifacts import create_table_artifact

from flows.engine.progress import follow, slugs
from tasks.label import find_top_images, join_labels, score_block, sum_softmax
from tasks.labelling import LabelPlan, plan_labels
from tasks.new_checkpoints import forget_networks
from tasks.shard import ProbeRef, finished_probe
from tasks.spec import LabelSpec


@flow(flow_run_name="label neurons of {spec.target}", persist_result=False)
def label_neurons(spec: LabelSpec, probe: ProbeRef | None = None) -> LabelPlan:
    """Labels every neuron of every layer that is not labelled yet, and shows first labels as table artifacts.

    `probe` is the finished probe set, found by the spec where it is not given. Layers go side by side; a killed flow
    goes on at the block.
    """
    if probe is None:
        forget_networks()  # a flow of its own, in a process that may have loaded what files held before
        probe = finished_probe(spec)
    plan = plan_labels(probe, spec)
    num_neurons, layers = plan.activations.num_neurons, plan.missing
    found = [(find_top_images.submit(plan, layer), num_neurons[layer]) for layer in plan.unfound]
    follow("top images", found, total=sum(num_neurons[layer] for layer in layers), unit="neurons")
    sums = [(sum_softmax.submit(plan, layer, part), len(part)) for layer in layers for part in plan.unsummed(layer)]
    follow("softmax", sums, total=sum(len(part) for layer in layers for part in plan.softmax_parts(layer)))
    work = [
        (score_block.submit(plan, layer, block), len(block)) for layer in layers for block in plan.unscored(layer)
    ]
    total = sum(len(block) for layer in layers for block in plan.blocks(layer))
    follow("score", work, total=total, unit="similarities")
    labelled = [(join_labels.submit(plan, layer), num_neurons[layer]) for layer in layers]
    follow("label", labelled, total=sum(num_neurons.values()), unit="neurons")
    for layer, key in slugs(list(plan.activations.layouts)).items():
        if layer in layers:
            text = f"First labels of {layer} of {spec.target}"
            create_table_artifact(plan.first_labels(layer), key=f"labels-{key}", description=text)
    return plan
