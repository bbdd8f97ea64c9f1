"""GPUs of a fleet: slots of a Prefect limit for runs of deployments, a resource of the workers for Dask.

Here is counted how many GPUs of a fleet are in use; which of a machine's GPUs a task has, the lock files of
tasks/models/devices.py say. A run has its slots from its first task to its last: a slot that is given back is noticed
after up to half a minute, and GPUs would idle so long after each task if every task asked for one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectNotFound
from prefect.runtime import deployment

from flows.engine.progress import note
from flows.engine.remote import limit_name
from flows.engine.runners import TASKS_PER_DEVICE
from tasks.models.devices import choose_devices
from tasks.models.errors import ModelError
from tasks.parameters import EngineSpec

#: How long slots stay taken that nobody renews, as those of a run that was killed; a run renews its own in time.
LEASE_SECONDS = 120.0
#: What Dask's workers declare: `dask worker --resources GPU=1`.
RESOURCE = "GPU"


class GpuError(RuntimeError):
    """GPUs that a run asks for, and that its fleet does not count."""


@dataclass(frozen=True)
class _Limit:
    """The Prefect limit that counts the GPUs of a work pool."""

    pool: str
    slots: int
    free: int

    @property
    def name(self) -> str:
        return limit_name(self.pool)


def check_gpus(spec: EngineSpec) -> None:
    """Raises `GpuError` where nothing counts the GPUs that a run asks for, or its fleet has too few or others."""
    if spec.dask_address:
        if workers := _gpu_workers(spec, spec.dask_address):
            _check_workers(spec, spec.dask_address, workers)
    elif num_gpus := _num_gpus(spec):
        _limit(num_gpus)


@contextmanager
def gpus(spec: EngineSpec, num_tasks: int) -> Iterator[None]:
    """Tasks that are submitted inside have GPUs of the fleet; waits until so many are free.

    A run that no deployment began, and one that shares devices, counts nowhere; so does one in a pod of its own.
    Raises `GpuError` as `check_gpus` does.
    """
    if spec.dask_address:
        import dask  # in here: with its own imports it takes a while

        of_gpus = {"resources": {RESOURCE: 1 / TASKS_PER_DEVICE}}
        with dask.annotate(**(of_gpus if _gpu_workers(spec, spec.dask_address) else {})):
            yield
        return
    num_gpus = min(_num_gpus(spec), num_tasks)
    limit = _limit(num_gpus) if num_gpus else None
    if limit is None:
        yield
        return
    if limit.free < num_gpus:
        note(
            f"Waiting for {num_gpus} of the {limit.slots} GPUs of {limit.pool}: other runs have them ({limit.name})."
        )
    # A lease that cannot be renewed, as from a server that is away, ends no run: locks keep its GPUs from others.
    with concurrency(
        limit.name, num_gpus, lease_duration=LEASE_SECONDS, strict=True, raise_on_lease_renewal_failure=False
    ):
        yield


def _num_gpus(spec: EngineSpec) -> int:
    """GPUs of this machine that a run does not share."""
    return 0 if spec.share_devices else sum(device.type == "cuda" for device in choose_devices(spec.device))


def _limit(num_gpus: int) -> _Limit | None:
    """The limit that a run takes slots of; None where no deployment began it, or Kubernetes counts its GPUs."""
    if not (began := deployment.id):
        return None
    with get_client(sync_client=True) as client:
        pool = client.read_deployment(UUID(began)).work_pool_name
        if pool is None or client.read_work_pool(pool).type == "kubernetes":
            return None
        name = limit_name(pool)
        try:
            found = client.read_global_concurrency_limit_by_name(name)
        except ObjectNotFound as error:
            raise GpuError(
                f"The Prefect server has no limit {name}, which counts the GPUs of the work pool {pool}. Make it "
                f"with `prefect gcl create {name} --limit N`, or `clip-dissect deploy --pool {pool} --gpus N`: N is "
                "how many GPUs the machines of its workers have together. --share-devices runs without it."
            ) from error
    if found.limit < num_gpus:
        raise GpuError(
            f"This run asks for {num_gpus} GPUs, and the work pool {pool} has {found.limit} by its limit {name}. "
            f"Name fewer with --device, or count those that there are: `prefect gcl update {name} --limit N`."
        )
    return _Limit(pool, found.limit, found.limit - found.active_slots)


def _gpu_workers(spec: EngineSpec, address: str) -> list[str]:
    """Dask workers that declare a GPU; none where tasks go to any worker, and find its devices themselves."""
    from distributed import Client

    is_needed = spec.device.startswith("cuda")
    if not is_needed and spec.device != "auto":
        return []
    with Client(address, set_as_default=False) as client:
        workers = client.scheduler_info(n_workers=-1)["workers"]
    declaring = [worker for worker, of in workers.items() if of["resources"].get(RESOURCE)]
    if is_needed and not declaring:
        raise GpuError(
            f"--device {spec.device} asks for GPUs, and none of the {len(workers)} Dask workers at {address} "
            f"declares one: tasks would wait for ever. Start workers that have one with `--resources {RESOURCE}=1`; "
            "with --device auto, tasks go to any worker, and take the devices that it has."
        )
    return declaring


def _check_workers(spec: EngineSpec, address: str, workers: list[str]) -> None:
    """Raises `GpuError` where one of the workers has not the devices asked for; before any other work."""
    from distributed import Client

    with Client(address, set_as_default=False) as client:
        answers = client.run(choose_devices, spec.device, workers=workers, on_error="return")
    wrong = {worker: answer for worker, answer in answers.items() if isinstance(answer, ModelError)}
    if wrong:
        worker, error = min(wrong.items())
        raise GpuError(
            f"{len(wrong)} of the {len(workers)} Dask workers at {address} that declare a GPU cannot take --device "
            f"{spec.device}; {worker} says: {error} Start each with a GPU of its own "
            f"(`CUDA_VISIBLE_DEVICES=N dask worker --resources {RESOURCE}=1`), and use --device cuda: the one it "
            "sees is cuda:0."
        )
