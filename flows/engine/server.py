"""A Prefect server of the run's own, where none is configured.

Prefect's temporary server loses task records under load and outlives a killed run. This one keeps them all, in the
user's usual Prefect database, and dies with the run however that ends: it reads from a pipe whose other end only
the run holds, and the kernel closes that end even after `kill -9`.
"""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO
from urllib.error import URLError
from urllib.request import urlopen

from filelock import FileLock

from flows.engine.environment import ask_prefect_directly, is_on_loopback

#: The program of the server's process.
SERVER = Path(__file__).with_name("server_process.py")
#: Services of a long-lived server. A run's own would start other people's schedules and mark their runs late.
SERVICES_OFF = {
    f"PREFECT_SERVER_SERVICES_{name}_ENABLED": "false"
    for name in ("SCHEDULER", "LATE_RUNS", "FOREMAN", "CANCELLATION_CLEANUP", "PAUSE_EXPIRATIONS", "TRIGGERS")
}
STARTUP_SECONDS = 120.0
#: What SQLite says where another process, or a slow disk, has kept its file for longer than Prefect waits: a minute.
LOCKED = "database is locked"
#: What to do where no server starts.
WAY_OUT = (
    "Set PREFECT_HOME to another folder on a disk of this machine, or start a server yourself with `prefect server "
    "start` and set PREFECT_API_URL. --debug shows all that it logs."
)
#: How long after the last record that came in the server of a run is taken to have them all.
STALLED_SECONDS = 5.0


class ServerError(RuntimeError):
    """A Prefect server of a run's own that did not start."""


@contextmanager
def prefect_server(*, verbose: bool = False, tell: Callable[[str], None] = lambda _: None) -> Iterator[str]:
    """The URL of the Prefect API that runs inside the `with` use: the one configured, or one of our own.

    Call it before Prefect is imported: it sets what Prefect says in the terminal (`verbose`: all of it). `tell` gets
    what the user should know of the server at the end.
    """
    if not verbose:
        os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    from prefect.settings import PREFECT_API_URL, PREFECT_FLOWS_HEARTBEAT_FREQUENCY, PREFECT_HOME, temporary_settings

    configured = PREFECT_API_URL.value()
    if configured:
        if is_on_loopback(configured):
            ask_prefect_directly()
        yield configured
        return
    home = Path(PREFECT_HOME.value())
    home.mkdir(parents=True, exist_ok=True)
    # Prefect's own log, with tracebacks of what it then tries again: not for the terminal.
    log = TemporaryFile()  # noqa: SIM115  # closed below, when it was looked through
    process = subprocess.Popen(
        [sys.executable, "-P", str(SERVER)],  # by its path: the working directory may hold another `flows`
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=None if verbose else log,
        env=os.environ | SERVICES_OFF,
        start_new_session=True,  # or Ctrl-C would end it before the run, which still has records to give it
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        # Two servers must not create the database at the same time.
        with FileLock(home / "clip-dissect-server.lock"):
            process.stdin.write(b"go\n")
            process.stdin.flush()
            ask_prefect_directly()
            # torch takes as long to import as the server to start: both at once.
            importlib.import_module("flows.dissect")
            url = f"http://127.0.0.1:{_port(process, log)}/api"
            _wait_until_healthy(process, url, log)
        # Worker processes of a cluster read the environment, this process its settings.
        os.environ["PREFECT_API_URL"] = url
        # A server that dies with its run needs no sign of life from it, and each flow would end a second later.
        with temporary_settings({PREFECT_API_URL: url, PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
            try:
                yield url
            except BaseException:
                _wait_for_records(url, STALLED_SECONDS / 5)  # tasks that never began will have no record
                raise
            _wait_for_records(url, STALLED_SECONDS)
    finally:
        os.environ.pop("PREFECT_API_URL", None)
        process.stdin.close()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
        _tell_of_locks(log, home, tell)
        log.close()


def _tell_of_locks(log: IO[bytes], home: Path, tell: Callable[[str], None]) -> None:
    if LOCKED in _logged(log):
        tell(
            f"Note: the database of Prefect in {home} was locked for long, by another run or a slow disk. Labels and "
            "tables are whole; Prefect's record of this run may lack tasks. Set PREFECT_HOME to a folder on a disk "
            "of this machine, another for each of several runs at once."
        )


def _logged(log: IO[bytes]) -> str:
    log.seek(0)
    return log.read().decode(errors="replace")


def _port(process: subprocess.Popen[bytes], log: IO[bytes]) -> int:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line.strip().isdigit():
        raise ServerError(f"{_why(process, log)} {WAY_OUT}")
    return int(line)


def _why(process: subprocess.Popen[bytes], log: IO[bytes]) -> str:
    """Why a server that ended did so, as far as its log says."""
    lines = _logged(log).strip().splitlines() or ["it logged nothing"]
    errors = [line for line in lines if re.match(r"[\w.]+(Error|Exception)\b", line)]
    return (
        f"The Prefect server of this run ended at its start (exit status {process.wait()}): {(errors or lines)[-1]}."
    )


def _wait_until_healthy(process: subprocess.Popen[bytes], url: str, log: IO[bytes]) -> None:
    until = time.monotonic() + STARTUP_SECONDS
    while time.monotonic() < until and process.poll() is None:
        try:
            with urlopen(f"{url}/health", timeout=5):
                return
        except (URLError, OSError):
            time.sleep(0.1)
    if process.poll() is not None:
        raise ServerError(f"{_why(process, log)} {WAY_OUT}")
    raise ServerError(
        f"The Prefect server of this run does not answer at {url} after {STARTUP_SECONDS:.0f} s: the machine is very "
        f"busy, or its disk is slow. {WAY_OUT}"
    )


def _wait_for_records(url: str, patience: float) -> None:
    """Waits until the server has written the end of every task that was followed.

    Records go there as events, which it writes some time after they arrive; a task that never began has none, so
    the wait also ends when nothing has come in for `patience` seconds.
    """
    import httpx
    from prefect.events.worker import EventsWorker

    from flows.engine.progress import followed

    EventsWorker.drain_all(timeout=patience)
    ended = {"type": {"any_": ["COMPLETED", "FAILED", "CRASHED", "CANCELLED"]}}
    body = {"task_runs": {"id": {"any_": [str(task_run) for task_run in followed]}, "state": ended}}
    seen, since = -1, time.monotonic()
    while seen < len(followed) and time.monotonic() - since < patience:
        try:
            found = httpx.post(f"{url}/task_runs/count", json=body, timeout=30, trust_env=False).json()
        except httpx.HTTPError:
            break  # the server is gone, and the run's own error, if any, says more
        if found != seen:
            seen, since = found, time.monotonic()
        time.sleep(0.05)
    followed.clear()
