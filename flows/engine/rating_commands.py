"""The command for labels that people rate: the page they rate on."""

from __future__ import annotations

import click

from flows.engine.console import say
from flows.engine.failure import told_in_words
from flows.engine.run_options import run_store

#: Those of `tasks.report.scales`, which is imported when it is needed.
SCALE_NAMES = ("yes-maybe-no", "1-5")


@click.command()
@click.argument("out", metavar="OUT")
@click.option(
    "--scale", type=click.Choice(SCALE_NAMES), default="yes-maybe-no", show_default=True, help="As in A.10, or in B."
)
@click.option(
    "--neurons", default=50, show_default=True, type=click.IntRange(min=1), help="Of each layer, drawn by chance."
)
@click.option(
    "--controls",
    default=0,
    show_default=True,
    type=click.IntRange(min=0),
    help="Further neurons of each layer that are shown with another neuron's label; the page does not say which.",
)
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="What is drawn depends on it.")
@run_store
@click.pass_context
def rate(
    context: click.Context, out: str, scale: str, neurons: int, controls: int, seed: int, store: str | None
) -> None:
    """Makes the page rate.html in OUT, the --out folder of a run, on which people rate labels.

    It opens from disk and shows 10 top images and a description at a time, of live neurons of all layers, mixed. Hand
    the file to each rater: it keeps what is rated and saves it as CSV, for `clip-dissect evaluate --ratings`.
    """
    with told_in_words(context):
        from tasks.rate import Sampling, write_rate_page

        for line in write_rate_page(out, Sampling(scale, neurons, controls, seed), store):
            say(line)
