"""Rows of a neuron's top images in a figure, as the paper shows neurons."""

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
from tasks.finished import FinishedRun
from tasks.page import thumbnails
from tasks.studies import style

#: Images of a strip, and their pixels.
IMAGES, SIDE = 5, 96
#: Inches of a strip, and how many are side by side.
STRIP, ACROSS = 1.0, 2

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Strip:
    """A neuron's top images under what is said of it."""

    title: str
    images: Sequence[Pixels]


def strips(run: FinishedRun, titles: dict[int, str], top_images: pd.DataFrame) -> tuple[list[Strip], list[str]]:
    """Strips of neurons by their titles, `top_images` being `neuron, rank, row`; none, and a note, without images."""
    few = top_images[(top_images["rank"] <= IMAGES) & top_images["neuron"].isin(list(titles))]
    try:
        jpegs = thumbnails(run.probe.folder, few["row"], SIDE)
        pixels = {row: np.asarray(Image.open(io.BytesIO(jpeg))) for row, jpeg in jpegs}
    except StorageError as error:
        return [], [f"The figure shows no images: {error}"]
    rows = few.sort_values(["neuron", "rank"]).groupby("neuron")["row"].agg(list)
    return [Strip(title, [pixels[row] for row in rows[neuron]]) for neuron, title in titles.items()], []


def with_strips(shown: Sequence[Strip], height: float = style.HEIGHT) -> tuple[Figure, Axes]:
    """A figure with strips below one panel of this height, which is to be drawn."""
    num_rows = -(-len(shown) // ACROSS)
    figure = Figure(figsize=(style.WIDTH, height + num_rows * STRIP))
    if not num_rows:
        return figure, figure.subplots()
    parts = figure.subfigures(2, 1, height_ratios=(height, num_rows * STRIP), squeeze=False)
    grid = parts[1, 0].subplots(num_rows, ACROSS, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, strip in zip(grid.flat, shown, strict=False):
        axes.imshow(np.concatenate(strip.images, axis=1))
        axes.set_title(style.text(strip.title), fontsize=8)
    panel: Axes = parts[0, 0].subplots()
    return figure, panel
