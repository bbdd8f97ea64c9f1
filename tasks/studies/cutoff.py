"""The cut-off of interpretable labels (paper A.8): what share of a layer is above it, and how to choose it.

The paper calls a label interpretable above τ = 0.16: the lowest τ above which raters gave .75 or more on average,
where they gave .655 to all and .5257 to the others. It depends on probe set and concepts, and so the permutation null
stands beside it: what neurons with shuffled images reach.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.table import Table

from tasks.dissection.metrics import Flags, mean
from tasks.finished import FinishedRun, StudyError
from tasks.parameters import Tau
from tasks.publish import interpretable
from tasks.ratings import read_ratings
from tasks.show import table_of
from tasks.studies import style
from tasks.studies.outcome import Outcome
from tasks.studies.rated_cutoff import RatedCutoff, rated_cutoff

#: Null quantile beside the τ that is asked for: beaten by chance one time in twenty.
QUANTILE = 0.95
#: Values of τ that the curves have, from the lowest first label to the highest.
STEPS = 201
#: The row of all layers.
ALL = "all"

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class CutoffQuestion:
    """What is asked of the cut-off."""

    #: As in a run (`Tau`); by default the run's.
    tau: str | None = None
    #: CSVs of raters.
    ratings: Sequence[str] = ()
    #: The mean rating above τ that is wanted; by default three quarters of the scale, as in A.8.
    wanted: float | None = None
    resamples: int = 1_000
    seed: int = 0


def cutoff(run: FinishedRun, asked: CutoffQuestion) -> Outcome:
    """The share of interpretable labels by layer, for the τ asked for and as τ varies.

    Raises `StudyError` where the τ is a null quantile and the run has no null, or all neurons are dead;
    `RatingsError` for CSVs that are none of this run.
    """
    cut, first = Tau.of(asked.tau or run.facts["tau"]), run.first_labels
    if first["is_dead"].all():
        raise StudyError(f"All neurons of {run.out.url} are dead: none has a label.")
    if cut.null_quantile is not None and not _has_null(first):
        raise StudyError(
            f"--tau {cut} compares with shuffled images, and the run has none (--null-samples 0). Give a number."
        )
    layers = pd.DataFrame([_row(run, layer, cut, asked) for layer in [*run.layers, ALL]])
    live = first.loc[~first["is_dead"], "similarity"]
    taus = np.linspace(min(0.0, live.min()), live.max(), STEPS)
    curves = pd.concat([curve(labels, layer, taus) for layer, labels in _by_layer(run)], ignore_index=True)
    data, shown, rated = {"layers": layers, "curves": curves}, [_table(layers, cut)], None
    if asked.ratings:
        rated = rated_cutoff(first, read_ratings(asked.ratings, run.out.url), cut, asked.wanted)
        data |= {"rated_neurons": rated.neurons, "rated_cutoffs": rated.cutoffs}
        shown.append(rated.table(asked.resamples, asked.seed))
    question = vars(asked) | {"tau": str(cut), "ratings": len(asked.ratings)}
    return Outcome(shown, data, partial(_draw, run.layers, curves, cut, rated), question)


def curve(labels: pd.DataFrame, layer: str, taus: Floats) -> pd.DataFrame:
    """Share of a layer's neurons, and of its null neurons, that are above each τ: `layer, tau, share, null_share`.

    A dead neuron is above none. `null_share` is a bound: no more are above. Labels of all ranks say how many null
    neurons score less than they do, and the highest that is not above τ gives it; below the lowest label all null
    neurons may be above. NaN where a layer has no null.
    """
    first, known = labels[labels["rank"] == 1], labels[labels["null_quantile"].notna() & ~labels["is_dead"]]
    similarity = np.sort(first.loc[~first["is_dead"], "similarity"].to_numpy())
    above = len(similarity) - np.searchsorted(similarity, taus, side="right")
    known = known.sort_values("similarity", kind="stable")
    below = np.searchsorted(known["similarity"].to_numpy(), taus, side="right")
    lowest = 1.0 if len(known) else np.nan
    bounds = np.concatenate([[lowest], 1 - known["null_quantile"].to_numpy(dtype=np.float64)])
    return pd.DataFrame(
        {"layer": layer, "tau": taus, "share": above / max(1, len(first)), "null_share": bounds[below]}
    )


def _by_layer(run: FinishedRun) -> list[tuple[str, pd.DataFrame]]:
    return [(layer, run.labels[run.labels["layer"] == layer]) for layer in run.layers]


def _row(run: FinishedRun, layer: str, cut: Tau, asked: CutoffQuestion) -> dict[str, Any]:
    """What the table says of a layer, or of all. A null is of one layer: of all there is no τ of it."""
    labels = run.labels if layer == ALL else run.labels[run.labels["layer"] == layer]
    first = labels[labels["rank"] == 1]
    above = mean(_above(first, cut))
    low, high = above.interval(asked.resamples, asked.seed)
    by_null = first[_above(first, Tau(None, QUANTILE))]
    is_one, has_null = layer != ALL, _has_null(first)
    return {
        "layer": layer,
        "neurons": len(first),
        "dead": int(first["is_dead"].sum()),
        "median": float(first.loc[~first["is_dead"], "similarity"].median()),
        "share": above.value(),
        "low": low,
        "high": high,
        "null_share": _null_share(labels, layer, cut) if has_null else np.nan,
        "null_tau": float(by_null["similarity"].min()) if is_one and len(by_null) else np.nan,
        "share_above_null": len(by_null) / len(first) if has_null else np.nan,
    }


def _null_share(labels: pd.DataFrame, layer: str, cut: Tau) -> float:
    """No more of the null neurons are above τ. By similarity, those of all layers have no τ in common."""
    if cut.null_quantile is not None:
        return 1 - cut.null_quantile
    if layer == ALL:
        return np.nan
    return float(curve(labels, layer, np.array([cut.similarity]))["null_share"].iloc[0])


def _above(first: pd.DataFrame, cut: Tau) -> Flags:
    return interpretable(first, cut).astype("boolean").fillna(False).to_numpy(dtype=bool)


def _has_null(first: pd.DataFrame) -> bool:
    return bool(first.loc[~first["is_dead"], "null_quantile"].notna().all())


def _table(layers: pd.DataFrame, cut: Tau) -> Table:
    names = ["layer", "neurons", "dead", "median", "above τ", "95 %", "of null neurons"]
    names += [f"τ of null:{QUANTILE}", f"above null:{QUANTILE}"]
    rows = [
        [
            *(row.layer, f"{row.neurons:,}", f"{row.dead:,}", _number(row.median, ".3f")),
            *(f"{row.share:.1%}", f"{_number(row.low, '.1%')}–{_number(row.high, '.1%')}"),
            *(_number(row.null_share, ".1%"), _number(row.null_tau, ".3f"), _number(row.share_above_null, ".1%")),
        ]
        for row in layers.itertuples()
    ]
    return table_of(f"Interpretable labels, τ = {cut}", names, rows, right=names[1:])


def _number(value: Any, form: str) -> str:
    return "-" if np.isnan(value) else format(value, form)


def _draw(layers: Sequence[str], curves: pd.DataFrame, cut: Tau, rated: RatedCutoff | None) -> Figure:
    figure, axes = style.panels(2 if rated else 1)
    _draw_shares(axes[0], layers, curves)
    if rated:
        rated.draw(axes[1])
        axes[1].set_xlim(axes[0].get_xlim())
    if cut.similarity is not None:
        for one in axes:
            one.axvline(cut.similarity, color=style.GREY, linewidth=0.8, label=f"τ = {cut}")
    # Below: the curves of two panels leave no room.
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    return figure


def _draw_shares(axes: Axes, layers: Sequence[str], curves: pd.DataFrame) -> None:
    for number, layer in enumerate(layers):
        of = curves[curves["layer"] == layer]
        colour = style.line_style(number)
        axes.plot(of["tau"], of["share"], label=style.text(layer), **colour)
        axes.plot(of["tau"], of["null_share"], **colour | {"linestyle": ":", "linewidth": 0.9})
    axes.plot([], [], color=style.GREY, linestyle=":", linewidth=0.9, label="null neurons")
    axes.set(xlabel="cut-off τ", ylabel="share of neurons above τ", ylim=(0, 1.02), title="Interpretable labels")
