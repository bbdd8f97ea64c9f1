"""Ratings as a table and lines for a terminal."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from tasks.printable import printable
from tasks.ratings import Agreement, Rated, Ratings, rated


def ratings_table(ratings: Ratings, resamples: int, seed: int) -> Table:
    """A row per layer and one of all: the paper's Table 5 or 6, with the controls beside it where there are any."""
    labels, controls = (ratings.table[ratings.table["is_control"] == kind] for kind in (False, True))
    table = Table(box=SIMPLE_HEAD, title=f"Ratings, {' to '.join(_ends(ratings))}", title_justify="left")
    table.add_column("layer", overflow="fold")
    for name in ("neurons", "ratings", "mean", "95 %"):
        table.add_column(name, justify="right")
    for name in ("controls", "their mean", "95 %") if len(controls) else ():
        table.add_column(name, justify="right")
    for layer in [*_layers(ratings.table), None]:
        of = rated(_of(labels, layer), resamples, seed)
        cells = [str(of.num_neurons), str(of.num_ratings), *_figures(of)]
        if len(controls):
            control = rated(_of(controls, layer), resamples, seed)
            cells += [str(control.num_neurons), *_figures(control)]
        table.add_row("all" if layer is None else _text(layer), *cells, end_section=layer is None)
    return table


def ratings_lines(ratings: Ratings, agreed: Agreement) -> Iterator[str]:
    """Who rated how much, and how far they agree."""
    by_rater = ratings.table.groupby("rater")["seconds"].agg(["count", "median"])
    for rater, count, median in by_rater.itertuples():
        yield f"{_text(rater)}: {count:,} ratings, {median:.1f} seconds each (median)"
    if not agreed.num_items:
        yield "No label was rated by two, so nothing is known of agreement."
        return
    low, high = _ends(ratings)
    yield (
        f"Agreement on {agreed.num_items:,} labels that two or more rated: {agreed.equal:.1%} of pairs equal, "
        f"{agreed.opposite:.1%} {low} against {high}, Krippendorff's alpha (ordinal) {_number(agreed.alpha)}"
    )


def _text(value: object) -> str:
    """A name as it is: neither markup nor control characters in it act."""
    return escape(printable(str(value)))


def _layers(table: pd.DataFrame) -> list[str]:
    return [str(layer) for layer in table.sort_values("layer_number")["layer"].unique()]


def _of(table: pd.DataFrame, layer: str | None) -> pd.DataFrame:
    return table if layer is None else table[table["layer"] == layer]


def _ends(ratings: Ratings) -> tuple[str, str]:
    scores = ratings.scale.scores
    return min(scores, key=scores.__getitem__), max(scores, key=scores.__getitem__)


def _figures(of: Rated) -> tuple[str, str]:
    return _number(of.mean), f"{_number(of.low)}–{_number(of.high)}" if of.num_neurons else "-"


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"
