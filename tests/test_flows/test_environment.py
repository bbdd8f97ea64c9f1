"""The environment of processes that run flows: whose packages they find, what they ask through a proxy."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from urllib.request import proxy_bypass

import httpx
import pytest
from distributed import LocalCluster

from flows.engine import environment
from flows.engine.environment import BOOT, BOOT_SOURCE, PACKAGES, ROOT
from flows.engine.runners import SCHEDULER

PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """A folder of a user's with modules of our names, one of them a package; none may be imported."""
    for name in ("flows", "storage"):
        (tmp_path / f"{name}.py").write_text(f"raise RuntimeError('{name} of the user')")
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "__init__.py").write_text("raise RuntimeError('tasks of the user')")
    (tmp_path / "mine.py").write_text("import storage, tasks\nprint(storage.__file__, tasks.__file__, sep='\\n')")
    return tmp_path


def plain() -> dict[str, str]:
    """The environment, without what this project or a proxy has set."""
    left_out = {*PROXIES, *environment.QUIET}
    return {
        name: value for name, value in os.environ.items() if name.lower() not in left_out and name not in left_out
    }


def run(*command: str | Path, cwd: Path, **given: str) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, command)], cwd=cwd, env=plain() | given, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_process_that_is_booted_finds_our_packages_and_modules_of_the_working_folder(theirs: Path) -> None:
    # As Prefect's workers start runs: the folder stands first on the path.
    found = run("-P", BOOT, "mine", cwd=theirs, PYTHONPATH=str(theirs)).split()
    assert found == [str(ROOT / name / "__init__.py") for name in ("storage", "tasks")]


def test_a_script_finds_our_packages_beside_modules_of_their_names(theirs: Path) -> None:
    (theirs / "flows.py").unlink()
    (theirs / "script.py").write_text("import flows.engine.names\nimport mine\n")
    found = run("script.py", cwd=theirs, PYTHONPATH=f"{theirs}{os.pathsep}{ROOT}").split()
    assert found == [str(ROOT / name / "__init__.py") for name in ("storage", "tasks")]


def test_dask_workers_find_our_packages(theirs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(theirs)
    monkeypatch.setattr(sys, "path", [str(theirs), *sys.path])  # as of a script that lies there
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, scheduler_kwargs=SCHEDULER, preload=[BOOT_SOURCE]) as cluster,
        cluster.get_client() as client,
    ):
        for name in PACKAGES:
            [found] = client.run(eval, f"__import__({name!r}).__file__").values()
            assert found == str(ROOT / name / "__init__.py")


def test_a_module_of_our_names_that_is_imported_already_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = ModuleType("tasks")
    theirs.__file__ = "/home/somebody/tasks.py"
    monkeypatch.setitem(sys.modules, "tasks", theirs)
    with pytest.raises(ImportError, match=r"'tasks' of /home/somebody/tasks.py is imported already.*Rename yours"):
        environment.pin_packages()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, "127.0.0.1,localhost,::1"),
        ({"no_proxy": "example.com"}, "example.com,127.0.0.1,localhost,::1"),
        ({"NO_PROXY": " a, b ,"}, "a,b,127.0.0.1,localhost,::1"),
        ({"no_proxy": "a", "NO_PROXY": "b"}, "a,127.0.0.1,localhost,::1"),
        ({"no_proxy": "", "NO_PROXY": "b"}, "b,127.0.0.1,localhost,::1"),
        ({"NO_PROXY": "localhost"}, "localhost,127.0.0.1,::1"),
        ({"no_proxy": "*"}, "*"),
    ],
)
def test_loopback_joins_the_hosts_without_a_proxy(before: dict[str, str], after: str) -> None:
    environment.leave_loopback_to_itself(before)
    assert (before["no_proxy"], before["NO_PROXY"]) == (after, after)
    environment.leave_loopback_to_itself(before)
    assert before["no_proxy"] == after


def test_the_proxy_of_all_else_stays_in_force(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    environment.leave_loopback_to_itself(os.environ)
    assert proxy_bypass("127.0.0.1:4200") and proxy_bypass("localhost:1") and not proxy_bypass("example.com")
    with httpx.Client() as client:
        proxied = client._transport_for_url(httpx.URL("http://example.com"))
        assert client._transport_for_url(httpx.URL("http://127.0.0.1:4200/api")) is client._transport is not proxied


@pytest.mark.parametrize("proxy", ["socks4://127.0.0.1:9", "nonsense://127.0.0.1:9"])
def test_prefect_is_asked_where_no_client_can_use_the_proxy(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.client import base

    for client in (base.PrefectHttpxSyncClient, base.PrefectHttpxAsyncClient):
        monkeypatch.setattr(client, "__init__", client.__init__)
    monkeypatch.setenv("ALL_PROXY", proxy)
    with pytest.raises(ValueError):
        base.PrefectHttpxSyncClient()
    environment.ask_prefect_directly()
    base.PrefectHttpxSyncClient().close()
    base.PrefectHttpxAsyncClient()
    monkeypatch.setenv("ALL_PROXY", "")


@pytest.mark.parametrize(
    ("url", "is_here"),
    [
        ("http://127.0.0.1:4200/api", True),
        ("http://localhost/api", True),
        ("http://[::1]:4200/api", True),
        ("http://127.9.9.9/api", True),
        ("https://api.prefect.cloud/api", False),
        ("http://localhost.example.com/api", False),
        ("", False),
    ],
)
def test_loopback_is_known_by_its_names(url: str, is_here: bool) -> None:
    assert environment.is_on_loopback(url) is is_here


def test_telemetry_is_off_where_a_flow_is_imported_and_the_user_s_word_counts(tmp_path: Path) -> None:
    program = "import flows, os, sys; print(*[os.environ[name] for name in sys.argv[1:]], 'prefect' in sys.modules)"
    names = ("DO_NOT_TRACK", "PREFECT_SERVER_ANALYTICS_ENABLED")
    assert run("-c", program, *names, cwd=ROOT).split() == ["1", "false", "False"]
    said = run("-c", program, *names, cwd=ROOT, DO_NOT_TRACK="0", PREFECT_SERVER_ANALYTICS_ENABLED="true")
    assert said.split() == ["0", "true", "False"]
