"""Embeddings and activations into labels per layer."""

from __future__ import annotations

from prefect import flow
from prefect.artifacts import create_table_artifact

from flows.engine.progress import follow, slug
from tasks.label import LabelPlan, label_layer, plan_labels
from tasks.shard import ProbeRef, finished_probe
from tasks.spec import LabelSpec


@flow(flow_run_name="label neurons of {spec.target}", persist_result=False)
def label_neurons(spec: LabelSpec, probe: ProbeRef | None = None) -> LabelPlan:
    """Labels every neuron of every layer that is not labelled yet, and shows first labels as table artifacts.

    `probe` is the finished probe set, found by the spec where it is not given.
    """
    plan = plan_labels(probe or finished_probe(spec), spec)
    num_neurons = plan.activations.num_neurons
    work = [(label_layer.submit(plan, layer), num_neurons[layer]) for layer in plan.missing]
    follow("label", work, total=sum(num_neurons.values()), unit="neurons")
    for layer in plan.missing:
        create_table_artifact(plan.first_labels(layer), key=f"labels-{slug(layer)}", description=f"Labels of {layer}")
    return plan
