"""All similarities of a layer, neurons by concepts, for those who ask for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd
import zarr
from torch import Tensor

from storage import arrays
from storage.completion import Rows
from storage.errors import IncompleteError
from storage.files import Folder, Written
from storage.layer_arrays import array_name
from storage.tables import read_parquet, write_parquet
from storage.whereabouts import SIMILARITIES, probe_of, store_root
from tasks import labelling
from tasks.concepts import concept_list
from tasks.labelling import Block, LabelPlan


def write(plan: LabelPlan, layer: str, block: Block, similarities: Tensor) -> None:
    """Writes those of a block `[n, c]` into the layer's array, which is made if it is not there."""
    group = _group(plan)
    name = array_name(group, layer)
    arrays.create_blocks(
        group,
        name,
        (plan.activations.num_neurons[layer], plan.num_concepts),
        plan.block_shape(layer),
        (labelling.NEURONS_UNIT, labelling.CONCEPTS_UNIT),
        (f"neuron of {layer}", "concept"),
        {"layer": layer, "similarity": plan.spec.similarity, "variant": plan.spec.variant},
    )
    arrays.write_region(group, name, (block.neurons, block.concepts), similarities.numpy())


def finish(plan: LabelPlan, layer: str) -> list[Written]:
    """Names the concepts when all blocks of a layer are written; gives all files, none where they are not kept."""
    if not plan.spec.keep_similarities:
        return []
    group = _group(plan)
    table = pd.DataFrame({"concept": concept_list(plan.spec).concepts})  # the columns of the arrays, in order
    concepts = write_parquet(plan.store.kept, f"{plan.digest}.parquet", table)
    name = array_name(group, layer)
    return [concepts, *arrays.metadata(group, name), *arrays.shards(group, name)]


def _group(plan: LabelPlan) -> zarr.Group:
    return arrays.open_group(plan.store.similarities(plan.digest), {"labels": plan.digest})


@dataclass(frozen=True)
class KeptSimilarities:
    """What a finished run kept of a layer."""

    group: zarr.Group
    layer: str
    #: Columns of the array, `[C]`.
    concepts: list[str]

    @classmethod
    def of(cls, out: Folder, run: dict[str, Any], layer: str, store: str | None = None) -> KeptSimilarities | None:
        """Those of the run in `out` by its `run.json`; None where it kept none, or they are not there any more.

        `store` is the run's store, if that was moved. Raises `IncompleteError` where it is not, and `IdentityError`
        where others lie in their place.
        """
        found = _kept_by(out, run, store) if run.get(SIMILARITIES) else None
        if found is None:
            return None
        folder, name = found
        table = name.removesuffix(".zarr") + ".parquet"
        if not (folder.exists(name) and folder.exists(table)):
            return None
        group = arrays.open_group(folder.path(name), {"labels": run["digests"]["labels"]})
        return cls(group, layer, read_parquet(folder, table)["concept"].tolist())

    def rows(self, neurons: Rows) -> arrays.Block:
        """Similarities of some neurons with all concepts, `[n, C]`. Raises `ArrayError`."""
        return arrays.read_rows(self.group, array_name(self.group, self.layer), neurons)


def _kept_by(out: Folder, run: dict[str, Any], store: str | None) -> tuple[Folder, str] | None:
    """Folder and name of the group that a run kept; None where its store is not found, unless one is given."""
    try:
        root = store_root(probe_of(out, run, store))
    except IncompleteError:
        if store:
            raise
        return None
    return root / SIMILARITIES, str(run[SIMILARITIES]).rpartition("/")[2]
