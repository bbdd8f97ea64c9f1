"""The tables of a layer's details."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd
from torch import Tensor

from storage.bundles import Arrays
from tasks.dissection.neighbours import Neighbours
from tasks.dissection.ranges import RANGES
from tasks.dissection.streaming import first_largest


def neurons_table(measured: Arrays) -> pd.DataFrame:
    """A row per neuron: moments and histogram of its activations; what is not known is null, or an empty list."""
    num_neurons = len(measured["mean"])
    unknown = {
        "std": np.full(num_neurons, np.nan),
        "edges": np.full((num_neurons, 1), np.nan),
        "counts": np.zeros((num_neurons, 1), np.int64),
    }
    known = unknown | measured
    # Null, not NaN.
    moments = {
        name: pd.array(known[name].astype(np.float32), dtype="Float32")
        for name in ("mean", "std", "minimum", "maximum")
    }
    has_any = ~np.isnan(known["edges"][:, 0])
    lists = {name: _lists(known[name], has_any) for name in ("edges", "counts")}
    return pd.DataFrame({"neuron": np.arange(num_neurons)} | moments | lists)


def _lists(rows: npt.NDArray[np.generic], has_any: npt.NDArray[np.bool_]) -> list[npt.NDArray[np.generic]]:
    return [row if any_of_it else row[:0] for row, any_of_it in zip(rows, has_any, strict=True)]


def image_ranges_table(rows: npt.NDArray[np.int64], activations: npt.NDArray[np.float32]) -> pd.DataFrame:
    """A row per image drawn, `rows` and `activations` `[N, R, k]`: by neuron, range, and falling activation."""
    neurons, ranges, _ = (rows >= 0).nonzero()
    there = rows >= 0
    return pd.DataFrame(
        {
            "neuron": neurons,
            "range": np.array(list(RANGES), dtype=object)[ranges],
            "row": rows[there],
            "activation": activations[there],
        }
    )


def similar_table(found: Neighbours | None) -> pd.DataFrame:
    """A row per neuron and one near it, nearest first; none where neurons were not compared."""
    none = np.empty((0, 0), np.int64)
    others, values = (found.neurons.numpy(), found.values.numpy()) if found else (none, none.astype(np.float64))
    there = others >= 0
    neurons, ranks = there.nonzero()
    return pd.DataFrame({"neuron": neurons, "rank": ranks + 1, "other": others[there], "value": values[there]})


def inputs_table(weight: Tensor, k: int) -> pd.DataFrame:
    """A row per neuron and each of its `k` largest positive and negative weights `[N, M]`, largest first.

    Ranks count from 1 on both sides; a neuron has fewer where it has fewer weights of that sign. Equal ones are in
    the order of the inputs.
    """
    parts = []
    for sign in (1, -1):
        largest, order = (found.numpy() for found in first_largest(sign * weight, k))
        neurons, ranks = (largest > 0).nonzero()
        columns = {"neuron": neurons, "rank": ranks + 1, "input": order[neurons, ranks]}
        parts.append(pd.DataFrame(columns | {"weight": sign * largest[neurons, ranks]}))
    return pd.concat(parts).sort_values("neuron", kind="stable", ignore_index=True)
