"""A table of the paper, made again: a run for each cell that what is given suffices for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from flows.dissect import dissect
from storage.files import Folder
from tasks.evaluation.paper import Cell
from tasks.evaluation.reproduction import Inputs, Measured, measure
from tasks.spec import DissectSpec


def reproduce(cells: Sequence[Cell], inputs: Inputs, out: str) -> Iterator[Measured]:
    """Dissects and evaluates, cell by cell; cells that are one run are one. Raises what a run raises."""
    done: dict[DissectSpec, Folder] = {}
    for cell in cells:
        if missing := inputs.missing(cell):
            yield Measured(cell, None, f"needs {', '.join(missing)}")
            continue
        spec = inputs.spec(cell, out)
        same = spec.model_copy(update={"out": None})
        if same not in done:
            done[same] = dissect(spec)
        yield measure(inputs, cell, done[same])
