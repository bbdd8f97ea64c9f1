"""The whole run: shard, observe, label, publish."""

from __future__ import annotations

from prefect import flow
from prefect.artifacts import create_markdown_artifact

from flows.detail_neurons import detail_neurons
from flows.engine.gpus import check_gpus
from flows.engine.progress import follow
from flows.engine.runners import task_runners
from flows.label_neurons import label_neurons
from flows.observe_probe import observe_probe
from flows.shard_probe import shard_probe
from storage.files import Folder
from tasks.announce import announcement
from tasks.dataset import plan_dataset, publish_dataset
from tasks.new_checkpoints import forget_networks
from tasks.preflight import preflight
from tasks.publish import plan_publication, publish
from tasks.remember import remember
from tasks.spec import DissectSpec


@flow(flow_run_name="dissect {spec.target}", persist_result=False)
def dissect(spec: DissectSpec) -> Folder:
    """Labels the neurons of a network and publishes tables and a report; returns the folder.

    Does only what storage does not hold yet.
    """
    forget_networks()
    preflight(spec)
    with task_runners(spec) as runners:
        check_gpus(spec)
        probe = shard_probe.with_options(task_runner=runners.of_cores)(spec)
        observe = observe_probe.with_options(task_runner=runners.of_devices)
        _, passes = observe(embed=spec, record=spec, probe=probe)
        labels = label_neurons.with_options(task_runner=runners.of_devices)(spec, probe)
        detail = detail_neurons.with_options(task_runner=runners.of_cores)
        details = detail(spec, probe) if spec.details != "none" else None
    plan = plan_publication(labels, spec, details)
    remember(plan)
    publishing = publish.with_options(assets=[plan.asset], asset_deps=plan.made_of)
    follow("publish", [] if plan.is_done else [(publishing.submit(plan, passes), 1)], total=1, unit="run")
    if spec.publish:
        dataset = plan_dataset(plan.out, spec.publish)
        work = [] if dataset.is_done else [(publish_dataset.submit(dataset), 1)]
        follow("data set", work, total=1, unit="run")
    create_markdown_artifact(announcement(plan.out), key="dissection", description=f"Labels of {spec.target}")
    return plan.out
