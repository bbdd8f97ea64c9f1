"""Commands for a Prefect server that stays: deploy, trigger, follow, cancel."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import UUID

import click

from flows.engine.console import console, say
from flows.engine.failure import fail, told_in_words
from flows.engine.options import SpecCommand, build_spec, spec_options
from tasks.printable import printable_lines
from tasks.spec import DissectSpec


@click.command()
@click.option("--pool", default="clip-dissect", show_default=True, help="Work pool to deploy to, made where missing.")
@click.option(
    "--gpus",
    type=click.IntRange(min=1),
    help="GPUs that the machines of its workers have together: so many slots has the Prefect limit that counts them. "
    "By default it stays as it is, or is made with the GPUs of this machine.",
)
@click.option(
    "--lost-after",
    type=click.IntRange(min=100),
    metavar="SECONDS",
    help="Time without a sign of life after which a run counts as lost and goes on elsewhere; at least 100. Its runs "
    "give one more often then. By default the server's automation stays as it is, or is made with 400.",
)
@click.pass_context
def deploy(context: click.Context, pool: str, gpus: int | None, lost_after: int | None) -> None:
    """Deploys all flows to a pool of processes on the Prefect server that PREFECT_API_URL names.

    Their runs work in the folder that this is called from: relative paths are of there, and modules of --target are
    found there. deployments/README.md has deployments for Docker and Kubernetes.
    """
    with told_in_words(context):
        from flows.engine import remote

        made = remote.deploy(pool, gpus, lost_after)
        for name in made.names:
            say(name)
        say(f"Runs work in {made.folder}, on each machine of a worker, with the code in {made.code}")
        if made.slots is not None:
            say(f"GPUs: {made.slots}, by the limit {remote.limit_name(pool)}")
        say(f"A worker takes their runs: prefect worker start --pool {pool}")


@click.command(cls=SpecCommand)
@spec_options(DissectSpec)
@click.option("--deployment", default="dissect/dissect", show_default=True, help="FLOW/DEPLOYMENT to trigger.")
@click.option("--watch", is_flag=True, help="Follow the run to its end.")
def submit(spec_file: Path | None, deployment: str, watch: bool, **options: Any) -> None:
    """Triggers the run of a deployment, with the options of `clip-dissect run`.

    Paths of this machine are sent in full: a worker has to see the same files.
    """
    spec, context = build_spec(DissectSpec, spec_file, options), click.get_current_context()
    with told_in_words(context):
        from flows.engine import remote

        run = remote.submit(spec, deployment)
        say(f"Submitted: {remote.page_of(run.id)}")
        if not watch:
            say(f"Follow it with: clip-dissect status {run.id} --watch")
    if watch:
        _watch(context, run.id)


@click.command()
@click.argument("run_id", metavar="[RUN]", type=UUID, required=False)
@click.option("--watch", is_flag=True, help="Follow the run to its end.")
@click.option("--limit", default=10, show_default=True, type=click.IntRange(min=1), help="Runs to list.")
@click.pass_context
def status(context: click.Context, run_id: UUID | None, watch: bool, limit: int) -> None:
    """Shows the last runs on the Prefect server, or how far RUN is."""
    if run_id and watch:
        _watch(context, run_id)
        return
    with told_in_words(context):
        from flows.engine import remote

        if run_id is None:
            for one in remote.last_runs(limit):
                say(f"{one.run}  {one.line:<32} {one.name}")
            return
        with remote.server() as client:
            _print_status(remote.status(client, run_id))


@click.command()
@click.argument("run_id", metavar="RUN", type=UUID)
@click.pass_context
def cancel(context: click.Context, run_id: UUID) -> None:
    """Cancels RUN on the Prefect server, and waits until its worker has ended it.

    What it finished is kept: submitted again, it goes on there.
    """
    with told_in_words(context):
        from flows.engine import remote

        remote.cancel(run_id)
        at = remote.watch(run_id, say)
        if at.state != "Cancelled":
            fail(f"The run ended as {at.state} before it could be cancelled.", 1)


def _watch(context: click.Context, run: UUID) -> None:
    """Follows a run to its end; Ctrl-C leaves it running."""
    with told_in_words(context):
        from flows.engine import remote

        try:
            at = remote.watch(run, say)
        except KeyboardInterrupt:
            say(
                f"The run goes on. Come back with: clip-dissect status {run} --watch\n"
                f"End it with: clip-dissect cancel {run}"
            )
            return
        _print_status(at)
        if not at.is_completed:
            fail(f"The run ended as {at.state}.", 1)


def _print_status(at: Any) -> None:
    from rich.markdown import Markdown

    say(f"{at.name}: {at.line}{f' ({at.message})' if at.message else ''}")
    for stage, percent in at.progress.items():
        say(f"  {stage:<17} {percent:3.0f} %  {at.paces.get(stage, '')}".rstrip())
    if at.published:
        console().print(Markdown(printable_lines(at.published), hyperlinks=False))
