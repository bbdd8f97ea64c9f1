"""The figure of absent concepts: how many neurons get their name, and examples with their top images (Figure 4)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tasks.studies import style
from tasks.studies.strips import Strip, with_strips


def examples(neurons: pd.DataFrame, most: int, seed: int) -> dict[int, str]:
    """Titles of some of the neurons whose label is right, drawn at random."""
    right = neurons[neurons["rank"] == 1].drop_duplicates("neuron")
    chosen = right.iloc[np.sort(np.random.default_rng(seed).permutation(len(right))[:most])]
    return {
        int(neuron): f"neuron {neuron}: {label}"
        for neuron, label in zip(chosen["neuron"], chosen["label"], strict=True)
    }


def draw(counts: pd.DataFrame, shown: Sequence[Strip]) -> Figure:
    """Bars of shares by group, and strips of images below."""
    figure, axes = with_strips(shown)
    _bars(axes, counts)
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
        style.intervals(axes, places, value, ends)
    axes.set_xticks(range(len(groups)), [style.text(group) for group in groups])
    axes.set(ylim=(0, 1.2), ylabel="share of neurons", title="Neurons of concepts that the probe set lacks")
    axes.legend(loc="upper right", ncols=3)
