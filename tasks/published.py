"""What a run published, read back: its facts and tables, which may be somebody else's, or edited by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from pandas.api import types
from pyarrow import ArrowException
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from storage.errors import DamagedError, ForeignError, IncompleteError
from storage.files import Folder
from storage.runs import RUN as RUN
from storage.tables import read_parquet
from storage.whereabouts import probe_of

SPEC, REPORT = "spec.yaml", "report/index.html"
LABELS, LABELS_CSV, DESCRIPTIONS = "labels.parquet", "labels.csv", "descriptions.csv"
TOP_IMAGES, REJECTS = "top_images.parquet", "rejects.parquet"
FILES = (LABELS, LABELS_CSV, DESCRIPTIONS, TOP_IMAGES, REJECTS, SPEC, REPORT)
NEURONS, IMAGE_RANGES = "neurons.parquet", "image_ranges.parquet"
SIMILAR_NEURONS, INPUTS = "similar_neurons.parquet", "inputs.parquet"
#: Tables that runs of older versions and those with --details none have not.
DETAILS = (NEURONS, IMAGE_RANGES, SIMILAR_NEURONS, INPUTS)
#: Columns that are read of each table, by what they hold.
TEXTS, WHOLE, NUMBERS, FLAGS, LISTS = "texts", "whole numbers", "numbers", "flags", "lists of numbers"
COLUMNS = {
    LABELS: {"layer": TEXTS, "neuron": WHOLE, "rank": WHOLE, "concept": TEXTS, "is_dead": FLAGS}
    | {"interpretable": FLAGS}
    | dict.fromkeys(("similarity", "margin", "null_quantile", "log_likelihood", "log_prior"), NUMBERS),
    TOP_IMAGES: {"layer": TEXTS, "neuron": WHOLE, "rank": WHOLE, "row": WHOLE, "image": TEXTS, "activation": NUMBERS},
    REJECTS: {"path": TEXTS, "reason": TEXTS},
    NEURONS: {"layer": TEXTS, "neuron": WHOLE}
    | dict.fromkeys(("mean", "std", "minimum", "maximum"), NUMBERS)
    | dict.fromkeys(("edges", "counts"), LISTS),
    IMAGE_RANGES: {"layer": TEXTS, "neuron": WHOLE, "range": TEXTS, "row": WHOLE, "image": TEXTS}
    | {"activation": NUMBERS},
    SIMILAR_NEURONS: {"layer": TEXTS, "neuron": WHOLE, "by": TEXTS, "rank": WHOLE, "other": WHOLE, "value": NUMBERS},
    INPUTS: {"layer": TEXTS, "neuron": WHOLE, "rank": WHOLE, "input_layer": TEXTS, "input": WHOLE, "weight": NUMBERS},
}

#: Tables without a row where nothing went wrong; every neuron has a label, if only that it is dead, and top images.
MAY_BE_EMPTY = (REJECTS, IMAGE_RANGES, SIMILAR_NEURONS, INPUTS)


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class _Spec(_Part):
    target: str
    checkpoint: str | None
    summary: list[str]
    probe: list[str]
    concepts: str
    prompt: str
    clip: str | None
    similarity: str
    variant: str


class _Counts(_Part):
    images: int
    rejects: int
    concepts: int


class _Layer(_Part):
    neurons: int
    dead: int
    nearly_constant: int
    interpretable: int | None
    distinct_labels: int


class _Accuracy(_Part):
    layer: str
    neurons: int
    top1: float
    top5: float | None = None
    #: Neurons whose true concept is in the concept list, and their accuracy where they are not all.
    possible: int | None = None
    of_possible: dict[str, float] = {}
    truth: list[str]


class _Pass(_Part):
    rate: float = Field(alias="images/s")


class _Run(_Part):
    """What is read of `run.json`."""

    digest: str
    spec: _Spec
    #: Empty in runs of older versions.
    folder: str = ""
    probe: str
    digests: dict[str, str]
    counts: _Counts
    layers: dict[str, _Layer] = Field(min_length=1)
    hyperparameters: dict[str, float]
    tau: str
    accuracy: _Accuracy | None
    notes: list[str]
    passes: list[_Pass]
    seconds: dict[str, float]
    versions: dict[str, str]
    #: Bytes and SHA-256; SHA-256 alone where an older version has published.
    files: dict[str, str | dict[str, int | str]]


def read_run(out: Folder) -> dict[str, Any]:
    """`run.json` of a published run. Raises `IncompleteError`, `DamagedError` where it says something else."""
    try:
        run: dict[str, Any] = out.read_json(RUN)
        _Run.model_validate(run)
        json.dumps(run, ensure_ascii=False).encode()  # halves of characters cannot be written again
    except FileNotFoundError as error:
        raise IncompleteError(f"{out.url} holds no {RUN}: it is not the --out folder of a finished run.") from error
    except (ValidationError, UnicodeEncodeError) as error:
        what = str(error)
        if isinstance(error, ValidationError):
            problem = error.errors()[0]
            what = f"{'.'.join(map(str, problem['loc'])) or 'at its top'}: {problem['msg']}"
        raise DamagedError(
            f"{out.path(RUN)} does not say what that of a run does ({what}). Remove it and run again with the same "
            "--out."
        ) from error
    return run


def tops_in_words(accuracy: dict[str, Any]) -> str:
    """`90.0% top-1, 95.0% top-5` of the accuracy of a run."""
    names = {"top1": "top-1", "top5": "top-5"}
    return ", ".join(f"{accuracy[top]:.1%} {name}" for top, name in names.items() if top in accuracy)


def possible_in_words(accuracy: dict[str, Any]) -> str:
    """How many neurons a run could have named right, and how many it did; nothing where it could all of them."""
    known, possible = accuracy["neurons"], accuracy.get("possible")
    if possible is None or possible == known:  # None: of an older version
        return ""
    if not possible:
        return f"; the concept list has none of the true concepts of these {known}"
    return (
        f"; the concept list has the true concepts of {possible} of the {known}, and of these it is "
        f"{tops_in_words(accuracy['of_possible'])}"
    )


def check_store(outs: Sequence[str], store: str | None) -> None:
    """Raises `IncompleteError` where a store is given that none of some runs was made in."""
    problem: IncompleteError | None = None
    for out in (Folder.at(one) for one in outs) if store else ():
        try:
            probe_of(out, read_run(out), store)
        except IncompleteError as error:
            problem = problem or error
        else:
            return
    if problem:
        raise problem


def refuse_run(folder: Folder) -> None:
    """Raises `ForeignError` where a run has its tables in a folder: others of their names would take their place."""
    if folder.is_file(RUN):
        raise ForeignError(
            f"{folder.url} is the --out folder of a run: what is written there would take the place of its tables. "
            "Take another folder."
        )


def has_details(run: dict[str, Any]) -> bool:
    """Whether a run, by its `run.json`, has published the tables of `DETAILS`."""
    return set(DETAILS) <= set(run["files"])


def read_table(out: Folder, name: str) -> pd.DataFrame:
    """A table of a published run. Raises `DamagedError` where it is torn, gone, empty, or has other columns."""
    table = read_parquet(out, name, alone=True)
    if table.empty and name not in MAY_BE_EMPTY:
        raise DamagedError(f"The table {out.path(name)} of a run has no row. Remove it and run again.")
    for column, holds in COLUMNS[name].items():
        if column not in table or not _holds(table[column], holds):
            has = str(table[column].dtype) if column in table else "not there"
            raise DamagedError(
                f"The table {out.path(name)} is none of a run: its column {column!r} is {has}, not {holds}. "
                "Remove it and run again."
            )
    return table


def _holds(column: Any, what: str) -> bool:
    if not isinstance(column, pd.Series):
        return False  # two of one name
    if what == TEXTS:
        try:
            return bool(column.map(lambda value: isinstance(value, str)).all())
        except ArrowException:
            return False  # no UTF-8, which is seen when a text is taken out
    if what == LISTS:
        return bool(column.map(lambda value: isinstance(value, np.ndarray) and value.dtype.kind in "fi").all())
    if what == WHOLE:
        return types.is_integer_dtype(column) and not column.isna().any()
    if what == FLAGS:  # none at all where there is no null distribution
        return types.is_bool_dtype(column) or bool(column.isna().all())
    return types.is_numeric_dtype(column) or bool(column.isna().all())
