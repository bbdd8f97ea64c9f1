"""How figures look: readable in print, told apart without colours, and the same to the byte each time."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib.style
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tasks.printable import printable

Floats = npt.NDArray[np.float64]

#: Files of a figure, by their endings.
FORMATS = ("svg", "png")
#: Inches of a figure: the width of a page's text, and the height of one row of panels.
WIDTH, HEIGHT = 7.0, 3.2
#: Okabe and Ito's colours, which people of any colour vision tell apart; the yellow, faint on paper, is left out.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
#: For what there is to tell apart beside colour.
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
GREY = "#666666"
#: Of matrices: rises evenly in lightness, in print without colours too.
COLOUR_MAP = "cividis"
_STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same on all machines
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "lines.linewidth": 1.4,
    "lines.markersize": 4,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
    "savefig.dpi": 200,
    "text.parse_math": False,  # a concept may have dollars in it
    "svg.fonttype": "path",
    "svg.hashsalt": "clip-dissect",  # ids are else drawn at random
}
#: What a file would say of when and by which version it was made.
_METADATA: dict[str, dict[str, Any]] = {"svg": {"Date": None, "Creator": None}, "png": {"Software": None}}


@contextmanager
def house() -> Iterator[None]:
    """Figures that are made and written inside have the house style, whatever the user's own matplotlibrc says."""
    with matplotlib.style.context(_STYLE, after_reset=True), warnings.catch_warnings():
        # A concept in a script that the font lacks is drawn as boxes; the data beside the figure has it.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def panels(num_panels: int = 1, *, width: float = WIDTH, height: float = HEIGHT) -> tuple[Figure, list[Axes]]:
    """A figure with panels side by side; without pyplot, which keeps figures and asks for a screen."""
    figure = Figure(figsize=(width, height))
    return figure, list(figure.subplots(1, num_panels, squeeze=False)[0])


def line_style(number: int) -> dict[str, Any]:
    """Colour and dashes of the line of this number: where colours come again, dashes differ."""
    dashes = ("-", "--", ":", "-.")
    return {
        "color": COLOURS[number % len(COLOURS)],
        "linestyle": dashes[number // len(COLOURS) % len(dashes)],
    }


def intervals(axes: Axes, places: Floats, values: Floats, ends: Floats) -> None:
    """Whiskers on bars, from the two `ends` `[n, 2]` of an interval; none where some are not known."""
    if not np.isnan(ends).any():
        lengths = np.abs(ends.T - values)
        axes.errorbar(places, values, lengths, fmt="none", ecolor="black", elinewidth=0.8, capsize=2)


def text(value: object) -> str:
    """A name or label as a figure can have it: without control characters."""
    return printable(str(value))


def drawn(figure: Figure, kind: str) -> bytes:
    """The figure as a file of one of `FORMATS`."""
    data = io.BytesIO()
    figure.savefig(data, format=kind, metadata=_METADATA[kind])
    return data.getvalue()
