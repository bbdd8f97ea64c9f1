"""Which engine a run's tasks work on: threads of this process, or processes of a Dask cluster."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from flows.engine.cluster import check_cluster, patience
from flows.engine.environment import BOOT_SOURCE
from flows.engine.progress import note
from tasks.models.devices import choose_devices
from tasks.parameters import EngineSpec

#: Of a local cluster's scheduler, which serves figures by HTTP in any case: by default at one port for all clusters.
SCHEDULER = {"dashboard": False, "dashboard_address": "127.0.0.1:0"}
#: Tasks at a time for each device: one decodes its first images while the other has the device.
TASKS_PER_DEVICE = 2


@dataclass(frozen=True)
class Runners:
    """What runs tasks that work on one core each, and tasks that keep a device or all cores busy."""

    of_cores: TaskRunner[Any]
    of_devices: TaskRunner[Any]


@contextmanager
def task_runners(spec: EngineSpec) -> Iterator[Runners]:
    """The task runners that a spec asks for; a local Dask cluster lives as long as the `with`."""
    if not spec.workers and not spec.dask_address:
        at_a_time = TASKS_PER_DEVICE * len(choose_devices(spec.device))
        yield Runners(ThreadPoolTaskRunner(max_workers=os.cpu_count()), ThreadPoolTaskRunner(max_workers=at_a_time))
        return
    from prefect_dask import DaskTaskRunner  # in here: it takes a second to import

    if spec.dask_address:
        check_cluster(spec.dask_address, spec.dask_wait, note)
        patience[spec.dask_address] = spec.dask_wait
        runner = DaskTaskRunner(address=spec.dask_address)
        yield Runners(runner, runner)
        return
    import dask
    from distributed import LocalCluster

    # One cluster for all stages of a run: each of its processes loads the models once.
    with (
        dask.config.set({"logging.distributed": "warning"}),
        LocalCluster(
            n_workers=spec.workers,
            threads_per_worker=1,
            processes=True,
            scheduler_kwargs=SCHEDULER,
            preload=[BOOT_SOURCE],  # a script's own `tasks.py` lies beside it, and workers look there first
        ) as cluster,
    ):
        patience[cluster.scheduler_address] = spec.dask_wait
        runner = DaskTaskRunner(address=cluster.scheduler_address)
        yield Runners(runner, runner)
