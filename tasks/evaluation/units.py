"""The units of a layer that are judged: their labels, what they are known to detect, the rank of what is right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from storage.completion import Rows
from storage.errors import TableError
from tasks.concepts import list_digest, named_list
from tasks.dissection.concepts import ConceptList
from tasks.dissection.errors import ConceptError
from tasks.dissection.metrics import has_right, normal, ranks_in, right_ranks
from tasks.evaluation.labels import LabelTable
from tasks.evaluation.truth import Truth, names_of
from tasks.paths import seen_from
from tasks.similarities import KeptSimilarities

#: Similarities that are read at a time: 128 MiB.
SIMILARITIES_HELD = 1 << 25

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class JudgedUnits:
    """Units whose true concept is known and that the table has, `U` of them, by their number."""

    units: tuple[int, ...]
    #: Labels of each, best first; none of a dead unit.
    labels: tuple[tuple[str, ...], ...]
    #: Names of each one's true concept, any of which is right.
    names: tuple[tuple[str, ...], ...]
    #: `[U]`: similarity of each first label, NaN where the table has none.
    similarity: Floats
    #: `[U]`: whether the unit is dead, and has no label.
    is_dead: Flags
    #: `[U]`: rank of the right concept, from 1; infinite where it is beyond those known.
    ranks: Floats
    #: `[U]`: whether the right concept is known to be none that units could be labelled with.
    is_unlisted: Flags
    #: Ranks that are known of each unit: those of the table, or as many as there are concepts.
    num_ranks: int
    #: Units of the layer whose true concept is not known.
    num_unknown: int
    #: Units with a true concept that the table has not.
    num_absent: int
    #: Whether all similarities were kept, and ranks are among all concepts.
    is_complete: bool

    def __len__(self) -> int:
        return len(self.units)


def judged_units(table: LabelTable, truth: Truth) -> JudgedUnits:
    """The units of `table` that `truth` knows.

    Raises `ConceptError` and `TableError` where the two have not the same units.
    """
    rows = table.rows
    in_table = set(rows["unit"])
    num_units = table.num_units or max(*in_table, len(truth.lines) - 1, 0) + 1
    _same_numbers(table, truth, in_table)
    lines = truth.of(table.layer, num_units)
    known = [unit for unit, line in enumerate(lines) if line and unit in in_table]
    names = [names_of(lines[unit]) for unit in known]
    of_known = rows[rows["unit"].isin(known)]
    labels = dict.fromkeys(known, ()) | of_known[~of_known["is_dead"]].groupby("unit")["label"].agg(tuple).to_dict()
    first = table.first.set_index("unit").loc[known]
    kept = table.kept
    listed = [labels[unit] for unit in known]
    concepts = _concepts(table) if kept is None else kept.concepts
    if kept is None:
        ranks = right_ranks(listed, names) if known else np.empty(0)
    else:
        ranks = _ranks_of_kept(kept, known, names)
        ranks[first["is_dead"].to_numpy()] = np.inf
    return JudgedUnits(
        units=tuple(known),
        labels=tuple(listed),
        names=tuple(names),
        similarity=first["similarity"].to_numpy(dtype=np.float64),
        is_dead=first["is_dead"].to_numpy(dtype=bool),
        ranks=ranks,
        is_unlisted=~has_right(concepts, names) if concepts else np.zeros(len(known), dtype=bool),
        num_ranks=table.num_ranks if kept is None else len(set(kept.concepts)),
        num_unknown=sum(not line for line in lines),
        num_absent=sum(bool(line) and unit not in in_table for unit, line in enumerate(lines)),
        is_complete=kept is not None,
    )


def _same_numbers(table: LabelTable, truth: Truth, in_table: set[int]) -> None:
    """Raises `TableError` where the table has units beyond the lines of a list."""
    if table.num_units or truth.is_open or max(in_table) < len(truth.lines):
        return
    from_1 = min(in_table) == 1 and max(in_table) == len(truth.lines)
    way_out = "Give --first-unit 1 if the table counts from 1." if from_1 else "Are they of the same layer?"
    raise TableError(
        f"The table has unit {max(in_table)}, and --truth {truth.origin} has {len(truth.lines)} lines: units 0 to "
        f"{len(truth.lines) - 1}. {way_out}"
    )


def _concepts(table: LabelTable) -> Sequence[str]:
    """Concepts that labels of a run are chosen from; none where its list is not there any more, or another one."""
    if table.run is None:
        return ()
    spec = table.run["spec"]
    try:
        of = seen_from([Path(table.run.get("folder", ""))], {"concepts": spec["concepts"]})["concepts"]
        found = named_list(of)
    except (ConceptError, OSError):
        return ()
    listed = (found.unique() if spec.get("unique_concepts") else found).concepts
    return listed if table.run.get("concept_list") == list_digest(listed) else ()


def _ranks_of_kept(kept: KeptSimilarities, units: Sequence[int], names: Sequence[Sequence[str]]) -> Floats:
    """Ranks `[U]` of the right concepts among all."""
    columns: dict[str, list[int]] = {}
    for column, concept in enumerate(kept.concepts):
        columns.setdefault(normal(concept), []).append(column)
    right = [[column for name in true for column in columns.get(normal(name), [])] for true in names]
    ranks, once = np.full(len(units), np.inf), ~ConceptList(tuple(kept.concepts)).is_repeated
    step = max(1, SIMILARITIES_HELD // len(kept.concepts))
    of_unit = np.array(units, dtype=np.int64)
    for start in range(0, int(of_unit.max(initial=-1)) + 1, step):
        here = np.flatnonzero((of_unit >= start) & (of_unit < start + step))
        if not len(here):
            continue
        block = kept.rows(Rows(start, int(of_unit[here].max()) + 1))[of_unit[here] - start]  # [n, C]
        is_right = np.zeros(block.shape, dtype=bool)
        for row, unit in enumerate(here):
            is_right[row, right[unit]] = True
        ranks[here] = ranks_in(block[:, once], is_right[:, once])
    return ranks
