"""What `clip-dissect deploy` writes: deployments whose runs work in the folder that they are deployed from."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml
from prefect.settings import PREFECT_API_URL

from flows.engine.environment import BOOT, ROOT, is_on_loopback

#: Deployments to pools of processes, from the folder of a checkout.
DEPLOYMENTS = "deployments/prefect.yaml"
#: Automations that mark runs whose process has gone, and run them again.
LOST_RUNS = "deployments/lost-runs.yaml"
#: Seconds without a sign of life that a run is lost after: two heartbeats may be late by so many together.
PATIENCE = 40
#: Fewest seconds between two heartbeats of a run that Prefect takes, and so the fewest that one is lost after.
FEWEST_BETWEEN_HEARTBEATS = 30
SOONEST_LOST = 2 * FEWEST_BETWEEN_HEARTBEATS + PATIENCE


class DeploymentError(Exception):
    """Deployments that cannot be written."""


def write_deployments(pool: str, folder: Path, lost_after: int | None = None) -> Path:
    """Deploys all flows to a pool of processes that work in `folder`; returns the folder that their code is of.

    In a checkout of this project that is the checkout; in any other folder, the code that runs here.
    """
    checkout = folder if is_checkout(folder) else ROOT
    if not is_checkout(checkout):
        raise DeploymentError(
            f"Neither {folder} nor the installed package in {ROOT} has {DEPLOYMENTS}, which says what is deployed. "
            "Go to a checkout of this project, and run the command there."
        )
    given = yaml.safe_load((checkout / DEPLOYMENTS).read_text())
    heartbeats = {} if lost_after is None else {"env": {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": heartbeat(lost_after)}}
    for deployment in given["deployments"]:
        variables: dict[str, Any] = dict(heartbeats)
        if checkout != folder:
            # By module, and in a process where that is ours whatever the folder holds.
            deployment["entrypoint"] = deployment["entrypoint"].replace("/", ".").replace(".py:", ":")
            variables["command"] = f"{sys.executable} -P {BOOT} prefect.engine"
        if variables:
            deployment["work_pool"] = deployment["work_pool"] | {"job_variables": variables}
    given["pull"] = [{"prefect.deployments.steps.set_working_directory": {"directory": str(folder)}}]
    with tempfile.NamedTemporaryFile("w", prefix="clip-dissect-", suffix=".yaml") as file:
        yaml.safe_dump(given, file)
        file.flush()
        _deploy(pool, folder, file.name)
    return checkout


def is_checkout(folder: Path) -> bool:
    """True if a folder is a checkout of this project."""
    return (folder / DEPLOYMENTS).is_file() and (folder / "flows" / "dissect.py").is_file()


def heartbeat(lost_after: int) -> str:
    """Seconds between two signs of life of a run that is lost after so many without one."""
    return str(max(FEWEST_BETWEEN_HEARTBEATS, (lost_after - PATIENCE) // 2))


def lost_run_automations(code: Path, lost_after: int | None = None) -> list[dict[str, Any]]:
    """Automations that mark runs as lost after so many seconds, by default those of the file, and run them again."""
    automations: list[dict[str, Any]] = yaml.safe_load((code / LOST_RUNS).read_text())["automations"]
    for automation in automations:
        if lost_after is not None and (before := automation["trigger"]["within"]):
            automation["trigger"]["within"] = lost_after
            automation["description"] = automation["description"].replace(str(before), str(lost_after))
    return automations


def _deploy(pool: str, folder: Path, file: str) -> None:
    # Prefect's own command reads the file, and there is no call for it.
    command = [sys.executable, "-P", str(BOOT), "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", file]
    environment = dict(os.environ) | {"CLIP_DISSECT_POOL": pool}
    if is_on_loopback(PREFECT_API_URL.value() or ""):
        environment = {name: value for name, value in environment.items() if not name.lower().endswith("_proxy")}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise DeploymentError(f"Prefect could not deploy to {pool}:\n{done.stdout}{done.stderr}".strip())
