"""A Dask cluster that is there already: if it has workers, and if they can do the tasks of a run."""

from __future__ import annotations

import inspect
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from flows.engine import on_worker
from flows.engine.environment import QUIET, ROOT
from flows.engine.pace import time_left

Tell = Callable[[str], None]
#: Seconds that workers have to say what they have: they import torch for it.
ANSWER_SECONDS = 180.0
#: Seconds between two looks at how many workers a cluster has, and two lines that say that it has none.
SECONDS_BETWEEN_LOOKS, SECONDS_BETWEEN_LINES = 5.0, 60.0
#: By address of a scheduler, how many seconds runs of this process wait for workers of its.
patience: dict[str, float] = {}


class ClusterError(RuntimeError):
    """A Dask cluster that does not answer, has no workers, or workers that cannot do the tasks."""


def check_cluster(address: str, seconds: float, tell: Tell) -> None:
    """Raises `ClusterError` unless the cluster at an address has workers, and all have this code.

    Waits so many seconds for the first worker, and says so.
    """
    from distributed import Client

    try:
        client = Client(address, set_as_default=False, timeout=min(seconds, 30))
    except (OSError, ValueError) as error:
        raise ClusterError(
            f"The Dask scheduler at {address} does not answer ({error}). Start one with `dask scheduler`, or leave "
            "out --dask-address."
        ) from error
    with client:
        lookout = Lookout(client, address, seconds, tell)
        while not lookout.look():
            time.sleep(0.2)
        answers = _answers(client, address)
    wrong = {worker: text for worker, said in answers.items() if (text := _lacks(said))}
    if wrong:
        worker, text = min(wrong.items())
        raise ClusterError(
            f"{len(wrong)} of the {len(answers)} Dask workers at {address} cannot do the tasks of this run; {worker} "
            f"{text} Give all machines the same environment and the same code, restart the workers, and run again."
        )


@dataclass
class Lookout:
    """Looks how many workers a cluster has, at times; says when there is none, and ends the wait for one."""

    client: Any
    address: str
    seconds: float
    tell: Tell
    _looked: float = field(default=float("-inf"), init=False)
    _since: float | None = field(default=None, init=False)
    _told: float = field(default=float("-inf"), init=False)

    def look(self) -> bool:
        """True if there are workers. Raises `ClusterError` where there have been none for too long."""
        now = time.monotonic()
        if self._since is None and now - self._looked < SECONDS_BETWEEN_LOOKS:
            return True
        self._looked = now
        if _num_workers(self.client):
            self._since, self._told = None, float("-inf")
            return True
        self._since = now if self._since is None else self._since
        waited = now - self._since
        if waited >= self.seconds:
            raise ClusterError(
                f"The Dask scheduler at {self.address} has had no worker for {time_left(waited)}. Start some with "
                f"`dask worker {self.address}`, or wait longer with --dask-wait SECONDS. What was finished is kept: "
                "run the same command again."
            )
        if now - self._told >= SECONDS_BETWEEN_LINES:
            self._told = now
            self.tell(
                f"Waiting since {time_left(waited)} for a Dask worker: {self.address} has none. The run ends in "
                f"{time_left(self.seconds - waited)} (--dask-wait). Start one with `dask worker {self.address}`."
            )
        return False


def _num_workers(client: Any) -> int:
    try:
        return int(client.scheduler_info(n_workers=1)["n_workers"])
    except OSError:  # the scheduler is away, and with it all workers
        return 0


def _answers(client: Any, address: str) -> Mapping[str, Any]:
    """What each worker answers, by its address: a dictionary, or the error of asking it."""
    # Text, and a builtin that runs it: a function would be looked up in modules that a worker may not have.
    program = f"(lambda names: (exec({inspect.getsource(on_worker)!r}, names), names['answer']({QUIET!r}))[1])({{}})"
    try:
        answers: Mapping[str, Any] = client.sync(
            client._run, eval, program, on_error="return", callback_timeout=ANSWER_SECONDS
        )
    except TimeoutError as error:
        raise ClusterError(
            f"The Dask workers at {address} have not said within {ANSWER_SECONDS:.0f} s if they have the code of "
            "this run: they are busy, or the network between the machines is slow. Look at their logs, and run again."
        ) from error
    return answers


def _lacks(said: Any) -> str:
    """What a worker lacks, as a sentence about it; empty where it lacks nothing."""
    if isinstance(said, BaseException):
        return f"answers {type(said).__name__}: {said}."
    where = f"{said['executable']} (Python {said['python']})"
    if "error" in said:
        return f"runs {where}, which cannot import this project ({said['error']})."
    if said["python"].split(".")[:2] != platform.python_version().split(".")[:2]:
        return f"runs {where}, and this run Python {platform.python_version()}."
    ours = on_worker.code_digest(str(ROOT))
    if said["code"] != ours:
        return f"has other code in {said['folder']} (digest {said['code']}) than this run in {ROOT} ({ours})."
    return ""
