"""The paper's tables made again: which run each cell is, and what was measured beside what was published."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.table import Table

from storage.files import Folder
from storage.tables import write_csv
from tasks import sample
from tasks.evaluation import paper
from tasks.evaluation.figures import Evaluation, Question, evaluate
from tasks.evaluation.paper import Cell
from tasks.evaluation.shown import SHOWN
from tasks.sample.draw import write_probe
from tasks.spec import DissectSpec

#: Columns of the file that is written.
RUN = ("network", "probe", "concepts", "similarity")
COLUMNS = (*RUN, "figure", "published", "measured", "low", "high", "difference", "note")
#: Drawn images of the sample.
NUM_DRAWN = 2_400
#: What has to be given for a figure that is not measured.
NEEDS = {"clip_cosine": "--clip", "sentence_cosine": "--sentence-model"}


@dataclass(frozen=True)
class Inputs:
    """What the names in the paper's tables stand for here."""

    #: Parameters of a run (`DissectSpec`) by the name of a network, a probe set or a concept list.
    given: Mapping[str, Mapping[str, Any]]
    #: How to give what is not there.
    options: Mapping[str, str]
    #: Parameters of every run.
    common: Mapping[str, Any] = field(default_factory=dict)
    sentence_model: str | None = None
    resamples: int = 1_000
    seed: int = 0
    #: Whether it is what the paper measured, so that differences mean something.
    is_the_paper_s: bool = True

    def missing(self, cell: Cell) -> list[str]:
        """Options that a cell needs and that were not given."""
        return [self.options.get(name, name) for name in cell.needs if name not in self.given]

    def spec(self, cell: Cell, out: str) -> DissectSpec:
        """The run of a cell, in a folder of its own below `out`. Raises pydantic's `ValidationError`."""
        parameters: dict[str, Any] = {**self.common, "similarity": cell.similarity}
        # For the rank of the right class; of 20,000 words similarities would take space, and no rank is published.
        parameters["keep_similarities"] = cell.concepts == paper.IMAGENET_NAMES
        parameters |= {**self.given[cell.network], **self.given[cell.concepts]}
        for name in cell.probe:
            parameters |= {key: value for key, value in self.given[name].items() if key != "probe"}
        probe = tuple(dict.fromkeys(source for name in cell.probe for source in self.given[name]["probe"]))
        folder = Folder.at(out) / cell.network / cell.name
        return DissectSpec(**parameters | {"probe": probe, "out": folder.url})

    def question(self, cell: Cell, run: str) -> Question:
        """What is asked of a cell's run: no more than was published of it."""
        published = cell.published
        return Question(
            run,
            clip=self.common.get("clip") if "clip_cosine" in published else None,
            clip_checkpoint=self.common.get("clip_checkpoint") if "clip_cosine" in published else None,
            sentence_model=self.sentence_model if "sentence_cosine" in published else None,
            resamples=self.resamples,
            seed=self.seed,
        )


def of_paper(
    *,
    imagenet: str | None,
    broden: str | None,
    cifar100: str | None,
    broden_names: str | None,
    resnet50_checkpoint: str | None,
    places_checkpoint: str | None,
    places_names: str | None,
    sentence_model: str | None,
    resamples: int,
    seed: int,
    **common: Any,
) -> Inputs:
    """What the paper measured, as far as it is given; `common` are parameters of every run."""
    given: dict[str, Mapping[str, Any]] = {
        paper.RESNET50: {
            "target": "torchvision:resnet50/IMAGENET1K_V1",
            "checkpoint": resnet50_checkpoint,
            "layers": "fc",
            "truth": "imagenet",
        },
        paper.WORDS_3K: {"concepts": "common-3k"},
        paper.WORDS_10K: {"concepts": "common-10k"},
        paper.WORDS_20K: {"concepts": "common-20k"},
        paper.IMAGENET_NAMES: {"concepts": "imagenet"},
    }
    if places_checkpoint and places_names:
        target = {"target": "torchvision:resnet18", "checkpoint": places_checkpoint}
        given[paper.PLACES] = target | {"layers": "fc", "truth": places_names}
    if broden_names:
        given[paper.BRODEN_NAMES] = {"concepts": broden_names}
    for name, source in ((paper.IMAGENET, imagenet), (paper.BRODEN, broden), (paper.CIFAR100, cifar100)):
        if source:
            given[name] = {"probe": (source,)}
    options = {
        paper.IMAGENET: "--imagenet",
        paper.BRODEN: "--broden",
        paper.CIFAR100: "--cifar100",
        paper.BRODEN_NAMES: "--broden-names",
        paper.PLACES: "--places-checkpoint and --places-names",
    }
    return Inputs(given, options, common, sentence_model, resamples, seed)


def of_sample(
    out: str,
    *,
    store: str,
    device: str,
    variant: str,
    sentence_model: str | None = None,
    resamples: int = 1_000,
    seed: int = 0,
    num_images: int = NUM_DRAWN,
    **of_the_paper: Any,
) -> Inputs:
    """The embedded sample in place of every network, probe set and list; its images are drawn into `out`/images."""
    del of_the_paper  # the sample has its own
    images = write_probe(Path(Folder.at(out).path("images")), num_images)
    network = {"target": "sample", "layers": "head", "truth": "sample"}
    words, classes = {"concepts": "sample"}, {"concepts": str(sample.CLASSES)}
    given: dict[str, Mapping[str, Any]] = {
        **dict.fromkeys((paper.RESNET50, paper.PLACES), network),
        **{name: {"probe": (str(images),)} for name in (paper.IMAGENET, paper.BRODEN, paper.CIFAR100)},
        **dict.fromkeys((paper.WORDS_3K, paper.WORDS_10K, paper.WORDS_20K), words),
        **dict.fromkeys((paper.BRODEN_NAMES, paper.IMAGENET_NAMES), classes),
    }
    common = {"clip": "sample", "store": store, "device": device, "variant": variant}
    return Inputs(given, {}, common, sentence_model, resamples, seed, is_the_paper_s=False)


@dataclass(frozen=True)
class Measured:
    """A cell, and what was measured of it; None where something was not given for it."""

    cell: Cell
    evaluation: Evaluation | None
    note: str = ""


def measure(inputs: Inputs, cell: Cell, run: Folder) -> Measured:
    """Evaluates the finished run of a cell."""
    return Measured(cell, evaluate(inputs.question(cell, run.url)))


def as_table(measured: list[Measured], inputs: Inputs) -> pd.DataFrame:
    """A row per published figure, with `COLUMNS`; null where it was not measured."""
    return pd.DataFrame([row for one in measured for row in _rows(one, inputs)], columns=list(COLUMNS))


def _rows(one: Measured, inputs: Inputs) -> Iterator[dict[str, Any]]:
    found = {figure.name: figure for figure in one.evaluation.figures} if one.evaluation else {}
    for name, published in one.cell.published.items():
        run = (one.cell.network, "+".join(one.cell.probe), one.cell.concepts, one.cell.similarity)
        row: dict[str, Any] = {**dict(zip(RUN, run, strict=True)), "figure": name, "published": published}
        figure = found.get(name)
        if figure is None:
            yield row | {"note": one.note or f"needs {NEEDS.get(name, name)}"}
            continue
        measured = {"measured": figure.value, "low": figure.low, "high": figure.high, "note": figure.note}
        if figure.value is not None and inputs.is_the_paper_s:
            measured["difference"] = figure.value - published
        yield row | measured


def write(table: pd.DataFrame, out: str, name: str) -> str:
    """Writes it as CSV into `out`; returns the URL of the file."""
    folder = Folder.at(out)
    write_csv(folder, f"{name}.csv", table)
    return folder.path(f"{name}.csv")


def shown(table: pd.DataFrame) -> Table:
    """The same for a terminal."""
    drawn = Table(box=SIMPLE_HEAD)
    for column in (*RUN[1:], "figure"):  # a table is of one network
        drawn.add_column(column)
    for column in ("published", "measured", "95 % interval", "difference"):
        drawn.add_column(column, justify="right", no_wrap=True)
    drawn.add_column("note")
    for row in table.to_dict("records"):
        name, form = SHOWN[row["figure"]]
        numbers = {key: _number(row[key], form) for key in ("published", "measured", "low", "high")}
        between = "-" if numbers["low"] == "-" else f"{numbers['low']} – {numbers['high']}"
        drawn.add_row(
            *(row[column] for column in RUN[1:]),
            name,
            numbers["published"],
            numbers["measured"],
            between,
            _number(row["difference"], f"+{form}"),
            "" if pd.isna(row["note"]) else row["note"],
        )
    return drawn


def _number(value: Any, form: str) -> str:
    return "-" if pd.isna(value) else format(value, form)
