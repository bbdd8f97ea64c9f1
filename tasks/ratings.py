"""What people say of labels: CSV files of the page `rate.html`, and the paper's Tables 5 and 6 of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass

import numpy as np
import pandas as pd

from storage.errors import TableError
from storage.files import Folder, split
from storage.user_tables import csv_table
from tasks.dissection.agreement import equal_share, krippendorff_alpha, opposite_share
from tasks.dissection.bootstrap import Counts, Floats, Statistic
from tasks.published import read_run
from tasks.rated_items import Item
from tasks.report.scales import SCALES, Scale

COLUMNS = ("rater", "item", "concept", "rating", "seconds", "scale", "run", "seed")
#: What a rated item is: one row of the table of agreement.
ITEM = ["layer_number", "layer", "neuron", "concept", "is_control"]


class RatingsError(ValueError):
    """A CSV that is none of the page, or does not fit the others."""


@dataclass(frozen=True)
class Ratings:
    """Ratings of one run on one scale."""

    scale: Scale
    #: A row per rating: rater, the columns of `ITEM`, score and seconds.
    table: pd.DataFrame


@dataclass(frozen=True)
class Rated:
    """What some neurons were given."""

    num_neurons: int
    num_ratings: int
    #: Over raters and neurons; NaN of none.
    mean: float
    #: Interval of 95 %, over neurons drawn anew.
    low: float
    high: float


@dataclass(frozen=True)
class Agreement:
    """How far raters agree on the labels, controls left out; NaN where no two rated the same."""

    num_items: int
    """Items that two or more rated."""
    equal: float
    """Share of pairs of ratings of an item."""
    opposite: float
    """Share of pairs of ratings of an item that are at the two ends of the scale."""
    alpha: float


def read_ratings(files: Sequence[str], out: str | None = None) -> Ratings:
    """All ratings of CSV files, of the run published in `out` where that is given.

    Raises `RatingsError` for what the page did not write, ratings that are not on the scale, files of several runs or
    scales, or of another run than that in `out`, and a rater who rates an item twice.
    """
    table = pd.concat([_read(file) for file in files], ignore_index=True)
    for what in ("run", "scale"):
        _one_of(table, what)
    if out is not None:
        _of_run(table, Folder.at(out))
    scale = SCALES.get(table["scale"].iloc[0])
    if scale is None:
        raise RatingsError(f"{_at(table, 0)}: there is no scale {table['scale'].iloc[0]!r}, but {', '.join(SCALES)}.")
    items = pd.DataFrame([astuple(_item(table, i)) for i in range(len(table))], columns=list(Item.__annotations__))
    scores = [_score(table, i, scale) for i in range(len(table))]
    seconds = [_seconds(table, i) for i in range(len(table))]
    rated = items.assign(rater=table["rater"], score=scores, seconds=seconds)
    _once(table, rated)
    return Ratings(scale, rated)


def rated(table: pd.DataFrame, resamples: int, seed: int) -> Rated:
    """What the ratings of a table come to."""
    neurons = table.groupby(["layer", "neuron"])["score"].agg(["sum", "count"]).to_numpy(dtype=np.float64)  # [N, 2]

    def means(counts: Counts) -> Floats:
        sums = counts @ neurons  # [B, 2]
        figures: Floats = sums[:, 0] / sums[:, 1]
        return figures

    mean = Statistic(len(neurons), means)
    return Rated(len(neurons), len(table), mean.value(), *mean.interval(resamples, seed))


def agreement(ratings: Ratings) -> Agreement:
    """How far raters agree."""
    table = ratings.table[~ratings.table["is_control"]]
    scores = table.pivot(index="rater", columns=ITEM, values="score").to_numpy(dtype=np.float64)  # [R, U]
    ends = ratings.scale.scores.values()
    return Agreement(
        int(((~np.isnan(scores)).sum(axis=0) > 1).sum()),
        equal_share(scores),
        opposite_share(scores, min(ends), max(ends)),
        krippendorff_alpha(scores),
    )


def _read(file: str) -> pd.DataFrame:
    folder, name = split(file)
    try:
        table = csv_table(folder.read(name), name)
    except FileNotFoundError as error:
        raise RatingsError(f"There is no file {file}.") from error
    except TableError as error:
        raise RatingsError(f"{file} is no CSV ({error}).") from error
    if set(table.columns) != set(COLUMNS):
        raise RatingsError(
            f"{file} has columns {', '.join(table.columns)}, and ratings have {', '.join(COLUMNS)}. "
            "Give the file that the page saves."
        )
    if table.empty:
        raise RatingsError(f"{file} holds no rating.")
    return table.assign(file=file, line=range(2, len(table) + 2))


def _at(table: pd.DataFrame, row: int) -> str:
    return f"{table['file'].iloc[row]}, line {table['line'].iloc[row]}"


def _one_of(table: pd.DataFrame, what: str) -> None:
    values = table.drop_duplicates(what)
    if len(values) > 1:
        told = ", ".join(f"{value} in {file}" for value, file in zip(values[what], values["file"], strict=True))
        raise RatingsError(f"Ratings are of more than one {what}: {told}. Evaluate each for itself.")


def _of_run(table: pd.DataFrame, folder: Folder) -> None:
    digest = read_run(folder)["digest"]
    if digest != table["run"].iloc[0]:
        raise RatingsError(
            f"{table['file'].iloc[0]} is of run {table['run'].iloc[0]}, and {folder.url} holds run {digest}."
        )


def _item(table: pd.DataFrame, row: int) -> Item:
    one = table.iloc[row]
    try:
        return Item.opened(one["item"], one["concept"], one["run"], one["seed"])
    except (ValueError, TypeError) as error:
        raise RatingsError(
            f"{_at(table, row)}: {one['item']!r} is no item of run {one['run']} by seed {one['seed']}. "
            "Give the file as the page saved it."
        ) from error


def _score(table: pd.DataFrame, row: int, scale: Scale) -> float:
    rating = table["rating"].iloc[row]
    if rating not in scale.scores:
        raise RatingsError(f"{_at(table, row)}: the rating {rating!r} is none of {', '.join(scale.scores)}.")
    return scale.scores[rating]


def _seconds(table: pd.DataFrame, row: int) -> float:
    try:
        return float(table["seconds"].iloc[row])
    except ValueError as error:
        raise RatingsError(f"{_at(table, row)}: {table['seconds'].iloc[row]!r} is no number of seconds.") from error


def _once(table: pd.DataFrame, rated: pd.DataFrame) -> None:
    again = rated.duplicated(["rater", *ITEM])
    if again.any():
        row = int(np.flatnonzero(again)[0])
        raise RatingsError(
            f"{_at(table, row)}: {table['rater'].iloc[row]} rates the item a second time. "
            "Give each file once, and raters names of their own."
        )
