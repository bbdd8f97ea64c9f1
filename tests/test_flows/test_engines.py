"""A Dask cluster that is there already: found by its address; a run outlives a worker and gives the same tables."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks.sample.draw import write_probe
from tests.conftest import REPO
from tests.test_flows.test_dissect import Run, tables

NUM_WORKERS = 2


class Cluster:
    """A scheduler and workers, each a process started by hand, which know nothing of Prefect."""

    def __init__(self, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
        self.folder = folder
        self.processes = [self._start("scheduler", "--host", self.address, "--no-dashboard")]
        workers = ["worker", self.address, "--nthreads", "1", "--no-nanny", "--no-dashboard"]
        self.processes += [self._start(*workers, "--name", f"worker{number}") for number in range(NUM_WORKERS)]

    def _start(self, *command: str) -> subprocess.Popen[bytes]:
        plain = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        with (self.folder / f"{command[-1]}.log").open("w") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "distributed.cli.dask_" + command[0], *command[1:]],
                env=plain | {"PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"},
                stdout=log,
                stderr=log,
            )

    def kill_a_worker_when(self, is_time: Callable[[], bool]) -> threading.Thread:
        """Kills a worker as soon as `is_time`, from a thread that ends then."""

        def wait_and_kill() -> None:
            until = time.monotonic() + 120
            while not is_time() and time.monotonic() < until:
                time.sleep(0.02)
            self.processes[1].send_signal(signal.SIGKILL)

        thread = threading.Thread(target=wait_and_kill)
        thread.start()
        return thread

    def end(self) -> None:
        for process in reversed(self.processes):
            process.kill()
            process.wait()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path)
    try:
        yield cluster
    finally:
        cluster.end()


def test_a_cluster_at_an_address_outlives_a_worker_and_gives_the_same_tables(
    cluster: Cluster, run: Run, base: dict[str, Any], tmp_path: Path
) -> None:
    # Three shard groups, of which the last ends in a short batch, as the texts of the concepts do: those are what
    # threads and processes would multiply in another order.
    write_probe(tmp_path / "drawn", 600)
    parameters = base | {
        "probe": str(tmp_path / "drawn"),
        "target": "sample",
        "layers": ("head",),
        "clip": "sample",
        "concepts": "sample",
        "image_embeddings": None,
        "concept_embeddings": None,
        "truth": None,
    }
    there = {"store": str(tmp_path / "there"), "out": str(tmp_path / "there-out")}
    marked = tmp_path / "there" / "activations"
    killer = cluster.kill_a_worker_when(lambda: any(marked.glob("*.done/head/*.json")))
    assert run(**(parameters | there | {"dask_address": cluster.address}))["embed and record"] == 600
    killer.join()
    assert cluster.processes[1].wait(10) == -signal.SIGKILL
    here = {"store": str(tmp_path / "here"), "out": str(tmp_path / "here-out")}
    run(**(parameters | here))
    assert tables(tmp_path / "there-out") == tables(tmp_path / "here-out")
