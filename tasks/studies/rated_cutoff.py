"""The cut-off of interpretable labels that raters choose (paper A.8): ratings above τ, and at or below it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from rich.table import Table

from tasks.finished import StudyError
from tasks.parameters import Tau
from tasks.publish import interpretable
from tasks.ratings import Ratings, rated
from tasks.show import table_of
from tasks.studies import style

#: Share of the scale that the mean rating above τ is to reach: .75 of yes 1, maybe .5, no 0.
WANTED = 0.75


@dataclass(frozen=True)
class RatedCutoff:
    """What raters say of neurons on the two sides of a cut-off."""

    ratings: Ratings
    cut: Tau
    wanted: float
    #: A row per rated neuron: `layer, neuron, similarity, null_quantile, is_dead, sum, ratings, mean`.
    neurons: pd.DataFrame
    #: A row per τ that sets some neuron apart, rising: `tau, above, mean_above, others, mean_others`; the first is
    #: below all.
    cutoffs: pd.DataFrame

    @property
    def chosen(self) -> float | None:
        """The lowest τ above which the mean rating is `wanted` or more; None where there is none."""
        enough = self.cutoffs[self.cutoffs["mean_above"] >= self.wanted]
        return float(enough["tau"].iloc[0]) if len(enough) else None

    def table(self, resamples: int, seed: int) -> Table:
        """Ratings above and not above the run's τ, and the chosen one."""
        cuts = [(f"τ = {self.cut}", self.cut)]
        if self.chosen is not None:
            cuts.append((f"τ = {self.chosen:.4g}, the lowest with {self.wanted:g} above", Tau(self.chosen, None)))
        rows = [["all", *self._cells(np.ones(len(self.neurons), dtype=bool), resamples, seed), "", "", ""]]
        for name, cut in cuts:
            above = interpretable(self.neurons, cut).to_numpy(dtype=bool)
            sides = [self._cells(side, resamples, seed) for side in (above, ~above)]
            rows.append([name, *sides[0], *sides[1]])
        title = "Ratings of labels above τ and of the others"
        if self.chosen is None:
            title += f"; above no τ is their mean {self.wanted:g}"
        names = ["cut-off", "neurons above", "their mean", "95 %", "others", "their mean", "95 %"]
        return table_of(title, names, rows, right=names[1:])

    def _cells(self, side: np.ndarray[tuple[int], np.dtype[np.bool_]], resamples: int, seed: int) -> list[str]:
        wanted = pd.MultiIndex.from_frame(self.neurons.loc[side, ["layer", "neuron"]])
        table = self.ratings.table[~self.ratings.table["is_control"]]
        of = rated(table[pd.MultiIndex.from_frame(table[["layer", "neuron"]]).isin(wanted)], resamples, seed)
        if not of.num_neurons:
            return ["0", "-", "-"]
        return [f"{of.num_neurons:,}", f"{of.mean:.3f}", f"{of.low:.3f}–{of.high:.3f}"]

    def draw(self, axes: Axes) -> None:
        """Mean rating above τ, and of the others, as τ varies."""
        taus = self.cutoffs["tau"]
        axes.step(taus, self.cutoffs["mean_above"], where="post", color=style.COLOURS[0], label="above τ")
        axes.step(
            taus, self.cutoffs["mean_others"], where="post", color=style.COLOURS[1], linestyle="--", label="others"
        )
        axes.axhline(self.wanted, color=style.GREY, linewidth=0.8, linestyle=":")
        if self.chosen is not None:
            axes.plot([self.chosen], [self._mean_at(self.chosen)], "o", color=style.COLOURS[0])
            axes.annotate(
                f"{self.chosen:.3g}",
                (self.chosen, self._mean_at(self.chosen)),
                xytext=(4, -10),
                textcoords="offset points",
            )
        axes.set(xlabel="cut-off τ", ylabel="mean rating", title=f"Ratings of {len(self.neurons):,} labels")
        axes.legend(loc="lower right")

    def _mean_at(self, tau: float) -> float:
        return float(self.cutoffs.loc[self.cutoffs["tau"] == tau, "mean_above"].iloc[0])


def rated_cutoff(first: pd.DataFrame, ratings: Ratings, cut: Tau, wanted: float | None) -> RatedCutoff:
    """Joins ratings with the first labels that they are of; controls, which show other labels, are left out.

    Raises `StudyError` where only controls are rated.
    """
    table = ratings.table[~ratings.table["is_control"]]
    if table.empty:
        raise StudyError("The ratings are of controls alone, which show other neurons' labels: they choose no τ.")
    given = table.groupby(["layer", "neuron"], as_index=False)["score"].agg(["sum", "count"])
    given = given.rename(columns={"count": "ratings"}).assign(mean=given["sum"] / given["count"])
    columns = ["layer", "neuron", "concept", "similarity", "null_quantile", "is_dead"]
    neurons = first[columns].merge(given, on=["layer", "neuron"], how="inner")
    lowest, highest = min(ratings.scale.scores.values()), max(ratings.scale.scores.values())
    goal = lowest + WANTED * (highest - lowest) if wanted is None else wanted
    return RatedCutoff(ratings, cut, goal, neurons, cutoffs_of(neurons))


def cutoffs_of(neurons: pd.DataFrame) -> pd.DataFrame:
    """Means over the ratings of neurons above each τ, and of the others (`RatedCutoff.cutoffs`)."""
    ordered = neurons.sort_values("similarity", kind="stable")
    similarity = ordered["similarity"].to_numpy(dtype=np.float64)
    totals = ordered[["sum", "ratings"]].to_numpy(dtype=np.float64)
    below = np.concatenate([np.zeros((1, 2)), np.cumsum(totals, axis=0)])  # of the first 0, 1, … neurons
    ends = np.flatnonzero(np.append(similarity[1:] > similarity[:-1], True)) + 1  # neurons at or below each τ
    cuts = np.concatenate([[0], ends[:-1]])  # above the highest there is none
    # Below all: as far below the lowest as it takes to be another number.
    taus = np.concatenate([[np.nextafter(similarity[0], -np.inf)], similarity[ends[:-1] - 1]])
    above = below[-1] - below[cuts]
    with np.errstate(invalid="ignore"):  # there are no others below all
        others = below[cuts, 0] / below[cuts, 1]
    return pd.DataFrame(
        {
            "tau": taus,
            "above": len(ordered) - cuts,
            "mean_above": above[:, 0] / above[:, 1],
            "others": cuts,
            "mean_others": others,
        }
    )
