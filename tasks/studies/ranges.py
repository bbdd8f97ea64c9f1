"""A wider range of activations than the top images (paper A.7): images drawn from the most active 0.1, 1 and 5 %.

Labels tend to fit the top images; how far down they hold differs, and is seen in images drawn from a range at random.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image
from rich.table import Table

from tasks.dissection.ranges import NUM_DRAWN, RANGES
from tasks.finished import FinishedRun, StudyError
from tasks.page import thumbnails
from tasks.published import IMAGE_RANGES, NEURONS, has_details, read_table
from tasks.show import table_of
from tasks.studies import style
from tasks.studies.outcome import Outcome

#: Pixels of an image, and white ones between two.
SIDE, GAP = 96, 6
#: Inches of a row of the figure, and of its head.
ROW, HEAD = 0.5, 0.35
#: Characters of a line of a label beside its images, of two lines.
LABEL = 22

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class RangesQuestion:
    """Whose ranges are shown."""

    #: Layers of the run; by default its last.
    layers: Sequence[str] = ()
    #: Neurons of these layers; by default the most interpretable of each, by the similarity of their first labels.
    neurons: Sequence[int] = ()
    #: How many these are.
    count: int = 4


def ranges(run: FinishedRun, asked: RangesQuestion) -> Outcome:
    """Images of three ranges of some neurons, as the run has drawn them.

    Raises `StudyError` for a run without details, `UnknownNameError` for a layer that it has not.
    """
    if not has_details(run.facts):
        raise StudyError(
            f"The run in {run.out.url} has no details, and so no images of ranges. Run again with its spec and "
            "--details auto: nothing is recorded or labelled anew."
        )
    layers = [run.layer(name) for name in asked.layers] or [run.layer(None)]
    chosen = pd.concat([_chosen(run, layer, asked) for layer in layers], ignore_index=True)
    drawn = chosen.merge(read_table(run.out, IMAGE_RANGES), on=["layer", "neuron"])
    share = _with_share_of_maximum(run, drawn)
    images = dict(thumbnails(run.probe.folder, drawn["row"], SIDE))
    question = vars(asked) | {"layers": list(asked.layers), "neurons": list(asked.neurons)}
    return Outcome([_table(chosen, share)], {"ranges": share}, partial(_draw, chosen, share, images), question)


def _chosen(run: FinishedRun, layer: str, asked: RangesQuestion) -> pd.DataFrame:
    """The neurons of a layer that are shown: `layer, neuron, concept, similarity`."""
    first = run.first_labels
    first = first[first["layer"] == layer].set_index("neuron", drop=False).rename_axis(None)
    if asked.neurons:
        absent = [neuron for neuron in asked.neurons if neuron not in first.index]
        if absent:
            raise StudyError(f"Layer {layer} has {len(first):,} neurons, from 0, and none {absent[0]}.")
        some = first.loc[list(asked.neurons)]
    else:
        live = first[~first["is_dead"]]
        some = live.sort_values(["similarity", "neuron"], ascending=[False, True]).head(asked.count)
    return some[["layer", "neuron", "concept", "similarity"]].reset_index(drop=True)


def _with_share_of_maximum(run: FinishedRun, drawn: pd.DataFrame) -> pd.DataFrame:
    """Beside each activation, where it lies between the neuron's smallest (0) and its largest (1)."""
    of = drawn.merge(read_table(run.out, NEURONS)[["layer", "neuron", "minimum", "maximum"]], on=["layer", "neuron"])
    low, high = (of[name].to_numpy(dtype=np.float64) for name in ("minimum", "maximum"))
    width = np.where(high > low, high - low, np.nan)
    return drawn.assign(height=(of["activation"].to_numpy(dtype=np.float64) - low) / width)


def _table(chosen: pd.DataFrame, drawn: pd.DataFrame) -> Table:
    heights = drawn.groupby(["layer", "neuron", "range"])["height"].mean()
    rows = [
        [
            *(row.layer, row.neuron, row.concept, f"{row.similarity:.3f}"),
            *(_number(heights.get((row.layer, row.neuron, name), np.nan)) for name in RANGES),
        ]
        for row in chosen.itertuples()
    ]
    names = ["layer", "neuron", "label", "similarity", *(f"top {name}" for name in RANGES)]
    title = "Mean activation of the images drawn, 0 being a neuron's smallest and 1 its largest"
    return table_of(title, names, rows, right=("neuron", *names[3:]))


def _number(value: Any) -> str:
    return "-" if np.isnan(value) else f"{value:.2f}"


def _draw(chosen: pd.DataFrame, drawn: pd.DataFrame, images: Mapping[int, bytes]) -> Figure:
    figure = Figure(figsize=(style.WIDTH, HEAD + ROW * max(1, len(chosen))))
    axes = figure.subplots(max(1, len(chosen)), len(RANGES), squeeze=False)
    pixels = {row: np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB")) for row, jpeg in images.items()}
    for places, one in zip(axes, chosen.to_dict("records"), strict=False):
        of = drawn[(drawn["layer"] == one["layer"]) & (drawn["neuron"] == one["neuron"])]
        for place, name in zip(places, RANGES, strict=True):
            place.imshow(_strip([pixels[row] for row in of.loc[of["range"] == name, "row"]]))
        many = chosen["layer"].nunique() > 1
        name = f"{one['layer']} {one['neuron']}" if many else str(one["neuron"])
        label = textwrap.fill(style.text(one["concept"]), LABEL, max_lines=2, placeholder=" …")
        places[0].set_ylabel(f"{style.text(name)}\n{label}", rotation=0, ha="right", va="center")
    for place, name in zip(axes[0], RANGES, strict=True):
        place.set_title(f"top {name}")
    for place in axes.flat:
        place.set(xticks=[], yticks=[])
        place.grid(visible=False)
        place.spines[:].set_visible(False)
    return figure


def _strip(images: Sequence[Pixels]) -> Pixels:
    """Images side by side, white where a range has fewer than the others."""
    strip = np.full((SIDE, NUM_DRAWN * (SIDE + GAP) - GAP, 3), 255, np.uint8)
    for number, image in enumerate(images[:NUM_DRAWN]):
        strip[:, number * (SIDE + GAP) :][:, :SIDE] = image
    return strip
