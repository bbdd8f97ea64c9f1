"""A worker's answer to the question if it can do the tasks of a run. Sent as text: a worker may not have our code.

Uses the standard library alone, and imports nothing of ours before it has looked for it.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import platform
import sys
from pathlib import Path

#: Packages whose code works on a worker.
WORKING = ("tasks", "storage")


def code_digest(folder: str) -> str:
    """A digest of the code of our packages in a folder."""
    digest = hashlib.sha256()
    for package in WORKING:
        for file in sorted(Path(folder, package).rglob("*.py")):
            digest.update(f"{file.relative_to(folder)}\n".encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def answer(environment: dict[str, str]) -> dict[str, str]:
    """What this process would do the tasks with: Python, code, or the `error` for which it cannot.

    Sets what is not set in `environment`, so that Prefect behaves here as where the run was started.
    """
    for name, value in environment.items():
        os.environ.setdefault(name, value)
    said = {"python": platform.python_version(), "executable": sys.executable}
    try:
        found = importlib.util.find_spec("tasks.observe")
        assert found is not None and found.origin is not None
        folder = str(Path(found.origin).resolve().parents[1])
        said |= {"folder": folder, "code": code_digest(folder)}
        importlib.import_module("tasks.observe")
    except Exception as error:  # of what the module itself raises too
        said["error"] = f"{type(error).__name__}: {error}"
    return said
