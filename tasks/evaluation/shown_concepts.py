"""Which images show which concept, as far as somebody has said so."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from storage.completion import groups
from storage.errors import TableError
from tasks.dissection.metrics import normal
from tasks.evaluation.columns import column, read_table
from tasks.evaluation.truth import CONCEPT
from tasks.labelling import LabelPlan
from tasks.observation import ActivationsRef
from tasks.shard import ProbeRef

#: What the column of images is called.
IMAGE = ("path", "image", "key")

Numbers = npt.NDArray[np.int64]
#: Rows of images, rising, by the concept that they show (`concept_key`).
RowsByConcept = Mapping[str, Numbers]


def concept_key(text: str) -> str:
    """A label or the name of a folder as they are compared: `Golden_retriever` is `golden retriever`."""
    return " ".join(normal(text).replace("_", " ").split())


@dataclass(frozen=True)
class ShownConcepts:
    """Recorded images that are known to show concepts."""

    activations: ActivationsRef
    num_images: int
    rows: RowsByConcept
    #: Whether these are images of the run's probe set.
    is_probe: bool
    #: Those of the probe set, which are no control for what they show.
    of_probe: RowsByConcept


def of_probe(plan: LabelPlan, image_labels: str | None) -> ShownConcepts:
    """Images of the probe set, by its own labels (the folder of each, or the list's column) or those of a table.

    Raises `TableError` for a table that names none of them.
    """
    rows = _of_table(plan.probe, image_labels) if image_labels else own_labels(plan.probe)
    return ShownConcepts(plan.activations, plan.probe.num_images, rows, True, rows)


def own_labels(probe: ProbeRef) -> RowsByConcept:
    """Rows of a probe set by the labels of its index."""
    tables = (probe.rows(rows)[["label"]].dropna() for rows in groups(probe.num_images))
    return _grouped((table.index.to_numpy(), table["label"].astype(str)) for table in tables)


def _of_table(probe: ProbeRef, url: str) -> RowsByConcept:
    table = read_table(url)
    paths = column(table, IMAGE, url).astype(str)
    concepts = column(table, CONCEPT, url).fillna("").astype(str)
    said = pd.DataFrame({"path": paths, "concept": concepts})
    found = _grouped(_said_of(probe, said))
    if not found:
        first = probe.paths(np.zeros(1, dtype=np.int64))[0]
        raise TableError(
            f"{url} names no image of the probe set (its first: {paths.iloc[0] if len(paths) else 'none'!r}; that of "
            f"the probe set: {first!r}). It takes the `path` of index.parquet."
        )
    return found


def _said_of(probe: ProbeRef, said: pd.DataFrame) -> Iterator[tuple[Numbers, pd.Series]]:
    for rows in groups(probe.num_images):
        index = probe.rows(rows)
        known = said.merge(pd.DataFrame({"path": index["path"], "row": index.index}), on="path")
        yield known["row"].to_numpy(), known["concept"]


def _grouped(parts: Iterator[tuple[Numbers, pd.Series]]) -> RowsByConcept:
    lists: dict[str, list[Numbers]] = {}
    for rows, names in parts:
        for name, some in pd.Series(rows).groupby(names.map(concept_key).to_numpy()):
            if name:
                lists.setdefault(str(name), []).append(some.to_numpy(dtype=np.int64))
    return {name: np.unique(np.concatenate(some)) for name, some in lists.items()}
