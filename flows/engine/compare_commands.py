"""The command that puts runs side by side."""

from __future__ import annotations

from collections.abc import Sequence

import click

from flows.engine.console import console, say
from flows.engine.failure import told_in_words
from flows.engine.run_options import run_store


@click.command()
@click.argument("outs", metavar="RUN RUN...", nargs=-1)
@click.option("--layers", metavar="A=B,...", help="Only these; A of the first run is compared to B of the others.")
@click.option("--limit", type=click.IntRange(min=1), default=10, show_default=True, help="Rows of each table.")
@click.option("--out", metavar="DIR", help="Write changed, matches and concepts there, whole, as CSV and Parquet.")
@run_store
@click.pass_context
def compare(
    context: click.Context, outs: Sequence[str], layers: str | None, limit: int, out: str | None, store: str | None
) -> None:
    """Puts runs side by side, each beside the first: parameters, labels that changed, concepts gained and lost.

    RUN is the --out folder of a run, or STORE/runs/DIGEST. Layers of one name are compared. Of one network, neurons
    correspond by number; others are matched: by their top images where both runs were made on the same probe set,
    and by label where not.
    """
    if len(outs) < 2:
        raise click.UsageError("Give two runs or more, such as out/before out/after.")
    with told_in_words(context):
        from tasks.compare_runs import compare_runs, write_comparisons
        from tasks.compare_tables import comparison_tables
        from tasks.published import check_store

        check_store(outs, store)
        comparisons = compare_runs(outs, layers)
        for one in comparisons:
            for table in comparison_tables(one, limit):
                console().print(table)
        for url in write_comparisons(out, comparisons) if out else []:
            say(f"Table: {url}")
