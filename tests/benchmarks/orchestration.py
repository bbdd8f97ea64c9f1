"""How the orchestration scales: shard groups that only sleep, on 1 to 64 workers; then the sample's real pass.

    python -m tests.benchmarks.orchestration [--groups 10000] [--seconds 0.1] [--workers 1,4,16,64] [--runs 5]

Real: the flow `observe_probe` with its plan, tasks, progress and artifacts, a Prefect server, a Dask scheduler and
workers, a marker of every shard group and array. Pretended: the images; in place of reading, decoding, models and
arrays a task sleeps --seconds for each shard group. Workers are threads of two Dask worker processes, since 64
processes that import torch do not fit here. efficiency: groups x seconds / workers, over the flow's wall time.

real: images/s of embedding and recording the sample's images (--images of them), by threads, one and two Dask
processes of one thread each, in turn, each several times after a first; medians, and medians of pairwise ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx
import psutil

from storage import completion
from tasks import observe
from tests.benchmarks.pretended import SECONDS, SLOW, pretended_pass

#: Names of what runs, in the order of the printed columns.
PROCESSES = "flow", "server", "scheduler", "workers"
#: Dask worker processes that the simulated workers are threads of.
WORKER_PROCESSES = 2
#: Shard groups for each worker where the number of tasks is what is compared.
GROUPS_EACH = 20


@dataclass(frozen=True)
class Setting:
    """A simulated run."""

    groups: int
    #: That a shard group takes.
    seconds: float
    workers: int
    #: At most so many.
    tasks: int = completion.MAX_TASKS
    #: Workers that take twice as long.
    slow: int = 0
    #: Threads of the flow's process, instead of Dask.
    threads: bool = False

    @property
    def ideal(self) -> float:
        """Seconds with no overhead, and all workers at work to the end."""
        return self.groups * self.seconds / (self.workers - self.slow / 2)


class Stage:
    """An observer: when the tasks were planned, and how long until all had ended."""

    def __init__(self) -> None:
        self.planned = self.seconds = 0.0

    def started(self, stage: str, total: int, done: int, unit: str) -> None:
        pass

    def advanced(self, stage: str, amount: int) -> None:
        pass

    def finished(self, stage: str, seconds: float) -> None:
        self.seconds = time.perf_counter() - self.planned

    def noted(self, text: str) -> None:
        self.planned = self.planned or time.perf_counter()


@contextmanager
def cluster(setting: Setting) -> Iterator[tuple[str, dict[str, list[int]]]]:
    """A scheduler's address, and the processes of the cluster."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    processes: list[subprocess.Popen[bytes]] = []

    def start(kind: str, *options: str, slow: int = 0) -> int:
        module = f"distributed.cli.dask_{kind}"
        own = {SECONDS: str(setting.seconds), SLOW: str(slow), "DASK_LOGGING__DISTRIBUTED": "error"}
        processes.append(subprocess.Popen([sys.executable, "-m", module, *options], env=os.environ | own))
        return processes[-1].pid

    plain = ("--no-nanny", "--no-dashboard", "--preload", "tests.benchmarks.pretended")
    try:
        scheduler = start("scheduler", "--host", address, "--no-dashboard")
        workers = []
        for number in range(min(WORKER_PROCESSES, setting.workers)):
            threads = setting.workers // WORKER_PROCESSES or 1
            slow = setting.slow if number == 0 else 0
            workers.append(start("worker", address, "--nthreads", str(threads), *plain, slow=slow))
        yield address, {"scheduler": [scheduler], "workers": workers}
    finally:
        for process in reversed(processes):
            process.terminate()
            process.wait()


def simulated(setting: Setting, home: Path) -> dict[str, Any]:
    """Figures of a run in a process of its own, with a Prefect database below `home`."""
    with ExitStack() as stack:
        address, pids = ("", {}) if setting.threads else stack.enter_context(cluster(setting))
        given = json.dumps({"setting": asdict(setting), "address": address, "pids": pids})
        done = subprocess.run(
            [sys.executable, "-m", "tests.benchmarks.orchestration", "--flow", given],
            stdout=subprocess.PIPE,
            env={name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
            | {"PREFECT_HOME": str(home)},
            check=True,
            text=True,
        )
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def measured(setting: Setting, folder: str, address: str, pids: dict[str, list[int]]) -> dict[str, Any]:
    """Runs the flow with a store in `folder`, in this process, whose Prefect server is there already."""
    from prefect.task_runners import ThreadPoolTaskRunner

    from flows.engine.progress import observed_by
    from flows.engine.runners import task_runners
    from flows.observe_probe import observe_probe
    from storage.files import Folder
    from tasks.shard import ProbeRef
    from tasks.spec import EmbedSpec, RecordSpec

    where: dict[str, Any] = {"store": folder, "probe": "nowhere", "dask_address": address or None}
    embed = EmbedSpec(clip="sample", **where)
    record = RecordSpec(target="sample", layers=("head",), **where)
    probe = ProbeRef(Folder.at(folder), "pretended", setting.groups * completion.MAX_ROWS, 0, setting.groups)
    with ExitStack() as stack:
        runner: Any = ThreadPoolTaskRunner(max_workers=setting.workers)
        if address:
            runner = stack.enter_context(task_runners(embed)).of_devices
            _wait_for_workers(address, len(pids["workers"]))
        sleeping = pretended_pass(setting.seconds, setting.slow)
        stack.enter_context(patch.object(observe, "_pass", sleeping))  # for threads
        stack.enter_context(patch.object(completion, "MAX_TASKS", setting.tasks))
        requests, stage, rows = stack.enter_context(_counted_requests()), Stage(), _rows()
        stack.enter_context(observed_by(stage))
        of = {"flow": [os.getpid()], "server": _servers()} | pids
        cpu, started = {name: _cpu_seconds(some) for name, some in of.items()}, time.perf_counter()
        plan, passes = observe_probe.with_options(task_runner=runner)(embed=embed, record=record, probe=probe)
        wall, num_requests = time.perf_counter() - started, len(requests)
        _check_marks(plan, setting.groups)
        written = _wait_for_records(rows, len(passes))
        within = sum(one.duration for one in passes)
        return asdict(setting) | {
            "tasks": len(passes),
            "ideal": round(setting.ideal, 2),
            "wall": round(wall, 2),
            "efficiency": round(setting.ideal / wall, 3),
            "planning": round(stage.planned - started, 2),
            "stage": round(stage.seconds, 2),
            "ms_a_group": round(1000 * (within / setting.groups - setting.seconds), 2),
            "cpu": {name: round(_cpu_seconds(some) - cpu[name], 2) for name, some in of.items()},
            "peak_mb": {name: round(_peak_mb(some)) for name, some in of.items()},
            "requests": num_requests,
            "rows": written,
        }


def _servers() -> list[int]:
    """The Prefect server that this process started."""
    children = psutil.Process().children()
    return [child.pid for child in children if "flows.engine.server_process" in child.cmdline()]


def _check_marks(plan: Any, num_groups: int) -> None:
    [activations] = plan.activations.values()
    marked = len(plan.embeddings.done().done()), len(activations.done("head").done())
    if marked != (num_groups, num_groups):
        raise RuntimeError(f"Embeddings and activations of {marked} of {num_groups} shard groups are marked.")


def _wait_for_workers(address: str, number: int) -> None:
    from distributed import Client

    with Client(address) as client:
        client.wait_for_workers(number, timeout=120)


def _wait_for_records(before: dict[str, int], num_tasks: int) -> dict[str, int]:
    """Rows that the server wrote, once the end of every task is among them."""
    until = time.monotonic() + 60
    while (rows := _rows())["ended"] - before["ended"] < num_tasks:
        if time.monotonic() > until:
            raise RuntimeError(f"The server has the end of {rows['ended'] - before['ended']} of {num_tasks} tasks.")
        time.sleep(0.1)
    return {name: number - before[name] for name, number in rows.items()}


def _rows() -> dict[str, int]:
    """Rows of the run's Prefect database, by table; `ended` are task runs."""
    tables = {name: name for name in ("task_run", "task_run_state", "events", "log", "artifact")}
    tables["ended"] = "task_run where state_type = 'COMPLETED'"
    with closing(sqlite3.connect(Path(os.environ["PREFECT_HOME"]) / "prefect.db")) as database:
        return {name: database.execute(f"select count(*) from {of}").fetchone()[0] for name, of in tables.items()}


@contextmanager
def _counted_requests() -> Iterator[list[str]]:
    """A list that grows with every request to an API that this process makes inside the `with`."""
    made: list[str] = []

    def counted(send: Callable[..., Any]) -> Callable[..., Any]:
        def counting(client: Any, request: httpx.Request, *given: Any, **more: Any) -> Any:
            made.append(request.url.path)
            return send(client, request, *given, **more)

        return counting

    with ExitStack() as stack:
        for client in (httpx.Client, httpx.AsyncClient):
            stack.enter_context(patch.object(client, "send", counted(client.send)))
        yield made


def _cpu_seconds(pids: list[int]) -> float:
    times = [psutil.Process(pid).cpu_times() for pid in pids]
    return sum(one.user + one.system for one in times)


def _peak_mb(pids: list[int]) -> float:
    """Peak resident memory, summed over processes."""
    return sum(int(Path(f"/proc/{pid}/status").read_text().split("VmHWM:")[1].split()[0]) / 1024 for pid in pids)


def tell(figures: dict[str, Any]) -> None:
    """Prints a simulated run."""
    kind = "threads" if figures["threads"] else "Dask"
    slow = f", {figures['slow']} of them slow" if figures["slow"] else ""
    print(f"{kind}, {figures['workers']} workers{slow}; {figures['groups']:,} groups of {figures['seconds']} s")
    print(f"  {figures['tasks']} tasks: {figures['wall']} s, ideal {figures['ideal']} s: {figures['efficiency']:.3f}")
    print(f"  planning {figures['planning']} s, tasks {figures['stage']} s, a group {figures['ms_a_group']} ms more")
    for name in PROCESSES:
        if name in figures["cpu"]:
            print(f"  {name:<10} {figures['cpu'][name]:8.1f} s CPU {figures['peak_mb'][name]:8,} MB")
    print(f"  {figures['requests']} requests of the flow; rows of the server {figures['rows']}", flush=True)


def real(num_images: int, runs: int) -> dict[str, float]:
    """Images/s of the sample by engine, and the median ratios to threads and to one worker."""
    from flows.engine.progress import observed_by
    from flows.engine.runners import task_runners
    from flows.observe_probe import observe_probe
    from flows.shard_probe import shard_probe
    from tasks.sample.draw import write_probe
    from tasks.spec import EmbedSpec, RecordSpec

    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        where = {"store": f"{name}/store", "probe": str(write_probe(Path(name) / "images", num_images))}
        layers = "block1", "block2", "block3", "block4", "block5", "head"
        engines = {"threads": 0, "one_worker": 1, "two_workers": 2}
        probe, rates = None, {engine: [] for engine in engines}  # type: ignore[var-annotated]
        runners = {}
        for engine, workers in engines.items():
            spec = EmbedSpec(clip="sample", workers=workers, **where)
            runners[engine] = stack.enter_context(task_runners(spec)).of_devices
        probe = shard_probe(spec)
        for _ in range(1 + runs):  # the first loads models, and is not counted
            for engine, workers in engines.items():
                for kind in ("embeddings", "activations"):
                    shutil.rmtree(Path(where["store"]) / kind, ignore_errors=True)
                embed = EmbedSpec(clip="sample", workers=workers, **where)
                record = RecordSpec(target="sample", layers=layers, workers=workers, **where)
                flow, stage = observe_probe.with_options(task_runner=runners[engine]), Stage()
                with observed_by(stage):
                    flow(embed=embed, record=record, probe=probe)
                rates[engine].append(num_images / stage.seconds)
                print(f"{engine:<12} {rates[engine][-1]:8.0f} images/s", flush=True)
    rates = {engine: found[1:] for engine, found in rates.items()}
    figures = {engine: round(statistics.median(found)) for engine, found in rates.items()}
    for a, b in (("two_workers", "one_worker"), ("two_workers", "threads")):
        ratio = statistics.median(x / y for x, y in zip(rates[a], rates[b], strict=True))
        figures[f"{a}_over_{b}"] = round(ratio, 3)
    return figures


def settings(given: argparse.Namespace) -> list[Setting]:
    """What is simulated: more workers; with the most, threads, longer groups, and tasks by two numbers, one worker
    slow or none."""
    numbers = [int(number) for number in given.workers.split(",")]
    most = max(numbers)
    whole = Setting(given.groups, given.seconds, most)
    few = replace(whole, groups=GROUPS_EACH * most, seconds=30 * given.seconds)
    return [
        *(replace(whole, workers=number) for number in numbers),
        replace(whole, threads=True),
        replace(whole, seconds=10 * given.seconds),
        *(replace(few, tasks=tasks, slow=slow) for tasks in (most, 4 * most) for slow in (0, 1)),
    ]


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--groups", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=0.1)
    parser.add_argument("--workers", default="1,4,16,64")
    parser.add_argument("--images", type=int, default=4_800)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--flow", help=argparse.SUPPRESS)
    given = parser.parse_args()
    from flows.engine.server import prefect_server

    if given.flow:
        what = json.loads(given.flow)
        what["setting"] = Setting(**what["setting"])
        with prefect_server(), tempfile.TemporaryDirectory() as folder:
            print(json.dumps(measured(folder=folder, **what)))
        return
    figures: dict[str, Any] = {"simulated": []}
    with tempfile.TemporaryDirectory() as home:
        for setting in settings(given) if given.groups else ():
            figures["simulated"].append(simulated(setting, Path(home)))
            tell(figures["simulated"][-1])
        if given.runs:
            os.environ["PREFECT_HOME"] = home
            with prefect_server():
                figures["real"] = real(given.images, given.runs)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
