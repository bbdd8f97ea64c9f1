"""The paper's studies as commands: `clip-dissect study NAME RUN`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any

import click

from flows.engine.console import console, say
from flows.engine.evaluate_commands import resamples, seed, sentence_model
from flows.engine.failure import told_in_words
from flows.engine.run_options import run_store

if TYPE_CHECKING:
    from tasks.finished import FinishedRun
    from tasks.studies.outcome import Outcome


@click.group()
def study() -> None:
    """Makes a study of the paper of RUN: tables here, its figure and their data in RUN/studies/NAME.

    RUN is the --out folder of a run, or STORE/runs/DIGEST. The figure is SVG and PNG, the data CSV and Parquet.
    Nothing is recorded anew, and the same study of the same run gives the same files to the byte.
    """


def study_command(name: str) -> Callable[[Callable[..., Outcome]], click.Command]:
    """A study under its name, with RUN and --out: opens the run, prints what the function finds, and writes it."""

    def add(function: Callable[..., Outcome]) -> click.Command:
        @wraps(function)
        def studied(context: click.Context, /, run: str, out: str | None, store: str | None, **options: Any) -> None:
            with told_in_words(context):
                from storage.files import Folder
                from tasks.finished import FinishedRun
                from tasks.published import refuse_run
                from tasks.studies.outcome import write

                if out:
                    refuse_run(Folder.at(out))
                of = FinishedRun.at(run, store)
                found = function(of, **options)
                for shown in found.shown:
                    console().print(shown)
                for url in write(of, name, found, out):
                    say(f"Written: {url}")

        of_out = click.option(
            "--out", metavar="DIR", help=f"Folder for figure and data; RUN/studies/{name} by default."
        )
        return study.command(name)(
            click.argument("run", metavar="RUN")(run_store(of_out(click.pass_context(studied))))
        )

    return add


@study_command("cutoff")
@click.option("--tau", help="Cut-off of interpretable labels, as in a run; by default the run's.")
@click.option(
    "--ratings", multiple=True, metavar="FILE.csv", help="Ratings of this run, from pages of `rate`; repeat it."
)
@click.option(
    "--wanted", type=float, help="Mean rating above the τ that is chosen; three quarters of the scale by default."
)
@resamples
@seed
def cutoff(run: FinishedRun, ratings: Sequence[str], **options: Any) -> Outcome:
    """A.8: the share of interpretable labels as τ varies, beside that of null neurons, and the τ that ratings choose.

    τ depends on probe set and concepts: what neurons with shuffled images reach says what it is worth here.
    """
    from tasks.studies.cutoff import CutoffQuestion
    from tasks.studies.cutoff import cutoff as studied

    return studied(run, CutoffQuestion(ratings=ratings, **options))


@study_command("similarities")
@click.option(
    "--similarities", default="", metavar="NAME,NAME", help="Similarity functions to compare; all by default."
)
@click.option("--layers", default="", metavar="NAME,NAME", help="Only these layers of the run.")
@click.option("--examples", default=8, show_default=True, type=click.IntRange(min=0), help="Neurons to show.")
@resamples
@seed
def similarities(run: FinishedRun, similarities: str, layers: str, **options: Any) -> Outcome:
    """A.9: the same neurons labelled by several similarity functions: where they agree, and which is right.

    Labels are made of the stored embeddings and activations, and kept in the store.
    """
    from tasks.studies.similarities import SimilaritiesQuestion
    from tasks.studies.similarities import similarities as studied

    asked = SimilaritiesQuestion(_names(similarities), _names(layers), **options)
    return studied(run, asked, say)


@study_command("absent-concepts")
@click.option(
    "--absent",
    multiple=True,
    metavar="LIST",
    help="Concepts to leave out as a group, a text file with one a line as they are called in the truth, and `|` and "
    "the class of their images where that is called otherwise; repeat it. By default the classes of the images that "
    "are true concepts.",
)
@click.option(
    "--folds",
    default=2,
    show_default=True,
    type=click.IntRange(min=1),
    help="Groups that those classes are dealt out to at random, left out in turn.",
)
@click.option("--layer", help="Layer to label; by default the last.")
@click.option("--truth", metavar="LIST", help="True concepts, as `evaluate` takes them; by default those of the run.")
@click.option("--examples", default=4, show_default=True, type=click.IntRange(min=0), help="Neurons in the figure.")
@resamples
@seed
def absent_concepts(run: FinishedRun, **options: Any) -> Outcome:
    """4.5: neurons whose concepts the probe set has no images of: how many get their name all the same.

    The layer is labelled by the stored embeddings and activations of the other images, beside all of them.
    """
    from tasks.studies.absent_concepts import AbsentQuestion
    from tasks.studies.absent_concepts import absent_concepts as studied

    return studied(run, AbsentQuestion(**options), say)


@study_command("compositions")
@click.option("--neurons", default="", metavar="N,N", help="Neurons of the layer.")
@click.option(
    "--sample",
    default=6,
    show_default=True,
    type=click.IntRange(min=1),
    help="So many live neurons, drawn at random, where none are named.",
)
@click.option("--layer", help="Layer of the neurons; by default the last.")
@click.option(
    "--words",
    default=100,
    show_default=True,
    type=click.IntRange(min=2),
    help="Best single words of a neuron that are joined by twos.",
)
@resamples
@seed
def compositions(run: FinishedRun, neurons: str, **options: Any) -> Outcome:
    """A.4: pairs of a neuron's best words, embedded and scored anew, beside its single best word.

    Takes the CLIP model of the run, as many texts a neuron as there are ordered pairs: 9,900 of 100 words.
    """
    from tasks.studies.compositions import CompositionsQuestion
    from tasks.studies.compositions import compositions as studied

    asked = CompositionsQuestion([_number(name) for name in _names(neurons)], **options)
    return studied(run, asked, say)


@study_command("ranges")
@click.option("--layers", default="", metavar="NAME,NAME", help="Layers of the run; its last by default.")
@click.option(
    "--neurons", default="", metavar="N,N", help="Neurons of these layers; the most interpretable by default."
)
@click.option("--count", default=4, show_default=True, type=click.IntRange(min=1), help="How many these are.")
def ranges(run: FinishedRun, layers: str, neurons: str, count: int) -> Outcome:
    """A.7: images drawn at random from neurons' most active 0.1 %, 1 % and 5 %: how far down a label holds."""
    from tasks.studies.ranges import RangesQuestion
    from tasks.studies.ranges import ranges as studied

    asked = RangesQuestion(_names(layers), [_number(name) for name in _names(neurons)], count)
    return studied(run, asked)


def _number(text: str) -> int:
    if not text.isdecimal():
        raise click.UsageError(f"--neurons {text!r} is no number of a neuron.")
    return int(text)


def _names(text: str) -> list[str]:
    return [name for part in text.split(",") if (name := part.strip())]


_target = click.option("--target", metavar="MODULE:FUNCTION", help="The run's, where it is such code.")
_layer = click.option("--layer", help="A linear layer of the run; by default the last.")
_names_of_outputs = click.option(
    "--truth", metavar="LIST", help="Names of the layer's neurons, as `evaluate` takes them; by default the run's."
)


@study_command("weights")
@_layer
@_target
@_names_of_outputs
@sentence_model
@click.option(
    "--top-k", type=click.IntRange(min=1), help="Highest weights correlated alone; by default 2.4 % of all."
)
@resamples
@seed
def weights(run: FinishedRun, **options: Any) -> Outcome:
    """5: do neurons that are connected by a high weight represent similar concepts?

    Of a linear layer and the recorded one that it reads, which is found by their activations. A neuron of the layer
    stands for its true concept, else its label, and one that it reads for its label.
    """
    from tasks.studies.weights import WeightsQuestion
    from tasks.studies.weights import weights as studied

    return studied(run, WeightsQuestion(**options))


@study_command("predictions")
@_layer
@_target
@_names_of_outputs
@click.option(
    "--image-labels",
    metavar="TABLE",
    help="Which image is of what class, columns path and concept; by default the probe's own labels.",
)
@sentence_model
@resamples
@seed
def predictions(run: FinishedRun, **options: Any) -> Outcome:
    """A.6: the class of an image, predicted from the label of the neuron that contributes most to it.

    In CLIP's text space, and with --sentence-model in that of a sentence encoder and in both: averaged, as in the
    paper's text, and 3 : 1, as in its published code.
    """
    from tasks.studies.predictions import PredictionsQuestion
    from tasks.studies.predictions import predictions as studied

    return studied(run, PredictionsQuestion(**options))
