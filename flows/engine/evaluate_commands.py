"""The command that says how good labels are."""

from __future__ import annotations

from typing import Any

import click

from flows.engine.console import console
from flows.engine.failure import told_in_words

#: The paper's sentence encoder.
MPNET = "all-mpnet-base-v2"


@click.command()
@click.argument("source", metavar="RUN_OR_TABLE")
@click.option(
    "--truth",
    metavar="LIST",
    help="True concepts: a text file whose line i is unit i (blank: not known; `tench | Tinca tinca`: either is "
    "right), a table with columns unit and concept, imagenet, or sample. By default those that the run was given.",
)
@click.option("--layer", help="Layer to evaluate; by default the last.")
@click.option("--first-unit", default=0, show_default=True, help="Number of the first unit in a table.")
@click.option("--tau", help="Cut-off of interpretable labels, as in a run; by default the run's.")
@click.option(
    "--clip", metavar="MODEL", help="CLIP model for the cosine of label and true name: ViT-B-16/openai, sample."
)
@click.option("--clip-checkpoint", metavar="FILE", help="Weights file of the CLIP model.")
@click.option(
    "--sentence-model",
    metavar="[MODEL]",
    is_flag=False,
    flag_value=MPNET,
    help=f"Sentence encoder for the same cosine, by name or folder; {MPNET} where none is named. Needs the package "
    "sentence-transformers.",
)
@click.option(
    "--bootstrap",
    "resamples",
    default=1000,
    show_default=True,
    type=click.IntRange(min=0),
    help="Times that units are drawn anew for the 95 % intervals.",
)
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Seed of those draws.")
@click.option("--out", metavar="FILE", help="Write the figures here, .json or .csv.")
@click.pass_context
def evaluate(context: click.Context, /, out: str | None, **options: Any) -> None:
    """Says how good the labels of RUN_OR_TABLE are, against the true concepts of the layer's neurons.

    RUN_OR_TABLE is the --out folder of a run, or any .csv or .parquet with a row per label: unit, description, and
    where there are such layer, similarity, rank.
    """
    with told_in_words(context):
        from tasks.evaluation import figures, shown

        if out:
            shown.check_ending(out)
        evaluation = figures.evaluate(figures.Question(**options))
        for line in shown.lines(evaluation):
            console().print(line)
        if out:
            shown.write(evaluation, out)
