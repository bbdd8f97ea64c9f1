"""Commands that say how good labels are, and whether they are those of the paper."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from flows.engine.console import console, say
from flows.engine.failure import told_in_words
from flows.engine.local import engine
from flows.engine.run_options import run_store

#: The paper's sentence encoder.
MPNET = "all-mpnet-base-v2"
#: Options of `evaluate` by what labels are judged by; the bootstrap's are of all.
OF_LABELS = ("layer", "first_unit", "out")
OPTIONS = {
    "truth": ("truth", "tau", "clip", "clip_checkpoint", "sentence_model", "store", *OF_LABELS),
    "activations": ("labels", "image_labels", "concept_images", "target", "store", *OF_LABELS),
    "people": ("run",),
}
TOLD = {
    "truth": "an evaluation against a truth",
    "activations": "an evaluation without truth (--without-truth)",
    "people": "an evaluation of ratings (--ratings)",
}
#: Columns of a table of the paper where the output is no terminal.
WIDTH_IN_PIPES = 160

sentence_model = click.option(
    "--sentence-model",
    metavar="[MODEL]",
    is_flag=False,
    flag_value=MPNET,
    help=f"Sentence encoder for the cosine of label and true name, by name or folder; {MPNET} where none is named. "
    "Needs the package sentence-transformers.",
)
resamples = click.option(
    "--bootstrap",
    "resamples",
    default=1000,
    show_default=True,
    type=click.IntRange(min=0),
    help="Times that units are drawn anew for the 95 % intervals.",
)
seed = click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Of what is drawn.")


@click.command()
@click.argument("sources", metavar="RUN_OR_TABLE", nargs=-1, required=True)
@click.option(
    "--truth",
    metavar="LIST",
    help="True concepts: a text file whose line i is unit i (blank: not known; `tench | Tinca tinca`: either is "
    "right), a table with columns unit and concept, imagenet, or sample. By default those that the run was given.",
)
@click.option("--layer", help="Layer to evaluate; by default the last, and without truth all.")
@click.option("--first-unit", default=0, show_default=True, help="Number of the first unit in a table.")
@click.option("--tau", help="Cut-off of interpretable labels, as in a run; by default the run's.")
@click.option(
    "--clip", metavar="MODEL", help="CLIP model for the cosine of label and true name: ViT-B-16/openai, sample."
)
@click.option("--clip-checkpoint", metavar="FILE", help="Weights file of the CLIP model.")
@sentence_model
@click.option(
    "--without-truth",
    is_flag=True,
    help="Judge the labels of a run by the activations that it stored: simulation, AUC and MAD, halves, null.",
)
@click.option("--labels", metavar="TABLE", help="Without truth: judge these labels in place of the run's.")
@click.option(
    "--image-labels",
    metavar="TABLE",
    help="Without truth: which probe image shows what, columns path and concept; by default the probe's own labels.",
)
@click.option(
    "--concept-images",
    metavar="DIR",
    help="Without truth: DIR/CONCEPT/*.png, images that show what labels say; recorded into the run's store.",
)
@click.option("--target", metavar="MODULE:FUNCTION", help="With --concept-images: the run's, where it is such code.")
@click.option(
    "--ratings",
    is_flag=True,
    help="Say what people rated: in place of RUN_OR_TABLE stand their CSVs, from pages of `clip-dissect rate`.",
)
@run_store
@click.option("--run", metavar="RUN", help="With --ratings: the run they are of; ratings of another one are refused.")
@resamples
@seed
@click.option("--out", metavar="FILE", help="Write the figures here, .json or .csv.")
@click.pass_context
def evaluate(
    context: click.Context, /, sources: Sequence[str], without_truth: bool, ratings: bool, **options: Any
) -> None:
    """Says how good the labels of RUN_OR_TABLE are, against the true concepts of the layer's neurons.

    RUN_OR_TABLE is the --out folder of a run, or any .csv or .parquet with a row per label: unit, description, and
    where there are such layer, similarity, rank.

    With --without-truth it is a run, and its labels are judged by images: do those from one half of the images say
    what neurons do on the other half?

    With --ratings, people have judged: the paper's Table 5 (yes 1, maybe .5, no 0) or 6 (1-5). Means are over raters
    and neurons, intervals over neurons drawn anew. How far raters agree leaves controls out.
    """
    if without_truth and ratings:
        raise click.UsageError("--without-truth and --ratings are two evaluations: give one of them.")
    by = "people" if ratings else "activations" if without_truth else "truth"
    _refuse_others(context, by)
    if ratings:
        _refuse_runs(sources)
        _print_ratings(context, sources, **{name: options[name] for name in ("run", "resamples", "seed")})
        return
    if len(sources) > 1:
        raise click.UsageError(f"Give one run or table, not {len(sources)}; only --ratings takes several files.")
    asked = {name: options[name] for name in (*OPTIONS[by], "resamples", "seed")}
    out = asked.pop("out")
    # Prefect is told where it logs before anything imports it.
    with engine() if options["concept_images"] else told_in_words(context):
        from tasks.evaluation import shown

        if out:
            shown.check_out(out)
        evaluation = (_without_truth if without_truth else _with_truth)(source=sources[0], **asked)
        for line in shown.lines(evaluation):
            console().print(line)
        if out:
            shown.write(evaluation, out)


def _refuse_others(context: click.Context, by: str) -> None:
    """Options that only another kind of evaluation has are no part of this one."""
    for other, names in OPTIONS.items():
        for name in set(names) - set(OPTIONS[by]):
            if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
                option = f"--{name.replace('_', '-')}"
                raise click.UsageError(
                    f"{option} only works with {TOLD[other]}, and this is {TOLD[by]}. Leave out {option}, or the "
                    "options that make it another evaluation."
                )


def _refuse_runs(files: Sequence[str]) -> None:
    """A run in place of files of ratings is refused, with the command that was meant."""
    runs = [name for name in files if Path(name).is_dir()]
    if runs:
        others = " ".join(shlex.quote(name) for name in files if name not in runs) or "RATINGS.csv"
        raise click.UsageError(
            f"{runs[0]} is a folder, and --ratings takes files of ratings in place of a run. Type: clip-dissect "
            f"evaluate --ratings {others} --run {shlex.quote(runs[0])}"
        )


def _print_ratings(context: click.Context, files: Sequence[str], run: str | None, resamples: int, seed: int) -> None:
    with told_in_words(context):
        from tasks.ratings import agreement, read_ratings
        from tasks.ratings_tables import ratings_lines, ratings_table

        found = read_ratings(files, run)
        console().print(ratings_table(found, resamples, seed))
        for line in ratings_lines(found, agreement(found)):
            console().print(line)


def _with_truth(**options: Any) -> Any:
    from tasks.evaluation import figures

    return figures.evaluate(figures.Question(**options))


def _without_truth(target: str | None, source: str, **options: Any) -> Any:
    from tasks.evaluation import without_truth

    question = without_truth.Question(run=source, **options)
    run = without_truth.opened(question)
    layers, folder = without_truth.layers_of(question, run), question.concept_images
    fresh = _recorded(run, layers, folder, target) if folder else None
    return without_truth.evaluate(question, run, fresh)


def _recorded(run: Any, layers: list[str], folder: str, target: str | None) -> Any:
    """Images of concepts, recorded into the run's store; what is there is not recorded again."""
    from flows.engine.runners import task_runners
    from flows.observe_probe import observe_probe
    from flows.shard_probe import shard_probe
    from tasks.evaluation.concept_images import record_spec, shown_by

    spec = record_spec(run, layers, folder, target)
    with task_runners(spec) as runners:
        probe = shard_probe.with_options(task_runner=runners.of_cores)(spec)
        observe = observe_probe.with_options(task_runner=runners.of_devices)
        plan, _ = observe(record=spec, probe=probe)
    [recording] = plan.activations.values()
    return shown_by(run, probe, recording)


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
@sentence_model
@resamples
@seed
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
