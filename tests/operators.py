"""An operator's Prefect: a server that stays, a worker, and what their HTTP API says."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil

from tests.conftest import REPO

#: How often a server is asked again that is too busy to answer.
ATTEMPTS = 30
T = TypeVar("T")
Json = dict[str, Any]


def until(found: Callable[[], T], *, seconds: float, otherwise: Callable[[], str]) -> T:
    """What `found` gives as soon as it is true of anything."""
    end = time.monotonic() + seconds
    while not (is_found := found()):
        assert time.monotonic() < end, otherwise()
        time.sleep(0.1)
    return is_found


def start(*command: str, environment: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    """A process of Prefect's command line, in a group of its own."""
    with log.open("a") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "prefect", *command],
            env=environment,
            cwd=REPO,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )


def end(process: subprocess.Popen[bytes]) -> None:
    """Ends a process of `start`."""
    if process.poll() is not None:
        return
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


class Server:
    """The HTTP API of a server, as its UI uses it."""

    def __init__(self, url: str) -> None:
        self.url = url

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """The answer to a call."""
        for _ in range(ATTEMPTS):
            answer = httpx.request(method, f"{self.url}/{path}", json=body, timeout=120)
            if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                break
            time.sleep(1)  # its database is busy; Prefect's own client asks again as well
        assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json() if answer.content else None

    def is_healthy(self) -> bool:
        """Whether it answers."""
        try:
            return httpx.get(f"{self.url}/health", timeout=5).is_success
        except httpx.TransportError:
            return False

    def find(self, what: str, **wanted: Any) -> list[Json]:
        """All that a filter lets through."""
        found: list[Json] = self.call("POST", f"{what}/filter", {"limit": 200} | wanted)
        return found

    def deployment(self, name: str) -> str:
        """Id of FLOW/DEPLOYMENT."""
        return str(self.call("GET", f"deployments/name/{name}")["id"])

    def trigger(self, name: str, parameters: Json) -> str:
        """A new run of FLOW/DEPLOYMENT."""
        path = f"deployments/{self.deployment(name)}/create_flow_run"
        return str(self.call("POST", path, {"parameters": parameters})["id"])

    def state(self, run: str) -> str:
        """Name of a run's state."""
        return str(self.call("GET", f"flow_runs/{run}")["state"]["name"])

    def states(self, run: str) -> list[str]:
        """Names of the states that a run has had, in order."""
        found = self.call("GET", f"flow_run_states/?flow_run_id={run}")
        return [one["name"] for one in sorted(found, key=lambda one: str(one["timestamp"]))]

    def retry(self, run: str) -> None:
        """What the button Retry of the UI does."""
        state = {"type": "SCHEDULED", "name": "AwaitingRetry", "message": "Retry from the UI"}
        answer = self.call("POST", f"flow_runs/{run}/set_state", {"state": state})
        assert answer["status"] == "ACCEPT", answer

    def family(self, run: str) -> list[str]:
        """A run and the runs that it started, and those that these started."""
        members = [run]
        for member in members:
            children = self.find("flow_runs", flow_runs={"parent_flow_run_id": {"any_": [member]}})
            members += [str(child["id"]) for child in children]
        return members

    def artifacts(self, run: str) -> dict[str, Any]:
        """Data of the artifacts of a run and those that it started, by key; of tables their rows."""
        found = self.find("artifacts", artifacts={"flow_run_id": {"any_": self.family(run)}})
        return {one["key"]: json.loads(one["data"]) if one["type"] == "table" else one["data"] for one in found}


class Worker:
    """A process worker, which can be killed and started again."""

    def __init__(self, pool: str, environment: dict[str, str], log: Path) -> None:
        self.log = log
        self._pool, self._environment = pool, environment
        self.start()

    def start(self) -> None:
        """Starts it."""
        command = ["worker", "start", "--pool", self._pool, "--type", "process"]
        self.process = start(*command, environment=self._environment, log=self.log)

    def processes(self) -> list[psutil.Process]:
        """Its own, of runs, and those that runs started."""
        own = psutil.Process(self.process.pid)
        return [*own.children(recursive=True), own]

    def kill(self) -> None:
        """As a machine that loses its power."""
        for process in self.processes():
            process.kill()
        self.process.wait()


@contextmanager
def patience(server: Server, seconds: int) -> Iterator[None]:
    """Inside the `with`, runs are taken for lost after so many seconds without a sign of life."""
    lost = next(one for one in server.find("automations") if one["name"] == "clip-dissect run is lost")
    given = {name: lost[name] for name in ("name", "description", "trigger", "actions")}
    shorter = given | {"trigger": given["trigger"] | {"within": seconds}}
    server.call("PUT", f"automations/{lost['id']}", shorter)
    try:
        yield
    finally:
        server.call("PUT", f"automations/{lost['id']}", given)
