"""A Prefect server that stays and a process worker: deploy, submit, watch, status, as an operator types them."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.__main__ import cli
from tasks.spec import DissectSpec
from tests.conftest import REPO, draw_images, write_embeddings
from tests.operators import Server, Worker, end, patience, start, until
from tests.test_flows.conftest import Counting, parameters
from tests.test_flows.test_dissect import tables
from tests.tiny_models import GPU, HOLD_UP, ColourNet, gpu_is_free

#: Seconds until what is awaited has failed to come, on a machine that is busy with other things too.
PATIENCE = 240
#: What counts the GPUs of the worker's pool.
LIMIT = "clip-dissect-gpus-lab"
Shell = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory, empty_home: Path) -> Iterator[dict[str, str]]:
    """The environment of an operator: a server on loopback, with a database of its own."""
    folder = tmp_path_factory.mktemp("server")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    plain = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment = plain | {
        "PREFECT_HOME": str(shutil.copytree(empty_home, folder / "home")),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EVENTS_PROACTIVE_GRANULARITY": "PT1S",
        "DO_NOT_TRACK": "1",
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "2",
        "PREFECT_SERVER_SERVICES_REPOSSESSOR_LOOP_SECONDS": "1",
        "PREFECT_SERVER_CONCURRENCY_MAXIMUM_CONCURRENCY_SLOT_WAIT_SECONDS": "1",
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        "PYTHONPATH": str(REPO),
        HOLD_UP: str(folder / "hold-up"),
    }
    log = folder / "server.log"
    process = start("server", "start", "--host", "127.0.0.1", "--port", str(port), environment=environment, log=log)
    try:
        server = Server(environment["PREFECT_API_URL"])
        until(lambda: server.is_healthy() or process.poll() is not None, seconds=120, otherwise=log.read_text)
        assert process.poll() is None, log.read_text()
        yield environment
    finally:
        end(process)


@pytest.fixture(scope="module")
def server(environment: dict[str, str]) -> Server:
    return Server(environment["PREFECT_API_URL"])


@pytest.fixture(scope="module")
def shell(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """Runs `clip-dissect`, in a folder that is not the project's."""
    folder = tmp_path_factory.mktemp("here")

    def run(*arguments: str, cwd: Path = folder) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "flows", *arguments]
        return subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True, timeout=PATIENCE)

    return run


@pytest.fixture(scope="module")
def worker(environment: dict[str, str], shell: Shell, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """All flows deployed to a pool with one GPU, and a process worker."""
    done = shell("deploy", "--pool", "lab", "--gpus", "1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2] == f"GPUs: 1, by the limit {LIMIT}"
    assert "dissect/dissect" in done.stdout.splitlines()
    worker = Worker("lab", environment, tmp_path_factory.mktemp("worker") / "worker.log")
    try:
        yield worker
    finally:
        end(worker.process)


def options(parameters: dict[str, Any]) -> list[str]:
    """As typed."""
    words = []
    for name, value in parameters.items():
        words += [f"--{name.replace('_', '-')}", ",".join(value) if isinstance(value, tuple) else str(value)]
    return words


def as_json(parameters: dict[str, Any]) -> dict[str, Any]:
    """As the form of the UI sends them."""
    return DissectSpec(**parameters).model_dump(mode="json", exclude_unset=True)


def related_to_the_asset(key: str, server: Server) -> set[str]:
    """What the server says an asset was made of."""
    wanted = {"event": {"name": ["prefect.asset.materialization.succeeded"]}}

    def found() -> set[str]:
        events = server.call("POST", "events/filter", {"filter": wanted, "limit": 50})["events"]
        of_key = [event for event in events if event["resource"]["prefect.resource.id"] == key]
        return {resource["prefect.resource.id"] for event in of_key for resource in event["related"]}

    return until(found, seconds=30, otherwise=lambda: f"The server has no asset {key}.")


def test_a_run_is_triggered_and_watched_from_the_shell_and_gives_the_same_tables(
    worker: Worker,
    shell: Shell,
    server: Server,
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
    assert done.returncode == 0, done.stdout + done.stderr + worker.log.read_text()
    assert "Completed" in done.stdout
    assert re.search(r"embed and record\s+100 %", done.stdout)
    assert re.search(r"head\s+4\s+0\s.*red, green, blue, grey", done.stdout)
    assert str(tmp_path / "out" / "report" / "index.html") in done.stdout.replace("\n", "")
    assert tables(tmp_path / "out") == tables(Path(base["out"]))
    labels = pd.read_parquet(tmp_path / "out" / "labels.parquet")
    assert set(labels["layer"]) == {"conv", "head"}
    made_of = related_to_the_asset(f"file://{tmp_path}/out/labels.parquet", server)
    assert "clipdissect://targets/tests.tiny_models:colours" in made_of
    assert any(key.startswith(f"file://{tmp_path}/store/probes/") for key in made_of)

    listed = shell("status").stdout.splitlines()
    assert listed[0].endswith("dissect tests.tiny_models:colours") and "Completed" in listed[0]
    shown = shell("status", listed[0].split()[0]).stdout
    assert re.search(r"head\s+4\s+0\s.*red, green, blue, grey", shown)


def test_a_run_that_fails_says_why_where_it_is_watched(worker: Worker, shell: Shell, tiny: dict[str, Any]) -> None:
    done = shell("submit", "--watch", *options(tiny | {"layers": ("haed",)}))
    assert done.returncode == 1
    assert "The run ended as Failed" in done.stderr
    assert "There is no layer 'haed'. Nearest: head" in done.stdout


def test_what_is_not_there_is_told_with_what_is(worker: Worker, shell: Shell, tiny: dict[str, Any]) -> None:
    del worker
    done = shell("submit", "--deployment", "dissect/disect", *options(tiny))
    assert done.returncode == 1
    known = "dissect-new/dissect-nightly, dissect/dissect, label-neurons/label"
    assert f"There is no deployment 'dissect/disect', but {known}" in done.stderr
    nobody = "00000000-0000-0000-0000-000000000000"
    assert f"The server has no run {nobody}" in shell("status", nobody).stderr


def test_a_pool_of_another_type_is_refused(shell: Shell, server: Server) -> None:
    server.call("POST", "work_pools/", {"name": "docks", "type": "docker"})
    done = shell("deploy", "--pool", "docks")
    assert done.returncode == 1
    assert "The work pool docks is of type docker" in done.stderr and "deployments/README.md" in done.stderr


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Parameters of a run on three shard groups of images, which can be held up after the first."""
    folder = tmp_path_factory.mktemp("many")
    images = draw_images(folder / "images", per_colour=150)
    shared = parameters(folder, images, write_embeddings(images, folder))
    return shared | {"target": "tests.tiny_models:held_up", "layers": ("head",)}


@pytest.fixture(scope="module")
def undisturbed(many: dict[str, Any], prefect_api: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Tables of that run where nothing holds it up."""
    from flows.dissect import dissect

    dissect(DissectSpec(**many))
    return tables(Path(many["out"]))


@pytest.fixture
def begun(
    worker: Worker, server: Server, environment: dict[str, str], many: dict[str, Any], tmp_path: Path
) -> Iterator[Callable[[], Begun]]:
    """Triggers such a run with a store of its own, and gives it when it is held up in its midst."""
    hold_up = Path(environment[HOLD_UP])
    hold_up.touch()

    def begin() -> Begun:
        own = {
            "target": "tests.tiny_models:held_up_on_a_gpu",
            "store": str(tmp_path / "store"),
            "out": str(tmp_path / "out"),
        }
        run = server.trigger("dissect/dissect", {"spec": as_json(many | own)})
        begun = Begun(run, tmp_path, hold_up)
        until(lambda: begun.is_in_its_midst(), seconds=PATIENCE, otherwise=worker.log.read_text)
        return begun

    try:
        yield begin
    finally:
        hold_up.unlink(missing_ok=True)
        hold_up.with_suffix(".reached").unlink(missing_ok=True)


@dataclass(frozen=True)
class Begun:
    """A run that is held up."""

    run: str
    folder: Path
    hold_up: Path

    def is_in_its_midst(self) -> bool:
        """Whether it waits, and has something done."""
        return self.hold_up.with_suffix(".reached").is_file() and any(self.done())

    def done(self) -> dict[Path, tuple[int, int]]:
        """What is finished of shards and activations: files, and when they were written."""
        files = [*self.folder.glob("store/probes/*/*"), *self.folder.glob("store/activations/*.done/head/*.json")]
        return {file: (file.stat().st_ino, file.stat().st_mtime_ns) for file in files if file.is_file()}

    def let_go(self) -> None:
        """Holds up nothing any more."""
        self.hold_up.unlink()


def slots_taken(server: Server) -> int:
    """GPUs of the pool that are in use, as the server counts them."""
    return int(server.call("GET", f"v2/concurrency_limits/{LIMIT}")["active_slots"])


def forget_leases(environment: dict[str, str]) -> None:
    """Has leases end now that nobody renews, rather than in their two minutes."""
    index = Path(environment["PREFECT_HOME"]) / "concurrency_leases" / "expirations.json"
    leases, over = json.loads(index.read_text()), {"expiration": "2000-01-01T00:00:00+00:00"}
    for lease in leases:
        file = index.with_name(f"{lease}.json")
        file.write_text(json.dumps(json.loads(file.read_text()) | over))
    index.write_text(json.dumps(dict.fromkeys(leases, over["expiration"])))


@contextmanager
def run_on_the_gpu(spec: DissectSpec, server: Server) -> Iterator[Counting]:
    """A run of the deployment in this process, on a GPU that is not there; ends before the `with` does."""
    from flows.dissect import dissect
    from flows.engine.progress import observed_by

    observer, began = Counting(), server.deployment("dissect/dissect")
    with pytest.MonkeyPatch.context() as patch, temporary_settings({PREFECT_API_URL: server.url}):
        # As in a worker's process, where Prefect knows what began the run.
        patch.setenv("PREFECT__RUNTIME__DEPLOYMENT__ID", began)
        patch.setattr("flows.engine.gpus.choose_devices", lambda wanted: (GPU,))
        with observed_by(observer), ThreadPoolExecutor(1) as threads:
            ended = threads.submit(copy_context().run, dissect, spec)
            yield observer
            ended.result(PATIENCE)


def test_a_run_that_is_cancelled_frees_its_device_and_goes_on_when_it_is_retried(
    begun: Callable[[], Begun], worker: Worker, server: Server, undisturbed: dict[str, bytes], tiny: dict[str, Any]
) -> None:
    it = begun()
    processes, done = worker.processes()[:-1], it.done()
    assert processes and not gpu_is_free(it.hold_up.parent)

    waits = f"Waiting for 1 of the 1 GPUs of lab: other runs have them ({LIMIT})."
    with run_on_the_gpu(DissectSpec(**tiny), server) as other:
        until(lambda: waits in other.notes, seconds=PATIENCE, otherwise=lambda: f"{other.notes}")
        assert "embed and record" not in other.done and slots_taken(server) == 1
        with temporary_settings({PREFECT_API_URL: server.url}):
            cancelled = CliRunner().invoke(cli, ["cancel", it.run])
    assert other.done["embed and record"] == 48 and slots_taken(server) == 0
    assert gpu_is_free(it.hold_up.parent)
    assert [process for process in processes if process.is_running()] == []
    assert cancelled.exit_code == 0, cancelled.output
    assert cancelled.output.splitlines()[-1] == server.state(it.run) == "Cancelled"
    with temporary_settings({PREFECT_API_URL: server.url}):
        assert "there is nothing to cancel" in CliRunner().invoke(cli, ["cancel", it.run]).output

    it.let_go()
    server.retry(it.run)
    until(lambda: server.state(it.run) == "Completed", seconds=PATIENCE, otherwise=worker.log.read_text)
    assert done.items() <= it.done().items()
    assert tables(it.folder / "out") == undisturbed


def test_a_run_whose_machine_dies_is_marked_and_goes_on_by_itself(
    begun: Callable[[], Begun],
    worker: Worker,
    server: Server,
    environment: dict[str, str],
    undisturbed: dict[str, bytes],
) -> None:
    with patience(server, 30):
        it = begun()
        done = it.done()
        worker.kill()
        until(lambda: gpu_is_free(it.hold_up.parent), seconds=10, otherwise=worker.log.read_text)
        assert slots_taken(server) == 1
        forget_leases(environment)
        until(lambda: slots_taken(server) == 0, seconds=PATIENCE, otherwise=lambda: "The slot is not free.")
        it.let_go()
        worker.start()
        until(lambda: server.state(it.run) == "Completed", seconds=PATIENCE, otherwise=worker.log.read_text)
    states = server.states(it.run)
    assert states[states.index("Running") :][:3] == ["Running", "Crashed", "AwaitingRetry"]
    assert {server.state(run) for run in server.family(it.run)} <= {"Completed", "Crashed"}
    assert done.items() <= it.done().items()
    assert tables(it.folder / "out") == undisturbed


def test_a_run_on_gpus_that_nothing_counts_fails_at_its_start(
    worker: Worker, server: Server, tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.dissect import dissect
    from flows.engine import gpus, remote
    from tasks.models import devices

    # As in a worker's process, where Prefect knows what began the run.
    monkeypatch.setenv("PREFECT__RUNTIME__DEPLOYMENT__ID", server.deployment("dissect/dissect"))
    monkeypatch.setattr(gpus, "choose_devices", lambda wanted: (torch.device("cuda", 0), torch.device("cuda", 1)))
    with temporary_settings({PREFECT_API_URL: server.url}), remote.server() as client:
        with pytest.raises(
            gpus.GpuError, match=rf"asks for 2 GPUs, and .* lab has 1 by its limit {LIMIT}\. .*--device"
        ):
            dissect(DissectSpec(**tiny))
        assert (remote.limit_gpus(client, "lab", 2), remote.limit_gpus(client, "lab")) == (2, 2)
        gpus.check_gpus(DissectSpec(**tiny))
        server.call("DELETE", f"v2/concurrency_limits/{LIMIT}")
        gpus.check_gpus(DissectSpec(**tiny, share_devices=True))
        with pytest.raises(gpus.GpuError, match=rf"no limit {LIMIT}.*`clip-dissect deploy --pool lab --gpus N`"):
            dissect(DissectSpec(**tiny))
        # Where nothing counts them, those of the machine that is deployed from.
        monkeypatch.setattr(devices, "cuda_devices", lambda: ())
        assert remote.limit_gpus(client, "lab") is None
        monkeypatch.setattr(devices, "cuda_devices", lambda: (GPU,))
        assert (remote.limit_gpus(client, "lab"), remote.limit_gpus(client, "lab")) == (1, 1)
    assert not Path(tiny["store"], "probes").exists()


def test_deploying_again_leaves_automations_as_their_operator_has_them(worker: Worker, server: Server) -> None:
    from flows.engine import remote

    def within() -> float:
        found = server.find("automations")
        [lost] = [one for one in found if one["name"] == "clip-dissect run is lost"]
        return float(lost["trigger"]["within"])

    lost = next(one for one in server.find("automations") if one["name"] == "clip-dissect run is lost")
    server.call("PATCH", f"automations/{lost['id']}", {"enabled": False})
    with temporary_settings({PREFECT_API_URL: server.url}), remote.server() as client:
        remote.automate(client)
        assert within() == 400
        remote.automate(client, lost_after=120)
        assert within() == 120
        remote.automate(client, lost_after=400)
    names = {one["name"]: one["enabled"] for one in server.find("automations")}
    server.call("PATCH", f"automations/{lost['id']}", {"enabled": True})
    assert names == {"clip-dissect run is lost": False, "clip-dissect run goes on": True}
    assert len(server.find("automations")) == 2


def test_a_checkpoint_is_dissected_on_a_schedule_and_its_labels_are_in_the_artifacts(
    worker: Worker, server: Server, tiny: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "checkpoints").mkdir()
    torch.save(ColourNet().state_dict(), tmp_path / "checkpoints" / "step-100.pt")
    deployment = server.deployment("dissect-new/dissect-nightly")
    given = {"spec": as_json(tiny | {"truth": None}), "checkpoints": str(tmp_path / "checkpoints")}
    soon = (datetime.now(UTC) + timedelta(seconds=10)).isoformat()
    schedule = {"active": True, "schedule": {"interval": 30, "anchor_date": soon}, "parameters": given}
    schedules = f"deployments/{deployment}/schedules"
    made = server.call("POST", schedules, [schedule])[0]["id"]

    def finished() -> list[dict[str, Any]]:
        of_deployment = {"deployment_id": {"any_": [deployment]}}
        runs = server.find("flow_runs", flow_runs={**of_deployment, "state": {"name": {"any_": ["Completed"]}}})
        return [run for run in runs if run["auto_scheduled"]]

    try:
        run = until(finished, seconds=PATIENCE, otherwise=worker.log.read_text)[-1]
    finally:
        server.call("PATCH", f"{schedules}/{made}", {"active": False})
    shown = server.artifacts(run["id"])
    assert [row["what"] for row in shown["checkpoints"]] == ["dissected"]
    assert "| head | 4 | 0 |" in shown["dissection"] and "red, green, blue, grey" in shown["dissection"]
    assert [row["concept"] for row in shown["labels-head"]] == ["red", "green", "blue", "grey"]
    assert sum(row["images"] for row in shown["passes-embed-and-record"]) == 48
    assert (tmp_path / "out" / "step-100" / "labels.parquet").is_file()


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
