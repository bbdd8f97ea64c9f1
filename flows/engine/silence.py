"""How long a run has given no sign of life, and when it counts as lost: what somebody who follows it waits for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.events.filters import EventFilter, EventNameFilter, EventResourceFilter

from flows.engine.pace import time_left

#: The automation that marks runs as lost (deployments/lost-runs.yaml).
LOST = "clip-dissect run is lost"
HEARTBEAT = "prefect.flow-run.heartbeat"


def silence(client: SyncPrefectClient, run: UUID) -> str:
    """Says that a run at work is silent, for longer than half of what it counts as lost after; else empty."""
    automations = client.read_automations_by_name(LOST)
    within = getattr(automations[0].trigger, "within", None) if automations else None
    last = _last_sign(client, run)
    if within is None or last is None:
        return ""
    silent = datetime.now(UTC) - last
    return told(silent, within) if silent > within / 2 else ""


def told(silent: timedelta, within: timedelta) -> str:
    """The silence in words: whole minutes, so that it changes once a minute."""
    minutes = max(60, silent.total_seconds() // 60 * 60)
    return (
        f"no sign of life for {time_left(minutes)}; counts as lost after {time_left(within.total_seconds())} "
        "(clip-dissect deploy --lost-after)"
    )


def _last_sign(client: SyncPrefectClient, run: UUID) -> datetime | None:
    wanted = EventFilter(
        event=EventNameFilter(name=[HEARTBEAT]), resource=EventResourceFilter(id=[f"prefect.flow-run.{run}"])
    )
    events = client.read_events(wanted, limit=1).events
    return events[0].occurred if events else None
