"""Label tables: those of a run, and those that other tools of the field write."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from storage.errors import TableError
from storage.files import Folder
from storage.whereabouts import probe_of
from tasks.dissection.errors import UnknownNameError
from tasks.evaluation.columns import column, find, is_table, numbers, read_table, units_of
from tasks.label_tables import DEAD
from tasks.published import LABELS, read_run
from tasks.published import read_table as read_published
from tasks.similarities import KeptSimilarities

#: What columns are called, the first that a table has.
LAYER, LABEL = ("layer",), ("description", "label", "concept")
SIMILARITY, RANK, NULL_QUANTILE = ("similarity", "score"), ("rank",), ("null_quantile",)
#: What a table without a column `layer` is of.
ONLY_LAYER = "(the only one)"


@dataclass(frozen=True)
class LabelTable:
    """Labels of one layer."""

    #: A row per unit and rank, by unit and then best first: `unit` (from 0), `label`, `similarity` and
    #: `null_quantile` (NaN where the table has none), `is_dead` (nothing is said of the unit).
    rows: pd.DataFrame
    layer: str
    #: How many units the layer has, where a run says so.
    num_units: int | None = None
    #: `run.json`, where it is a run's.
    run: dict[str, Any] | None = None
    #: What that run kept of all similarities, if anything.
    kept: KeptSimilarities | None = None

    @property
    def first(self) -> pd.DataFrame:
        """First labels, a row per unit."""
        return self.rows.drop_duplicates("unit")

    @property
    def num_ranks(self) -> int:
        """Most labels that a unit has."""
        return int(self.rows["unit"].value_counts().max())


def read_labels(source: str, layer: str | None = None, first_unit: int = 0, store: str | None = None) -> LabelTable:
    """Labels of a layer, by default the last, of a run's folder or a table (.csv, .parquet).

    A table has a column for the unit (`columns.UNIT`) and one for its label (`LABEL`), and may have `LAYER`,
    `SIMILARITY` and `RANK`. Units are numbered from `first_unit`. Several rows of a unit are its labels: best first
    by rank, else by similarity, else as they stand. `store` is the store of a run, if that was moved. Raises
    `TableError`, `IncompleteError` and `UnknownNameError`.
    """
    if is_table(source):
        if store:
            raise TableError(f"--store says where the store of a run is, and {source} is a table, which has none.")
        return _of_layer(read_table(source), source, layer, first_unit)
    folder = Folder.at(source)
    run = read_run(folder)
    if store:
        probe_of(folder, run, store)  # a wrong one is said even where nothing is read of it
    found = _of_layer(read_published(folder, LABELS), folder.path(LABELS), layer or list(run["layers"])[-1], 0)
    kept = KeptSimilarities.of(folder, run, found.layer, store)
    return LabelTable(found.rows, found.layer, run["layers"][found.layer]["neurons"], run, kept)


def _of_layer(table: pd.DataFrame, origin: str, layer: str | None, first_unit: int) -> LabelTable:
    layers = find(table, LAYER, origin)
    if table.empty:
        raise TableError(f"{origin} has no row.")
    if layers is not None:
        known = list(dict.fromkeys(layers.astype(str)))
        wanted = layer or known[-1]
        if wanted not in known:
            raise UnknownNameError.of("layer", wanted, known, f"{origin} has {', '.join(known)}.")
        table = table[layers.astype(str) == wanted].reset_index(drop=True)
    elif layer:
        raise TableError(f"{origin} has no column layer to find {layer!r} in: it is of one layer. Drop --layer.")
    else:
        wanted = ONLY_LAYER
    return LabelTable(_rows(table, origin, first_unit), wanted)


def _rows(table: pd.DataFrame, origin: str, first_unit: int) -> pd.DataFrame:
    absent = pd.Series(np.nan, index=table.index)
    known: Mapping[str, pd.Series] = {
        name: absent if (found := find(table, names, origin)) is None else numbers(found, origin)
        for name, names in {"similarity": SIMILARITY, "null_quantile": NULL_QUANTILE, "rank": RANK}.items()
    }
    label = column(table, LABEL, origin).fillna("").astype(str).str.strip()
    rows = pd.DataFrame({"unit": units_of(table, origin, first_unit), "label": label, **known})
    if rows["rank"].isna().any() and rows["rank"].notna().any():
        raise TableError(f"{origin} has {rows['rank'].isna().sum()} labels without a rank, of {len(rows)}.")
    rows["is_dead"] = rows["label"].isin(["", DEAD])
    if rows["rank"].notna().any():
        twice = rows.duplicated(["unit", "rank"])
        if twice.any():
            unit, rank = rows.loc[twice, ["unit", "rank"]].iloc[0]
            raise TableError(f"{origin} has two labels of rank {rank:g} for unit {unit + first_unit:g}.")
        rows = rows.sort_values(["unit", "rank"])
    else:
        # Stable, and what has no similarity comes last.
        rows = rows.sort_values("similarity", ascending=False, kind="stable").sort_values("unit", kind="stable")
    return rows.drop(columns="rank").reset_index(drop=True)
