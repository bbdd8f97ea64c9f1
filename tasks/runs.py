"""Runs of a store as a table for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.table import Table

from storage.layout import Store
from storage.runs import Run, differences, known
from tasks.show import literal

#: Parameters that are shown of every run.
SHOWN = ("target", "probe", "concepts")
WHEN = "when (UTC)"
#: Columns that a narrow terminal goes without, the first first; before them, parameters that differ, the last first.
DROPPED = ("concepts", "neurons", "images", "probe", WHEN)
#: Columns of paths, of which a narrow terminal shows the last part.
PATHS = ("probe", "concepts")
Columns = dict[str, list[str]]


def runs_table(store: Store, width: int | None = None) -> Table:
    """A row per run, the last one below; columns for parameters that differ. Raises `DamagedError`.

    Where `width` is not enough, folders are named from the one that holds them all, paths by their last part, and
    columns left out; the table says so. No folder's name is cut.
    """
    runs = known(store, [])
    differing = [name for name in differences([run.spec for run in runs]) if name not in SHOWN]
    columns, notes = fitted(_columns(store, runs, differing), [*reversed(differing), *DROPPED], width)
    title = f"Runs of {literal(store.root.url)}: {len(runs)}"
    table = Table(box=SIMPLE_HEAD, title=title, title_justify="left", caption_justify="left")
    table.caption = "\n".join(map(literal, notes)) or None
    for name in columns:
        table.add_column(name, overflow="fold", justify="right" if name in ("images", "neurons") else "left")
    for cells in zip(*columns.values(), strict=True):
        table.add_row(*map(literal, cells))
    return table


def _columns(store: Store, runs: list[Run], differing: Iterable[str]) -> Columns:
    whens = [run.when.removesuffix("+00:00").replace("T", " ") or "-" for run in runs]
    columns = {
        WHEN: whens,
        "out": [run.shown(store) for run in runs],
        "state": [str(run.state(store)) for run in runs],
    }
    columns |= {name: [told(run.spec.get(name)) for run in runs] for name in SHOWN}
    columns |= {name: [f"{run.counts[name]:,}" for run in runs] for name in ("images", "neurons")}
    return columns | {name: [told(run.spec.get(name)) for run in runs] for name in differing}


def fitted(columns: Columns, dropped: Iterable[str], width: int | None) -> tuple[Columns, list[str]]:
    """The columns as they fit a width, as far as they can, and what to say of it."""
    notes: list[str] = []
    if width is None or width_of(columns) <= width:
        return columns, notes
    columns = dict(columns)
    columns[WHEN] = [when[:16] for when in columns[WHEN]]  # without the seconds
    for name in PATHS:
        if width_of(columns) > width:
            columns[name] = [last_part(path) for path in columns[name]]
    if width_of(columns) > width and (folder := common_folder(columns["out"])):
        columns["out"] = [out.removeprefix(folder) for out in columns["out"]]
        notes.append(f"Folders (out) are in {folder}")
    left_out = []
    for name in dropped:
        if width_of(columns) <= width:
            break
        del columns[name]
        left_out.append(name)
    if left_out:
        notes.append(f"No room for: {', '.join(left_out)}. To see all: clip-dissect runs STORE | less -S")
    return columns, notes


def width_of(columns: Mapping[str, list[str]]) -> int:
    """How wide a table of these columns is: each has a blank on both sides, and one between it and the next."""
    return 1 + sum(3 + max(map(cell_len, (name, *cells))) for name, cells in columns.items())


def last_part(path: str) -> str:
    """The end of a path, behind a mark that more stands before it."""
    before, slash, name = path.rstrip("/").rpartition("/")
    return f"…/{name}" if slash and len(before) > 1 else path


def common_folder(paths: list[str]) -> str:
    """The longest folder that all of the paths are in, with its slash; empty where there is none."""
    parts = [path.rstrip("/").split("/")[:-1] for path in paths]
    same = []
    for names in zip(*parts, strict=False):
        if len(set(names)) > 1:
            break
        same.append(names[0])
    folder = "/".join(same)
    return f"{folder}/" if folder else ""


def told(value: Any) -> str:
    """A parameter's value in a table."""
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "-" if value is None else str(value)
