"""The figure of absent concepts: how many neurons get their name, and examples with their top images (Figure 4)."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from storage.errors import StorageError
from tasks.page import thumbnails
from tasks.studies import style
from tasks.studies.studied import StudiedRun

#: Top images of an example, and their pixels.
IMAGES, SIDE = 5, 96
#: Inches of a row of examples, and how many are side by side.
STRIP, ACROSS = 1.0, 2

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Example:
    """A neuron that got its name without an image of it."""

    neuron: int
    label: str
    images: Sequence[Pixels]


def example_images(
    run: StudiedRun, neurons: pd.DataFrame, top_images: pd.DataFrame, most: int, seed: int
) -> tuple[list[Example], list[str]]:
    """Some of the neurons whose label is right, drawn at random, with their top images; notes on what cannot be."""
    right = neurons[neurons["rank"] == 1]
    drawn = np.random.default_rng(seed).permutation(len(right))[:most]
    chosen = right.iloc[np.sort(drawn)].drop_duplicates("neuron")
    few = top_images[(top_images["rank"] <= IMAGES) & top_images["neuron"].isin(chosen["neuron"])]
    try:
        pixels = {
            row: np.asarray(Image.open(io.BytesIO(jpeg))) for row, jpeg in thumbnails(run.facts, few["row"], SIDE)
        }
    except StorageError as error:
        return [], [f"The figure shows no images: {error}"]
    rows = few.sort_values(["neuron", "rank"]).drop_duplicates(["neuron", "rank"]).groupby("neuron")["row"].agg(list)
    return [
        Example(int(neuron), label, [pixels[row] for row in rows[neuron]])
        for neuron, label in zip(chosen["neuron"], chosen["label"], strict=True)
    ], []


def draw(counts: pd.DataFrame, examples: Sequence[Example]) -> Figure:
    """Bars of shares by group, and rows of images below."""
    num_strips = -(-len(examples) // ACROSS)
    figure = Figure(figsize=(style.WIDTH, style.HEIGHT + num_strips * STRIP))
    if not num_strips:
        _bars(figure.subplots(), counts)
        return figure
    parts = figure.subfigures(2, 1, height_ratios=(style.HEIGHT, num_strips * STRIP), squeeze=False)
    _bars(parts[0, 0].subplots(), counts)
    grid = parts[1, 0].subplots(num_strips, ACROSS, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, example in zip(grid.flat, examples, strict=False):
        axes.imshow(np.concatenate(example.images, axis=1))
        axes.set_title(f"neuron {example.neuron}: {style.text(example.label)}", fontsize=8)
    return figure


def _bars(axes: Axes, counts: pd.DataFrame) -> None:
    groups = counts["group"].unique().tolist()
    kinds = [
        ("present", "top1", "right, with their images", style.GREY, ""),
        ("absent", "top1", "right, without", style.COLOURS[0], ""),
        ("absent", "within", "within the group, without", style.COLOURS[5], "//"),
    ]
    there = [kind for kind in kinds if (counts["images"] == kind[0]).any()]
    width = 0.8 / len(there)
    for number, (images, column, label, colour, hatch) in enumerate(there):
        of = counts[counts["images"] == images]
        places = np.array([groups.index(group) for group in of["group"]]) + (number - (len(there) - 1) / 2) * width
        value = of[column].to_numpy(dtype=np.float64)
        ends = of[[f"{column}_low", f"{column}_high"]].to_numpy(dtype=np.float64)
        axes.bar(places, value, 0.9 * width, color=colour, hatch=hatch, edgecolor="white", label=label)
        if not np.isnan(ends).any():
            axes.errorbar(
                places, value, np.abs(ends.T - value), fmt="none", ecolor="black", elinewidth=0.8, capsize=2
            )
    axes.set_xticks(range(len(groups)), [style.text(group) for group in groups])
    axes.set(ylim=(0, 1.2), ylabel="share of neurons", title="Neurons of concepts that the probe set lacks")
    axes.legend(loc="upper right", ncols=3)
