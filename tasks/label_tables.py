"""The tables of a labelled layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

if TYPE_CHECKING:  # torch takes seconds to import, and commands that read tables do without it
    from tasks.dissection.labels import Labels
    from tasks.dissection.streaming import Statistics, TopImages

#: Stands in the tables where a neuron has no label: its activation is the same on every image.
DEAD = "(dead)"
#: Activations that differ by no more than this share of the largest one are the same but for rounding.
SAME = 1e-6

Floats = npt.NDArray[np.float64]


def of_live_neurons(labels: pd.DataFrame) -> pd.DataFrame:
    """Rows of a label table that are labels: what stands in the place of a dead neuron's is none."""
    return labels[~labels["is_dead"].eq(True).fillna(False).astype(bool)]


def num_distinct(labels: pd.DataFrame) -> int:
    """How many different first labels there are."""
    live = of_live_neurons(labels)
    return int(live.loc[live["rank"] == 1, "concept"].nunique())


def neurons_table(statistics: Statistics, top: TopImages, num_images: int) -> pd.DataFrame:
    """A row per neuron: its activations in a few numbers, and whether it can be labelled by them.

    A neuron is dead where it has one activation for all images. It is nearly constant where it has, but for rounding,
    one activation for all images but fewer than its top images: the others among them are no better than any.
    """
    largest = statistics.minimum.abs().maximum(statistics.maximum.abs())
    floor = statistics.minimum + SAME * largest
    stand_out = (top.values > floor).sum(0)
    nearly = ~statistics.is_dead & (stand_out < min(top.num_images, num_images - 1))
    return pd.DataFrame(
        {
            "neuron": np.arange(len(stand_out)),
            "minimum": statistics.minimum.numpy(),
            "maximum": statistics.maximum.numpy(),
            "mean": statistics.mean.numpy(),
            "images_ignored": (num_images - statistics.count).numpy(),
            "is_dead": statistics.is_dead.numpy(),
            "is_nearly_constant": nearly.numpy(),
        }
    )


def top_images_table(top: TopImages) -> pd.DataFrame:
    """A row per neuron and rank: the row of the image in the probe set, and its activation."""
    num_images, num_neurons = top.rows.shape
    return pd.DataFrame(
        {
            "neuron": np.repeat(np.arange(num_neurons, dtype=np.int32), num_images),
            "rank": np.tile(np.arange(1, num_images + 1, dtype=np.int32), num_neurons),
            "row": top.rows.T.numpy().ravel(),
            "activation": top.values.T.numpy().ravel(),
        }
    )


def label_table(
    layer: str,
    labels: Labels,
    null_quantile: Floats,
    neurons: pd.DataFrame,
    concepts: tuple[str, ...],
    num_ranks: int,
) -> pd.DataFrame:
    """A row per neuron and rank, best first; a dead neuron has one row, with no concept and zeros.

    `labels` has a rank more than `num_ranks`, if there are so many concepts, for the margins. `null_quantile` is of
    the same shape.
    """
    num_neurons, found = labels.concept_rows.shape
    absent = np.full((num_neurons, found), np.nan)
    next_best = np.concatenate([labels.similarity[:, 1:], absent[:, :1]], axis=1)
    has_next = np.isfinite(next_best)
    columns = {
        "similarity": labels.similarity,
        "margin": np.subtract(labels.similarity, next_best, where=has_next, out=absent.copy()),
        "null_quantile": null_quantile,
        "log_likelihood": absent if labels.log_likelihood is None else labels.log_likelihood,
        "log_prior": absent if labels.log_prior is None else labels.log_prior,
    }
    ranks = min(num_ranks, found)

    def of_each(column: str) -> npt.NDArray[np.bool_]:
        return np.repeat(neurons[column].to_numpy(), ranks)

    table = pd.DataFrame(
        {
            "layer": layer,
            "neuron": np.repeat(np.arange(num_neurons), ranks),
            "rank": np.tile(np.arange(1, ranks + 1), num_neurons),
            "concept": np.asarray(concepts, dtype=object)[labels.concept_rows[:, :ranks].ravel()],
        }
        # Null, not NaN, where there is no such number.
        | {name: pd.array(values[:, :ranks].ravel(), dtype="Float64") for name, values in columns.items()}
        | {name: of_each(name) for name in ("is_dead", "is_nearly_constant", "images_ignored")}
    )
    table["similarity"] = table["similarity"].astype("float64")
    # A concept without a similarity, which reference rank reorder has for some, is no label.
    table = table[(table["rank"] == 1) | (~table["is_dead"] & (table["similarity"] > -np.inf))].reset_index(drop=True)
    dead = table["is_dead"]
    table.loc[dead, "concept"] = DEAD
    table.loc[dead, ["similarity", "margin", "null_quantile", "log_likelihood", "log_prior"]] = 0.0
    return table
