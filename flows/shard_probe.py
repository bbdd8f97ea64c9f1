"""Probe images into WebDataset shards and an index."""

from __future__ import annotations

from prefect import flow

from flows.engine.progress import follow
from tasks.shard import ProbeRef, finish_probe, make_shards, plan_shards
from tasks.spec import ShardSpec


@flow(flow_run_name="shard {spec.sources}", persist_result=False)
def shard_probe(spec: ShardSpec) -> ProbeRef:
    """Packs the images of a probe set into shards, those that are missing, and gives the finished probe set."""
    plan = plan_shards(spec)
    tasks = [(make_shards.submit(plan.packing, work), work.num_files) for work in plan.work]
    probe = finish_probe.submit(plan, wait_for=[future for future, _ in tasks], return_state=False)
    follow("shard", [*tasks, (probe, 0)], total=plan.num_files, unit="files")
    return probe.result()
