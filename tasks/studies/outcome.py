"""What a study found, and its folder: figure as SVG and PNG, the data beside it as CSV and Parquet, `study.json`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pandas as pd
from rich.table import Table

from storage.files import Folder
from storage.tables import write_csv, write_parquet
from tasks.finished import FinishedRun
from tasks.studies import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Folder of a run in which its studies lie, each in one of its own.
STUDIES = "studies"
#: What a study was asked, and of which run.
STUDY = "study.json"


@dataclass(frozen=True)
class Outcome:
    """What a study found."""

    #: Tables and lines for a terminal, in order; lines are markup of rich.
    shown: Sequence[Table | str]
    #: All numbers that are shown or drawn, by the name of their files.
    data: Mapping[str, pd.DataFrame]
    #: Draws the figure; it is called in the house style (`style.house`).
    draw: Callable[[], Figure]
    #: What was asked, for whoever finds the folder: plain values by name.
    asked: Mapping[str, Any] = field(default_factory=dict)


def write(run: FinishedRun, name: str, found: Outcome, out: str | None = None) -> list[str]:
    """Writes what a study found to `out`, by default RUN/studies/NAME; returns the URLs of figure and CSVs."""
    folder = Folder.at(out) if out else run.out / STUDIES / name
    with style.house():
        figure = found.draw()
        for kind in style.FORMATS:
            folder.write(f"{name}.{kind}", style.drawn(figure, kind))
    for table, rows in found.data.items():
        write_parquet(folder, f"{table}.parquet", rows)
        write_csv(folder, f"{table}.csv", rows)
    folder.write_json(STUDY, {"study": name, "run": run.facts["digest"], "asked": dict(found.asked)})
    return [folder.path(f"{file}") for file in (f"{name}.svg", *(f"{table}.csv" for table in found.data))]
