"""Labels judged where the truth is not known: by the activations and embeddings that a run stored."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd

from storage.errors import IncompleteError, TableError
from tasks.dissection.bootstrap import LEVEL
from tasks.evaluation.columns import find, read_table
from tasks.evaluation.contrast import LEAST_SHOWN
from tasks.evaluation.figures import Figure
from tasks.evaluation.judge import Judge
from tasks.evaluation.labels import LAYER, LabelTable, read_labels
from tasks.evaluation.shown_concepts import ShownConcepts, of_probe
from tasks.finished import FinishedRun


@dataclass(frozen=True)
class Question:
    """What is evaluated, and by which images."""

    #: Folder of a run, whose store has all of its activations.
    run: str
    #: A table of somebody's labels, which are judged in place of the run's.
    labels: str | None = None
    #: By default all; of a table without a column `layer`, the last.
    layer: str | None = None
    #: Number of the table's first unit.
    first_unit: int = 0
    #: Table of which image shows what; by default the probe set's own labels.
    image_labels: str | None = None
    #: Folder with a folder of images for each concept.
    concept_images: str | None = None
    #: The store of the run, if that was moved.
    store: str | None = None
    resamples: int = 1_000
    #: Of halves, shuffled rows, controls and the bootstrap.
    seed: int = 0


@dataclass(frozen=True)
class LayerFigures:
    """The answers for a layer."""

    layer: str
    num_units: int
    figures: tuple[Figure, ...]


@dataclass(frozen=True)
class WithoutTruth:
    """The answers."""

    question: Question
    num_images: int
    layers: tuple[LayerFigures, ...]
    notes: tuple[str, ...] = field(default=())

    def as_json(self) -> dict[str, Any]:
        """Everything by name, in the order in which it is read."""
        asked = self.question
        return {
            "run": asked.run,
            "labels": asked.labels,
            "images": self.num_images,
            "image_labels": asked.image_labels,
            "concept_images": asked.concept_images,
            "interval": {"level": LEVEL, "resamples": asked.resamples, "seed": asked.seed},
            "layers": {
                one.layer: {
                    "units": one.num_units,
                    "figures": {of.name: of.written(beside_chance=True) for of in one.figures},
                }
                for one in self.layers
            },
            "notes": list(self.notes),
        }

    def as_table(self) -> pd.DataFrame:
        """A row per layer and figure: `layer, figure, value, low, high, by_chance, units, note`."""
        return pd.DataFrame(
            [
                {"layer": one.layer, "figure": of.name, **of.written(beside_chance=True)}
                for one in self.layers
                for of in one.figures
            ]
        )


def opened(question: Question) -> FinishedRun:
    """The run that is asked of. Raises `IncompleteError` where its store has not all activations."""
    run = FinishedRun.at(question.run, question.store)
    if run.plan.activations.kept == "top":
        raise IncompleteError(
            f"{question.run} kept the top images alone (--activations top), and labels are judged by activations on "
            "all images. Run again with --activations float16, or evaluate against a --truth."
        )
    return run


def evaluate(question: Question, run: FinishedRun, fresh: ShownConcepts | None = None) -> WithoutTruth:
    """Works out every figure that the run, its images and the labels allow, layer by layer.

    `fresh` are images of concepts that were recorded for it. Raises `TableError`, `UnknownNameError`, what
    `FinishedRun` raises, and `ArrayError` where what was recorded is damaged.
    """
    tables = list(_tables(question, run))
    shown = of_probe(run.plan, question.image_labels)
    judge = Judge(run, shown, fresh, question.resamples, question.seed)
    layers = tuple(
        LayerFigures(
            table.layer,
            run.plan.activations.num_neurons[table.layer],
            tuple(judge.of_given(table) if question.labels else judge.of_run(table)),
        )
        for table in tables
    )
    return WithoutTruth(question, run.plan.probe.num_images, layers, tuple(_notes(question, run, shown)))


def layers_of(question: Question, run: FinishedRun) -> list[str]:
    """Layers of the run that are asked of. Raises `UnknownNameError`."""
    return run.layers if question.layer is None else [run.layer(question.layer)]


def _tables(question: Question, run: FinishedRun) -> list[LabelTable]:
    """Labels of each layer that is judged."""
    wanted = layers_of(question, run)
    if question.labels is None:
        return [read_labels(question.run, layer) for layer in wanted]
    tables = _given(question.labels, wanted, question)
    for table in tables:
        num_neurons, last = run.plan.activations.num_neurons[table.layer], int(table.rows["unit"].max())
        if last >= num_neurons:
            raise TableError(
                f"{question.labels} has unit {last + question.first_unit}, and layer {table.layer} has {num_neurons} "
                f"neurons: units {question.first_unit} to {question.first_unit + num_neurons - 1}. Are they of the "
                "same network and layer? --first-unit says from what number the table counts."
            )
    return tables


def _given(url: str, wanted: list[str], question: Question) -> list[LabelTable]:
    column = find(read_table(url), LAYER, url)
    if column is None:
        return [replace(read_labels(url, None, question.first_unit), layer=wanted[-1])]
    has = set(column.astype(str))
    both = [layer for layer in wanted if layer in has]
    if not both:
        raise TableError(f"{url} has layers {', '.join(sorted(has))}, and none of {', '.join(wanted)}.")
    return [read_labels(url, layer, question.first_unit) for layer in both]


def _notes(question: Question, run: FinishedRun, shown: ShownConcepts) -> Iterator[str]:
    yield (
        "By chance: labels that the method gives where image rows are shuffled, judged by the same images; of labels "
        "that are judged as they are, those of other neurons."
    )
    if question.labels:
        yield "Labels that were made from these images are in sample: they fit them better than others."
    else:
        num_images = run.plan.probe.num_images
        yield (
            f"Held out: labelled anew from {num_images // 2:,} images drawn at random (seed {question.seed}), and "
            f"judged on the other {num_images - num_images // 2:,}. In sample: the run's labels, on the images that "
            "they were made from."
        )
    if shown.rows:
        yield f"AUC and MAD are of neurons whose label at least {LEAST_SHOWN} images are known to show."
    elif question.concept_images is None:
        yield (
            "No image is known to show a concept, so there is no AUC: --image-labels TABLE says which do, and "
            "--concept-images DIR has some of each."
        )
