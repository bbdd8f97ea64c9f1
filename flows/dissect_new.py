"""Checkpoints as they appear in a folder, each dissected once: what a schedule runs."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.artifacts import create_table_artifact

from flows.dissect import dissect
from tasks.new_checkpoints import mark_dissected, plan_checkpoints, refuse_failures, summary
from tasks.spec import DissectSpec


@flow(flow_run_name="dissect what is new in {checkpoints}", persist_result=False)
def dissect_new(spec: DissectSpec, checkpoints: str) -> None:
    """Dissects each weights file of a folder or glob that was not dissected before, one after the other.

    `checkpoints` is a path or fsspec URL; each file is a `dissect` of its own, published in a sub-folder of the
    spec's `out` named by it. One that fails does not stop the others; the flow then fails and names it.
    """
    plan = plan_checkpoints(spec, checkpoints)
    errors: dict[str, Any] = {}
    for checkpoint in plan:
        if checkpoint.is_done:
            continue
        state = dissect(checkpoint.spec, return_state=True)
        if state.is_completed():
            mark_dissected(checkpoint)
        else:
            errors[checkpoint.url] = state.result(raise_on_failure=False)
    create_table_artifact(summary(plan, errors), key="checkpoints", description=f"Checkpoints of {checkpoints}")
    refuse_failures(plan, errors)
