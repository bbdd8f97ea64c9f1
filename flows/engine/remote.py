"""Runs on a Prefect server that stays: deployed, triggered, followed from the shell."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterParentFlowRunId,
)
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL, PREFECT_UI_URL
from prefect.states import Cancelling

from flows.engine.deploying import DeploymentError, lost_run_automations, write_deployments
from flows.engine.environment import ROOT, ask_prefect_directly, is_on_loopback
from flows.engine.silence import silence
from tasks.parameters import Group
from tasks.paths import seen_from

#: How often a run that is watched is asked for.
SECONDS_BETWEEN_LOOKS = 1.0
#: How often a run is seen as Crashed until that is its end: one that was lost is scheduled again a moment later.
LOOKS_AT_A_CRASH = 5


class RemoteError(Exception):
    """A server, deployment, work pool or run that is not there."""


@contextmanager
def server() -> Iterator[SyncPrefectClient]:
    """A client of the server that is configured. Raises `RemoteError` where there is none, or it does not answer."""
    url = PREFECT_API_URL.value()
    if not url:
        raise RemoteError(
            "No Prefect server is configured. Start one with `prefect server start`, and set PREFECT_API_URL to its "
            "address, as http://127.0.0.1:4200/api; `clip-dissect run` needs none."
        )
    if is_on_loopback(url):
        ask_prefect_directly()
    try:
        with get_client(sync_client=True) as client:
            yield client
    except httpx.TransportError as error:
        raise RemoteError(f"The Prefect server at {url} does not answer ({error}).") from error


@dataclass(frozen=True)
class Deployed:
    """Deployments of all flows, as they were written to a server."""

    names: list[str]
    #: Slots of the limit that counts the GPUs of their pool; None where there is none.
    slots: int | None
    #: Folder that their runs work in, and the one that their code is of.
    folder: Path
    code: Path


def deploy(pool: str, gpus: int | None = None, lost_after: int | None = None) -> Deployed:
    """Deploys all flows to a pool of processes, which is made where it is missing; runs work in this folder.

    Runs of theirs that are lost go on: the server gets the automations for it, unless it has some of their names.
    With `lost_after`, those it has count a run as lost after so many seconds too.

    Raises `RemoteError` where the pool is of another type: its workers do not see this folder.
    """
    from prefect.client.schemas.actions import WorkPoolCreate

    with server() as client:
        try:
            kind = client.read_work_pool(pool).type
        except ObjectNotFound:
            kind = client.create_work_pool(WorkPoolCreate(name=pool, type="process")).type
        if kind != "process":
            raise RemoteError(
                f"The work pool {pool} is of type {kind}, and its workers do not see this folder. "
                "deployments/README.md says how to deploy to it."
            )
        slots = limit_gpus(client, pool, gpus)
        folder = Path.cwd()
        try:
            code = write_deployments(pool, folder, lost_after)
        except DeploymentError as error:
            raise RemoteError(str(error)) from error
        automate(client, lost_after, code)
        return Deployed(sorted(_names(client, pool)), slots, folder, code)


def limit_name(pool: str) -> str:
    """Name of the Prefect limit that has a slot for each GPU of a work pool."""
    return f"clip-dissect-gpus-{pool}"


def limit_gpus(client: SyncPrefectClient, pool: str, gpus: int | None = None) -> int | None:
    """Makes the limit of a work pool, or gives it another number of slots; returns how many it has.

    By default a limit stays as it is, and a missing one is made with the GPUs of this machine. None: there is none.
    """
    name = limit_name(pool)
    if gpus is None:
        try:
            return client.read_global_concurrency_limit_by_name(name).limit
        except ObjectNotFound:
            from tasks.models.devices import cuda_devices  # in here: torch takes a second to import

            gpus = len(cuda_devices())
    if not gpus:
        return None
    client.upsert_global_concurrency_limit_by_name(name, gpus)
    return gpus


def automate(client: SyncPrefectClient, lost_after: int | None = None, code: Path = ROOT) -> None:
    """Makes the automations for lost runs; one that is there stays as it is, changed or switched off.

    With `lost_after`, the one that marks runs as lost does so after so many seconds, also where it was there.
    """
    from prefect.events.schemas.automations import AutomationCore

    for automation in lost_run_automations(code, lost_after):
        core = AutomationCore.model_validate(automation)
        there = client.read_automations_by_name(automation["name"])
        if not there:
            client.create_automation(core)
        elif lost_after is not None and automation["trigger"]["within"] == lost_after:
            client.update_automation(there[0].id, core.model_copy(update={"enabled": there[0].enabled}))


def submit(spec: Group, deployment: str) -> FlowRun:
    """Triggers a deployment with a spec; the run begins when a worker takes it."""
    parameters = spec.model_dump(mode="json", exclude_unset=True)
    if getattr(spec, "overwrite", False):
        parameters["overwrite"] = True  # which no dump has
    with server() as client:
        try:
            found = client.read_deployment_by_name(deployment)
        except ObjectNotFound as error:
            known = ", ".join(sorted(_names(client))) or "none"
            raise RemoteError(
                f"There is no deployment {deployment!r}, but {known}. `clip-dissect deploy` makes them."
            ) from error
        return client.create_flow_run_from_deployment(
            found.id, parameters={"spec": seen_from([Path.cwd()], parameters)}
        )


@dataclass(frozen=True)
class RunStatus:
    """How far a run is."""

    run: UUID
    name: str
    state: str
    message: str
    is_final: bool
    is_completed: bool
    #: Percent by stage, in the order they began.
    progress: dict[str, float]
    #: What the run published, as Markdown; None before.
    published: str | None
    #: How far each stage is in words, by stage.
    paces: dict[str, str] = field(default_factory=dict)
    #: What to say of a run that gives no sign of life; empty of any other.
    silence: str = ""

    @property
    def line(self) -> str:
        """State and progress of the stage at work."""
        stage = next(reversed(self.progress), None)
        at = f", {stage} {self.progress[stage]:.0f} %" if stage and not self.is_final else ""
        return f"{self.state}{at}{self.silence and f', {self.silence}'}"


def status(client: SyncPrefectClient, run: UUID) -> RunStatus:
    """How far a run is, by its sub-flows' artifacts. Raises `RemoteError` where the server has no such run."""
    try:
        found = client.read_flow_run(run)
    except ObjectNotFound as error:
        raise RemoteError(f"The server has no run {run}. `clip-dissect status` lists the last ones.") from error
    family = [run]
    for member in family:
        children = FlowRunFilter(parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[member]))
        family += [child.id for child in client.read_flow_runs(flow_run_filter=children)]
    of_family = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=family))
    artifacts = sorted(client.read_artifacts(artifact_filter=of_family), key=lambda one: str(one.created))
    progress = {
        str(artifact.description).partition(":")[0]: float(artifact.data)  # type: ignore[arg-type]
        for artifact in artifacts
        if artifact.type == "progress"
    }
    paces = {
        stage: text.strip()
        for artifact in artifacts
        if artifact.type == "progress"
        for stage, _, text in [str(artifact.description).partition(":")]
    }
    published = [str(artifact.data) for artifact in artifacts if artifact.key == "dissection"]
    state = found.state
    return RunStatus(
        run,
        found.name,
        (state.name if state else None) or "Unknown",
        (state.message if state else None) or "",
        bool(state and state.is_final()),
        bool(state and state.is_completed()),
        progress,
        published[-1] if published else None,
        paces,
        silence(client, run) if state and state.is_running() else "",
    )


def cancel(run: UUID) -> None:
    """Has the worker of a run end it. Raises `RemoteError` where there is no such run, or it has ended."""
    with server() as client:
        at = status(client, run)
        if at.is_final:
            raise RemoteError(f"The run {run} has ended as {at.state}: there is nothing to cancel.")
        client.set_flow_run_state(run, Cancelling())


def watch(run: UUID, tell: Callable[[str], None]) -> RunStatus:
    """Follows a run to its end, telling each change."""
    told, crashed = "", 0
    with server() as client:
        while True:
            at = status(client, run)
            if at.line != told:
                told = at.line
                tell(told)
            crashed = crashed + 1 if at.state == "Crashed" else 0
            if at.is_final and crashed in (0, LOOKS_AT_A_CRASH):
                return at
            time.sleep(SECONDS_BETWEEN_LOOKS)


def last_runs(limit: int) -> list[RunStatus]:
    """The last runs of this project's whole flows, newest first."""
    wanted = FlowFilter(name=FlowFilterName(any_=["dissect", "dissect-new"]))
    with server() as client:
        runs = client.read_flow_runs(flow_filter=wanted, sort=FlowRunSort.EXPECTED_START_TIME_DESC, limit=limit)
        return [status(client, run.id) for run in runs]


def page_of(run: UUID) -> str:
    """URL of a run's page."""
    base = PREFECT_UI_URL.value() or str(PREFECT_API_URL.value()).removesuffix("/api")
    return f"{base}/runs/flow-run/{run}"


def _names(client: SyncPrefectClient, pool: str | None = None) -> list[str]:
    flows = {flow.id: flow.name for flow in client.read_flows()}
    deployments = client.read_deployments()
    return [f"{flows[one.flow_id]}/{one.name}" for one in deployments if pool in (None, one.work_pool_name)]
