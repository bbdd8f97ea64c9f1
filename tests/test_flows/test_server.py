"""The Prefect server that a run brings: its records are complete, and nothing leaves it behind."""

from __future__ import annotations

import io
import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import IO, Any

import httpx
import pytest

from tests.conftest import REPO, take_ctrl_c

NUM_TASKS = 150
PROGRAM = """
import sys
from flows.engine.server import prefect_server

sys.modules["flows.dissect"] = sys  # it would be imported while the server starts, and torch with it

with prefect_server() as url:
    from prefect import flow, task
    from prefect.cache_policies import NO_CACHE
    from flows.engine.progress import follow

    @task(cache_policy=NO_CACHE)
    def one(i):
        return i

    @flow
    def many():
        follow("count", [(one.submit(i), 1) for i in range(int(sys.argv[2]))])

    many()
    print(url, flush=True)
    if sys.argv[1] == "hang":
        import time
        time.sleep(120)
"""


def start(
    mode: str, num_tasks: int, home: Path, errors: IO[str] | None = None, **given: Any
) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, mode, str(num_tasks)],
        env=environment | {"PREFECT_HOME": str(home), "PYTHONPATH": str(REPO)} | given,
        cwd=home,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        start_new_session=True,
        preexec_fn=take_ctrl_c,
    )


def is_up(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=5).is_success
    except httpx.TransportError:
        return False


def test_every_task_of_a_run_is_on_record_behind_proxies_and_beside_modules_of_our_names(prefect_home: Path) -> None:
    for name in ("tasks", "storage", "uvicorn"):
        (prefect_home / f"{name}.py").write_text("raise RuntimeError('of the user')")
    proxies = {"http_proxy": "http://127.0.0.1:9", "ALL_PROXY": "socks5://127.0.0.1:9", "no_proxy": "example.com"}
    run = start("end", NUM_TASKS, prefect_home, **proxies)
    output, _ = run.communicate(timeout=180)
    assert run.returncode == 0
    assert not is_up(output.strip())
    with closing(sqlite3.connect(prefect_home / "prefect.db")) as database:
        counted = dict(database.execute("select state_type, count(*) from task_run group by state_type"))
    assert counted == {"COMPLETED": NUM_TASKS}


@pytest.mark.skipif(sys.platform == "win32", reason="kill -9 is a thing of POSIX")
def test_the_server_dies_with_a_run_that_is_killed(prefect_home: Path) -> None:
    run = start("hang", 1, prefect_home)
    assert run.stdout is not None
    url = run.stdout.readline().strip()
    assert is_up(url)
    run.send_signal(signal.SIGKILL)
    run.wait()
    run.stdout.close()
    until = time.monotonic() + 20
    while is_up(url) and time.monotonic() < until:
        time.sleep(0.1)
    assert not is_up(url)


def test_ctrl_c_stops_the_run_and_not_its_server_first(prefect_home: Path, tmp_path: Path) -> None:
    with (tmp_path / "errors").open("w") as errors:
        run = start("hang", 1, prefect_home, errors)
    assert run.stdout is not None
    assert is_up(run.stdout.readline().strip())
    os.killpg(run.pid, signal.SIGINT)  # as a terminal does: to every process of the group
    run.wait(timeout=30)
    run.stdout.close()
    lines = (tmp_path / "errors").read_text().splitlines()
    assert lines[-1] == "KeyboardInterrupt"
    assert not any("Connect" in line for line in lines)


def test_a_server_that_cannot_use_its_database_says_so_in_words(tmp_path: Path) -> None:
    (tmp_path / "prefect.db").mkdir()
    with (tmp_path / "errors").open("w") as errors:
        run = start("end", 1, tmp_path, errors)
    run.communicate(timeout=180)
    said = (tmp_path / "errors").read_text()
    assert run.returncode == 1
    assert "The Prefect server of this run" in said and "unable to open database file" in said


def test_a_database_that_was_locked_is_told_once_and_without_a_traceback(tmp_path: Path) -> None:
    from flows.engine import server

    told: list[str] = []
    traceback = b"Traceback (most recent call last):\nsqlite3.OperationalError: database is locked\n"
    for logged in (b"", traceback, 2 * traceback):
        server._tell_of_locks(io.BytesIO(logged), tmp_path, told.append)
    assert len(told) == 2
    assert f"the database of Prefect in {tmp_path} was locked" in told[0] and "Traceback" not in told[0]


def test_a_configured_server_is_the_one_used(prefect_api: str) -> None:
    from flows.engine.server import prefect_server

    with prefect_server() as url:
        assert url == prefect_api


def test_runs_tasks_and_artifacts_say_what_they_are_about(prefect_api: str, base: dict[str, object]) -> None:
    del base  # it has run

    def names(what: str, field: str, **wanted: object) -> set[str]:
        return {row[field] for row in httpx.post(f"{prefect_api}/{what}/filter", json=wanted, timeout=30).json()}

    flows = names("flow_runs", "name")
    assert "dissect tests.tiny_models:colours" in flows
    assert "embed with precomputed embeddings, record tests.tiny_models:colours conv,head" in flows
    assert {"labels-conv", "labels-head", "progress-label"} <= names("artifacts", "key")
    until = time.monotonic() + 30  # task records are written some time after their tasks end
    wanted = {"shard 0", "index", "observe images 0-47: embeddings, conv, head", "label conv", "label head"}
    named = {"name": {"any_": sorted(wanted)}}  # of all task runs of the session's tests, a page would be too short
    while wanted != names("task_runs", "name", task_runs=named) and time.monotonic() < until:
        time.sleep(0.2)
    assert wanted == names("task_runs", "name", task_runs=named)


LISTENER = """
import os, sys

def listen(event, arguments):
    if event == "socket.connect" and isinstance(arguments[1], tuple):
        host = arguments[1][0]
    elif event == "socket.getaddrinfo":
        host = arguments[0]
    else:
        return
    with open(os.environ["HEARD"], "a") as file:
        file.write(f"{host}\\n")

sys.addaudithook(listen)
"""


def test_a_run_contacts_nothing_but_this_machine(base: dict[str, Any], prefect_home: Path, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(LISTENER)
    heard = tmp_path / "heard"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment |= {"PREFECT_HOME": str(prefect_home), "PYTHONPATH": str(tmp_path), "HEARD": str(heard)}
    program = "from flows.__main__ import main; main()"
    spec = Path(base["out"]) / "spec.yaml"
    arguments = ["run", "--spec", spec, "--store", tmp_path / "store", "--out", tmp_path / "out"]
    arguments += ["--target", base["target"]]
    subprocess.run([sys.executable, "-c", program, *map(str, arguments)], cwd=REPO, env=environment, check=True)
    assert set(heard.read_text().split()) <= {"127.0.0.1", "localhost", "::1", "None"}
    assert heard.read_text()
