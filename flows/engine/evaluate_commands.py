"""Commands that say how good labels are, and whether they are those of the paper."""

from __future__ import annotations

from typing import Any

import click

from flows.engine.console import console, say
from flows.engine.failure import told_in_words
from flows.engine.local import engine

#: The paper's sentence encoder.
MPNET = "all-mpnet-base-v2"
#: Columns of a table of the paper where the output is no terminal.
WIDTH_IN_PIPES = 160

_sentence_model = click.option(
    "--sentence-model",
    metavar="[MODEL]",
    is_flag=False,
    flag_value=MPNET,
    help=f"Sentence encoder for the cosine of label and true name, by name or folder; {MPNET} where none is named. "
    "Needs the package sentence-transformers.",
)
_resamples = click.option(
    "--bootstrap",
    "resamples",
    default=1000,
    show_default=True,
    type=click.IntRange(min=0),
    help="Times that units are drawn anew for the 95 % intervals.",
)
_seed = click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Seed of those draws.")


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
@_sentence_model
@_resamples
@_seed
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


@click.command()
@click.argument("table", type=click.Choice(["table1", "table2", "table3"]))
@click.option("--imagenet", metavar="DIR", help="Images of ImageNet val; any source that --probe of a run takes.")
@click.option("--broden", metavar="DIR", help="Folder of Broden.")
@click.option("--cifar100", metavar="SOURCE", help="CIFAR-100 train: torchvision:CIFAR100/train gets it.")
@click.option("--broden-names", metavar="FILE", help="Names of Broden's concepts, one a line.")
@click.option("--resnet50-checkpoint", metavar="FILE", help="Weights of ResNet-50, which torchvision else fetches.")
@click.option("--places-checkpoint", metavar="FILE", help="Weights of ResNet-18 for the 365 classes of Places.")
@click.option(
    "--places-names",
    metavar="FILE",
    help="Line i: what Broden calls class i of Places, blank where it has no name for it.",
)
@click.option("--clip", default="ViT-B-16/openai", show_default=True, metavar="MODEL", help="CLIP model.")
@click.option("--clip-checkpoint", metavar="FILE", help="Weights file of the CLIP model.")
@click.option("--variant", type=click.Choice(["paper", "reference"]), default="paper", show_default=True)
@click.option("--device", default="auto", show_default=True, help="As in a run.")
@click.option("--store", default="clip-dissect-store", show_default=True, help="As in a run.")
@click.option("--sample", is_flag=True, help="The embedded sample in place of all of it, to see that it runs.")
@_sentence_model
@_resamples
@_seed
@click.option("--out", default="out/reproduce", show_default=True, metavar="DIR", help="Folder of runs and table.")
def reproduce(table: str, sample: bool, out: str, **options: Any) -> None:
    """Makes a table of the paper again: dissects each cell, and prints what is measured beside what was published.

    Cells that something is missing for are told, and left out. What is done is kept in --store and never done twice.
    Class names are torchvision's and common words wordfreq's: where the authors' lists differ, so do the figures.
    """
    with engine():
        from flows.reproduce import reproduce as measured
        from tasks.evaluation import paper, reproduction

        inputs = reproduction.of_sample(out, **options) if sample else reproduction.of_paper(**options)
        found = reproduction.as_table(list(measured(paper.TABLES[table], inputs, out)), inputs)
        console(WIDTH_IN_PIPES).print(reproduction.shown(found))
        if sample:
            say("Measured of the embedded sample, not of what the paper measured: there is no difference to give.")
        say(f"Table: {reproduction.write(found, out, table)}")
