"""GPUs of a Dask cluster: what its workers declare, and what tasks take of it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Barrier, Lock
from typing import Any

import pytest
from distributed import LocalCluster

from flows.engine.gpus import GpuError, check_gpus, gpus
from flows.engine.runners import SCHEDULER
from tasks.spec import DissectSpec

#: Of tasks of a cluster in this process: those at work, how many each saw, and where so many wait for each other.
at_work, seen, meeting = list[int](), list[int](), list[Barrier]()
lock = Lock()


def work(number: int) -> None:
    """A task."""
    with lock:
        at_work.append(number)
        seen.append(len(at_work))
    meeting[0].wait()
    with lock:
        at_work.remove(number)


@contextmanager
def cluster(**resources: float) -> Iterator[LocalCluster]:
    """A cluster of one worker, in this process, which declares resources and has six threads."""
    with LocalCluster(
        n_workers=1,
        threads_per_worker=6,
        processes=False,
        protocol="tcp",
        scheduler_kwargs=SCHEDULER,
        resources=resources,
    ) as running:
        yield running


@pytest.mark.parametrize(("device", "at_a_time"), [("auto", 2), ("cuda", 2), ("cpu", 6)])
def test_two_tasks_at_a_time_go_to_a_gpu_that_a_worker_declares(
    tiny: dict[str, Any], device: str, at_a_time: int
) -> None:
    seen[:], meeting[:] = [], [Barrier(at_a_time, timeout=30)]
    with cluster(GPU=1) as running, running.get_client() as client:
        with gpus(DissectSpec(**tiny, device=device, dask_address=running.scheduler_address), num_tasks=6):
            tasks = client.map(work, range(6))
        client.gather(tasks)
    assert len(seen) == 6 and max(seen) == at_a_time


def test_a_cluster_that_declares_no_gpus_is_refused_at_the_start_of_a_run_that_asks_for_them(
    tiny: dict[str, Any], prefect_api: str
) -> None:
    from flows.dissect import dissect

    with cluster() as running:
        there = {"dask_address": running.scheduler_address}
        check_gpus(DissectSpec(**tiny, **there))  # auto takes what there is
        with pytest.raises(GpuError, match=r"none of the 1 Dask workers at tcp:.* declares one.*`--resources GPU=1`"):
            dissect(DissectSpec(**tiny, device="cuda", **there))
    assert not Path(tiny["store"], "probes").exists()


def test_two_clusters_on_a_machine_have_a_port_each() -> None:
    with warnings.catch_warnings(), cluster() as one, cluster() as other:
        warnings.simplefilter("error")  # distributed warns where its port is taken
        ports = {running.scheduler.http_server.port for running in (one, other)}
        assert len(ports) == 2 and 8787 not in ports
        assert {running.scheduler.http_server.address for running in (one, other)} == {"127.0.0.1"}


def test_a_worker_that_has_not_the_gpu_asked_for_is_told_before_any_task(tiny: dict[str, Any]) -> None:
    with cluster(GPU=1) as running:
        there = {"dask_address": running.scheduler_address}
        check_gpus(DissectSpec(**tiny, **there))  # auto takes what the worker has
        with pytest.raises(GpuError, match=r"1 of the 1 Dask workers.*; tcp:.* says: There is no device cuda:99"):
            check_gpus(DissectSpec(**tiny, device="cuda:99", **there))
