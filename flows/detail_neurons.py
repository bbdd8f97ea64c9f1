"""Activations into details of neurons per layer, over blocks of neurons."""

from __future__ import annotations

from prefect import flow

from flows.engine.progress import follow
from tasks.detailing import DetailsPlan, plan_details
from tasks.details import join_details, measure
from tasks.shard import ProbeRef
from tasks.spec import DissectSpec


@flow(flow_run_name="detail neurons of {spec.target}", persist_result=False)
def detail_neurons(spec: DissectSpec, probe: ProbeRef) -> DetailsPlan:
    """Finds histograms, upper ranges and similar neurons of every layer that lacks them, from its activations.

    A killed flow goes on at the block.
    """
    plan = plan_details(probe, spec)
    num_neurons = plan.activations.num_neurons
    work = [
        (measure.submit(plan, layer, block), len(block)) for layer in plan.missing for block in plan.unmeasured(layer)
    ]
    follow("histograms", work, total=sum(num_neurons[layer] for layer in plan.missing), unit="neurons")
    joined = [(join_details.submit(plan, layer), num_neurons[layer]) for layer in plan.missing]
    follow("details", joined, total=sum(num_neurons[layer] for layer in plan.layers), unit="neurons")
    return plan
