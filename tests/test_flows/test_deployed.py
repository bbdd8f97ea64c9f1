"""A Prefect server that stays and a process worker: deploy, submit, watch, status, as an operator types them."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import pytest

from tests.conftest import REPO, make_prefect_home
from tests.test_flows.test_dissect import tables

Shell = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory, prefect_api: str) -> Iterator[dict[str, str]]:
    """The environment of an operator: a server on loopback, with a database of its own."""
    folder = tmp_path_factory.mktemp("server")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    plain = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment = plain | {
        "PREFECT_HOME": str(make_prefect_home(folder / "home")),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "PYTHONPATH": str(REPO),
    }
    with (folder / "server.log").open("w") as log:
        command = ["server", "start", "--host", "127.0.0.1", "--port", str(port)]
        server = start(*command, environment=environment, log=log)
        try:
            until = time.monotonic() + 120
            while not is_healthy(environment["PREFECT_API_URL"]):
                assert time.monotonic() < until and server.poll() is None, (folder / "server.log").read_text()
                time.sleep(0.2)
            yield environment
        finally:
            end(server)


def start(*command: str, environment: dict[str, str], log: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "prefect", *command],
        env=environment,
        cwd=REPO,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )


def end(process: subprocess.Popen[bytes]) -> None:
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def is_healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=5).is_success
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def shell(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """Runs `clip-dissect`, in a folder that is not the project's."""
    folder = tmp_path_factory.mktemp("here")

    def run(*arguments: str, cwd: Path = folder) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "flows", *arguments]
        return subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True, timeout=240)

    return run


@pytest.fixture(scope="module")
def worker(environment: dict[str, str], shell: Shell, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """All flows deployed, and a process worker; gives the worker's log."""
    done = shell("deploy", "--pool", "lab")
    assert done.returncode == 0, done.stderr
    assert "dissect/dissect" in done.stdout.splitlines()
    log = tmp_path_factory.mktemp("worker") / "worker.log"
    with log.open("w") as file:
        process = start("worker", "start", "--pool", "lab", "--type", "process", environment=environment, log=file)
        try:
            yield log
        finally:
            end(process)


def options(parameters: dict[str, Any]) -> list[str]:
    """As typed."""
    words = []
    for name, value in parameters.items():
        words += [f"--{name.replace('_', '-')}", ",".join(value) if isinstance(value, tuple) else str(value)]
    return words


def related_to_the_asset(key: str, url: str) -> set[str]:
    """What the server says an asset was made of."""
    wanted = {"filter": {"event": {"name": ["prefect.asset.materialization.succeeded"]}}, "limit": 50}
    until = time.monotonic() + 30
    while time.monotonic() < until:
        found = httpx.post(f"{url}/events/filter", json=wanted, timeout=30).json()["events"]
        for event in found:
            if event["resource"]["prefect.resource.id"] == key:
                return {resource["prefect.resource.id"] for resource in event["related"]}
        time.sleep(0.5)
    raise AssertionError(f"The server has no asset {key}.")


def test_a_run_is_triggered_and_watched_from_the_shell_and_gives_the_same_tables(
    worker: Path,
    shell: Shell,
    environment: dict[str, str],
    tiny: dict[str, Any],
    base: dict[str, Any],
    tmp_path: Path,
) -> None:
    # Paths as typed in a folder: a worker has another one.
    relative = {
        name: os.path.relpath(value, tmp_path) if str(value).startswith(str(tmp_path)) else value
        for name, value in tiny.items()
    }
    done = shell("submit", "--watch", *options(relative), cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr + worker.read_text()
    assert "Completed" in done.stdout
    assert re.search(r"embed and record\s+100 %", done.stdout)
    assert re.search(r"head\s+4\s+0\s.*red, green, blue, grey", done.stdout)
    assert str(tmp_path / "out" / "report.html") in done.stdout.replace("\n", "")
    assert tables(tmp_path / "out") == tables(Path(base["out"]))
    labels = pd.read_parquet(tmp_path / "out" / "labels.parquet")
    assert set(labels["layer"]) == {"conv", "head"}
    made_of = related_to_the_asset(f"file://{tmp_path}/out/labels.parquet", environment["PREFECT_API_URL"])
    assert "clipdissect://targets/tests.tiny_models:colours" in made_of
    assert any(key.startswith(f"file://{tmp_path}/store/probes/") for key in made_of)

    listed = shell("status").stdout.splitlines()
    assert listed[0].endswith("dissect tests.tiny_models:colours") and "Completed" in listed[0]
    shown = shell("status", listed[0].split()[0]).stdout
    assert re.search(r"head\s+4\s+0\s.*red, green, blue, grey", shown)


def test_a_run_that_fails_says_why_where_it_is_watched(worker: Path, shell: Shell, tiny: dict[str, Any]) -> None:
    done = shell("submit", "--watch", *options(tiny | {"layers": ("haed",)}))
    assert done.returncode == 1
    assert "The run ended as Failed" in done.stderr
    assert "There is no layer 'haed'. Nearest: head" in done.stdout


def test_what_is_not_there_is_told_with_what_is(worker: Path, shell: Shell, tiny: dict[str, Any]) -> None:
    del worker
    done = shell("submit", "--deployment", "dissect/disect", *options(tiny))
    assert done.returncode == 1
    known = "dissect-new/dissect-nightly, dissect/dissect, label-neurons/label"
    assert f"There is no deployment 'dissect/disect', but {known}" in done.stderr
    nobody = "00000000-0000-0000-0000-000000000000"
    assert f"The server has no run {nobody}" in shell("status", nobody).stderr


def test_a_pool_of_another_type_is_refused(shell: Shell, environment: dict[str, str]) -> None:
    pool = {"name": "docks", "type": "docker"}
    httpx.post(f"{environment['PREFECT_API_URL']}/work_pools/", json=pool, timeout=30).raise_for_status()
    done = shell("deploy", "--pool", "docks")
    assert done.returncode == 1
    assert "The work pool docks is of type docker" in done.stderr and "deployments/README.md" in done.stderr


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "No Prefect server is configured. Start one"),
        ("http://127.0.0.1:9/api", "http://127.0.0.1:9/api does not"),
    ],
)
def test_a_server_that_is_not_there_is_told(url: str, message: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    command = [sys.executable, "-m", "flows", "status"]
    given = environment | ({"PREFECT_API_URL": url} if url else {}) | {"PYTHONPATH": str(REPO)}
    done = subprocess.run(command, env=given, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert message in done.stderr and "Traceback" not in done.stderr
