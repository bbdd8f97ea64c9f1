"""Removes what is torn, so that a run makes it again."""

from __future__ import annotations

from storage.at_work import is_held, refuse_while_at_work
from storage.findings import Findings
from storage.layout import place


def repair(found: Findings) -> list[str]:
    """Removes what is torn, and markers that vouch for what is torn or missing; says so for each.

    A run then makes it again. Nothing that is whole is removed, nor what is foreign, nor a tar that is used in place.
    Raises `BusyError` while a run is at work: what it is writing may only look torn.
    """
    leases = [one for path, one in found.files.items() if (of := place(path)) and of.kind == "lease"]
    refuse_while_at_work([one.path for one in leases if is_held(found.store, one)])
    done = []
    problems = [problem for path, problem in found.problems.items() if path not in found.inputs]
    waiting = [problem.path for problem in problems if problem.kind != "foreign"]
    torn = {problem.path for problem in problems if problem.kind == "torn"}
    seen = set(waiting)
    while waiting:
        path = waiting.pop()
        folder, name = found.at(path)
        if path in torn:
            folder.remove_file(name)
            done.append(f"Removed {path}, which was torn.")
        elif path in found.markers:
            folder.remove_file(name)
            done.append(f"Removed {path}, which said that something is finished that is not.")
        for marker in found.vouching.get(path, {}):
            if marker not in seen and not _is_planned(path):
                seen.add(marker)
                waiting.append(marker)
    return done


def _is_planned(path: str) -> bool:
    """Whether planning makes a file anew, whatever is marked as finished."""
    of = place(path)
    return path.endswith("/zarr.json") and of is not None and of.kind in ("embeddings", "activations")
