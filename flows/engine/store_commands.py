"""Commands that look after a store: whether it is whole, what nobody needs, which runs it knows."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import Any

import click

from flows.engine.console import console, say
from flows.engine.failure import told_in_words

#: Columns of the table of runs where the output is no terminal: enough for long paths.
WIDTH_IN_PIPES = 1_000
#: Seconds of what durations are given in.
SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}


class _Duration(click.ParamType[float]):
    """Seconds, given as a number and a unit."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> float:
        """Seconds of `7d`, `12h`, `30m`, `90s` or `2w`."""
        found = re.fullmatch(r"(\d+)([smhdw])", str(value))
        if not found:
            self.fail(f"{value!r} is no duration such as 7d, 12h or 30m.", param, context)
        return float(int(found[1]) * SECONDS[found[2]])


_outs = click.option(
    "--out", "outs", multiple=True, metavar="DIR", help="Folder of a run without a record in the store."
)


@click.command()
@click.argument("store")
@_outs
@click.option("--repair", "is_repair", is_flag=True, help="Remove what is torn, so that a run makes it again.")
@click.option("--jobs", default=0, metavar="N", help="Files read at a time; by default as many as there are cores.")
@click.pass_context
def verify(context: click.Context, store: str, outs: Sequence[str], is_repair: bool, jobs: int) -> None:
    """Reads all of STORE, and lists what is torn, missing or foreign; ends with status 1 where anything is.

    Torn is a file that is not as it was written; foreign is one that no run writes there. --repair removes torn files
    and the markers that say they are finished, and nothing else: run again what needs them. Foreign files are for
    you to remove.
    """
    with told_in_words(context):
        from storage.repair import repair
        from storage.verify import verify

        found = verify(store, outs, jobs=jobs)
        for problem in sorted(found.problems.values()):
            say(problem)
        for note in found.notes:
            say(f"Note: {note}")
        for done in repair(found) if is_repair else []:
            say(done)
        say(found.summary)
        kinds = {problem.kind for problem in found.problems.values()}
        if kinds - {"foreign"}:
            say("Run again what needs it." if is_repair else "--repair removes what is torn; then run again.")
        if "foreign" in kinds:
            say("Foreign files are not removed: remove those by hand that nobody needs.")
    sys.exit(1 if found.problems else 0)


@click.command()
@click.argument("store")
@_outs
@click.option(
    "--forget", multiple=True, metavar="DIR", help="Folder of a run that is gone for good: it counts no more."
)
@click.option("--older-than", type=_Duration(), default="7d", show_default=True, help="Keep what was written since.")
@click.option("--remove", "is_removal", is_flag=True, help="Remove what is listed.")
@click.pass_context
def gc(
    context: click.Context,
    store: str,
    outs: Sequence[str],
    forget: Sequence[str],
    older_than: float,
    is_removal: bool,
) -> None:
    """Lists what no run of STORE refers to, with bytes; --remove removes it.

    Runs are those on record in the store (`clip-dissect runs`), also where their folders are not there now, and those
    given by --out; a stage that was run alone is none. What was written lately counts as work in progress, and is
    kept with all that it is made of. Nothing outside the store is removed.
    """
    with told_in_words(context):
        from storage.collect import collect, remove
        from storage.layout import Store

        found = collect(Store.existing(store), outs, forget, older_than)
        for thing in found.things:
            say(f"{thing.num_bytes:>15,} bytes  {thing}")
        for run, state in found.runs:
            if state != "published":
                folder = run.folder(found.store).url
                say(f"The run in {folder} is {state}, and counts. If it is no more: --forget {folder}")
        if is_removal:
            remove(found)
        total = sum(thing.num_bytes for thing in found.things)
        what = "removed" if is_removal else "can be removed by --remove"
        things, stay = _counted(found.things, "thing"), _counted(found.in_progress, "thing")
        kept = f"; {stay} may be work in progress, and stay" if found.in_progress else ""
        say(f"{_counted(found.runs, 'run')}. {things} of {total:,} bytes {what}{kept}.")


def _counted(found: Sequence[object], name: str) -> str:
    return f"{len(found):,} {name}{'s' * (len(found) != 1)}"


@click.command()
@click.argument("store")
@click.pass_context
def runs(context: click.Context, store: str) -> None:
    """Lists the runs that STORE knows: when, where, of what, and the parameters in which they differ."""
    with told_in_words(context):
        from storage.layout import Store
        from tasks.runs import runs_table

        shown = console(WIDTH_IN_PIPES)
        shown.print(runs_table(Store.existing(store), shown.width))
