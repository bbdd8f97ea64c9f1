"""A process that has imported everything and forks one of its kind for each run: `python -m tests.kills.process`.

Reads a line of orders (JSON) from standard input, runs these at once, and answers with a line. The flows are the
product's own; what they submit goes to two threads instead of a Prefect server, which would take seconds for a run.
"""

from __future__ import annotations

import faulthandler
import importlib
import json
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

from tests.kills.faults import FAULTS
from tests.kills.points import Changes, Point
from tests.kills.scenes import CUT

FLOWS = ("shard_probe", "observe_probe", "label_neurons", "detail_neurons", "dissect")
#: Tasks at a time, as on a machine with one device.
NUM_THREADS = 2


def main() -> None:
    """Obeys until standard input ends."""
    import torch

    torch.set_num_threads(1)  # or a pool of threads would be left behind by the fork
    _load()
    for line in sys.stdin:
        begun = [_Forked(order) for order in json.loads(line)]
        sys.stdout.write(json.dumps([forked.end() for forked in begun]) + "\n")
        sys.stdout.flush()
    os._exit(0)  # all is said, and what was imported would take seconds to tidy up


def _load() -> None:
    """Imports and loads what each run would have to: programs and networks, nothing of a store."""
    for name in (*(f"flows.{name}" for name in FLOWS), "pyarrow.dataset", "tests.tiny_models"):
        importlib.import_module(name)
    from numba.core.registry import cpu_target
    from PIL import Image

    from tasks.models.clip import load_clip

    cpu_target.target_context.refresh()
    Image.init()
    load_clip("sample", None)


class _Forked:
    """A run in a process group of its own, killed after `delay` seconds or at a point, or let go to its end."""

    def __init__(self, order: dict[str, Any]) -> None:
        self._started, self._delay = time.perf_counter(), order["delay"]
        self._reading, writing = os.pipe()
        self._process = os.fork()
        if self._process == 0:
            faulthandler.enable()
            import torch

            torch.set_num_threads(1)  # torch makes its pools anew after a fork, and two threads would do so at once
            os.setpgid(0, 0)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            with os.fdopen(writing, "w") as told:
                told.write(json.dumps(_run(order, told.fileno())))
            os._exit(0)
        with suppress(OSError):  # it has ended already
            os.setpgid(self._process, self._process)  # here too: who of both comes first is open
        os.close(writing)

    def end(self) -> dict[str, Any]:
        """Waits for it; says how it ended."""
        with os.fdopen(self._reading) as told:
            with os.fdopen(os.pidfd_open(self._process), "rb") as alive:
                ended, _, _ = select.select([alive], [], [], self._delay)
            if not ended:
                os.killpg(self._process, signal.SIGKILL)
            _, status = os.waitpid(self._process, 0)
            said = told.read()
        seconds = time.perf_counter() - self._started
        if os.WIFSIGNALED(status):
            if said or not ended:
                return {"end": "killed", "at": said or "any moment", "seconds": seconds}
            died = signal.Signals(os.WTERMSIG(status)).name
            return {"end": "failed", "error": f"it died of {died}, by no hand of ours", "seconds": seconds}
        return {"seconds": seconds} | json.loads(said)


def _run(order: dict[str, Any], told: int) -> dict[str, Any]:
    point = order["point"] and Point(**order["point"])
    changes = Changes(Path(order["folder"]), point, lambda path: os.write(told, path.encode()))
    try:
        if order["is_cut"]:
            for name, value in CUT.items():
                patch(name, value).start()
        if order["fault"]:
            FAULTS[order["fault"]]()
        changes.watch()
        _dissect(order["spec"])
    except BaseException as error:
        return {"end": "failed", "error": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()[-5000:]}
    return {"end": "done", "counts": changes.counts}


def _dissect(spec: dict[str, Any]) -> None:
    """The flow `dissect`, with threads in the place of Prefect."""
    from prefect import Task

    from flows import dissect
    from tasks.spec import DissectSpec

    pool = ThreadPoolExecutor(NUM_THREADS)

    def submit(task: Any, *given: Any, wait_for: Sequence[Future[Any]] = (), **_: Any) -> Future[Any]:
        def do() -> Any:
            for earlier in wait_for:
                earlier.result()
            return task.fn(*given)

        return pool.submit(do)

    def follow(stage: str, work: Sequence[tuple[Future[Any], int]], **_: Any) -> list[Any]:
        for future, _ in work:
            future.exception()  # all are waited for before the first failure is raised
        return [future.result() for future, _ in work]

    patch.object(Task, "submit", submit).start()
    # A kill takes nothing from a file that the kernel has; of a power cut this says nothing.
    patch.object(os, "fsync", lambda file: None).start()
    for name in FLOWS:
        module = sys.modules[f"flows.{name}"]
        replaced = {"follow": follow} | dict.fromkeys(
            ("note", "create_table_artifact", "create_markdown_artifact"), lambda *_, **__: None
        )
        for what, by in replaced.items():
            if hasattr(module, what):
                patch.object(module, what, by).start()
    for name in FLOWS[:-1]:
        flow = getattr(sys.modules["flows.dissect"], name)
        patch.object(flow, "with_options", lambda task_runner, flow=flow: flow.fn).start()
    dissect.dissect.fn(DissectSpec(**spec))


if __name__ == "__main__":
    main()
