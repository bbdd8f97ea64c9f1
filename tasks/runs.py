"""Runs of a store as a table for a terminal."""

from __future__ import annotations

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from storage.layout import Store
from storage.runs import differences, known
from tasks.show import literal

#: Parameters that are shown of every run.
SHOWN = ("target", "probe", "concepts")


def runs_table(store: Store) -> Table:
    """A row per run, the last one below; columns for parameters that differ. Raises `DamagedError`."""
    runs = known(store, [])
    differing = [name for name in differences([run.spec for run in runs]) if name not in SHOWN]
    table = Table(box=SIMPLE_HEAD, title=f"Runs of {literal(store.root.url)}: {len(runs)}", title_justify="left")
    for name in ("when (UTC)", "out", "state", *SHOWN, "images", "neurons", *differing):
        table.add_column(name, overflow="fold", justify="right" if name in ("images", "neurons") else "left")
    for run in runs:
        counts = [f"{run.counts[name]:,}" for name in ("images", "neurons")]
        shown = [told(run.spec.get(name)) for name in SHOWN]
        differs = [told(run.spec.get(name)) for name in differing]
        when = run.when.removesuffix("+00:00").replace("T", " ") or "-"
        cells = (when, run.shown(store), run.state(store), *shown, *counts, *differs)
        table.add_row(*map(literal, cells))
    return table


def told(value: Any) -> str:
    """A parameter's value in a table."""
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "-" if value is None else str(value)
