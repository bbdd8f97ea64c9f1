"""Do neurons that are connected by a high weight represent similar concepts (paper section 5, Figure 5)?

Of ResNet-50's final layer the paper correlates all 2,048,000 weights with the cosine of class name and the label of
the neuron of layer4: r = .120, and .258 of the 50,000 highest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter
from rich.table import Table

from tasks.dissection.bootstrap import Counts, Floats, Statistic
from tasks.finished import FinishedRun, StudyError
from tasks.show import table_of
from tasks.studies import style
from tasks.studies.outcome import Outcome
from tasks.studies.wiring import Wiring, first_labels, spaces, text_similarities, wiring_of

#: Share of the weights that the paper looks at as the highest.
TOP_SHARE = 50_000 / 2_048_000
#: Fewest weights that are correlated, and how many numbers of them, from the highest few to all, are looked at.
LEAST, STEPS = 10, 40
#: Times that labels are shuffled among input neurons, and the share of them that tells chance.
SHUFFLES, CHANCE = 100, 0.95
#: Groups of weights, as many in each, that the figure averages; rows of the table of highest weights.
BINS, HIGHEST = 20, 1_000
#: Highest weights that are shown.
SHOWN = 10

Matrix = npt.NDArray[np.float32]


@dataclass(frozen=True)
class WeightsQuestion:
    """What is asked of the weights."""

    #: A linear layer; by default the last.
    layer: str | None = None
    #: The run's network, typed where it is code.
    target: str | None = None
    #: Names of the layer's neurons; by default the truth of the run, and where it has none their labels.
    truth: str | None = None
    sentence_model: str | None = None
    #: Highest weights that are correlated alone; by default the share of the paper.
    top_k: int | None = None
    resamples: int = 1_000
    seed: int = 0


def weights(run: FinishedRun, asked: WeightsQuestion) -> Outcome:
    """How far the weights of a linear layer go with the similarity of the concepts at their ends.

    Raises `StudyError` where there are no such weights or names, and what `wiring_of` raises.
    """
    wiring = wiring_of(run, run.layer(asked.layer), asked.target, asked.truth, "weights")
    if not any(wiring.outputs):
        labels = first_labels(run, wiring.layer)
        wiring = replace(wiring, outputs=tuple(() if label is None else (label,) for label in labels))
    similar = {
        name: text_similarities(wiring.outputs, wiring.inputs, encode)
        for name, encode in spaces(run, asked.sentence_model).items()
    }
    num_weights = int(np.isfinite(similar["CLIP"]).sum())
    if num_weights < LEAST:
        raise StudyError(
            f"{wiring.layer} has {num_weights} weights between neurons that have a concept each, and a correlation "
            f"needs {LEAST} at least."
        )
    top_k = min(num_weights, max(LEAST, asked.top_k or round(TOP_SHARE * num_weights)))
    summary = pd.DataFrame(
        [
            _summary(name, wiring.weight, similarity, k, asked)
            for name, similarity in similar.items()
            for k in dict.fromkeys((num_weights, top_k))
        ]
    )
    curves = pd.concat([curve(wiring.weight, similarity).assign(space=name) for name, similarity in similar.items()])
    bins = pd.concat([binned(wiring.weight, similarity).assign(space=name) for name, similarity in similar.items()])
    data = {"summary": summary, "curve": curves, "bins": bins, "highest": _highest(wiring, similar)}
    told = vars(replace(asked, layer=wiring.layer, top_k=top_k))
    return Outcome(
        [*_tables(wiring, data)],
        data,
        partial(_draw, curves, bins, list(similar)),
        {**told, "reads": wiring.input_layer},
    )


def ordered(weight: Matrix, similarity: Matrix) -> tuple[Floats, Floats]:
    """Weights, highest first, and the similarity that belongs to each, where there is one."""
    known = np.isfinite(similarity.ravel())
    w, s = (of.ravel()[known].astype(np.float64) for of in (weight, similarity))
    order = np.argsort(-w, kind="stable")
    return w[order], s[order]


def curve(weight: Matrix, similarity: Matrix) -> pd.DataFrame:
    """`k, mean_similarity, r` over the `k` highest weights, from a few to all."""
    w, s = ordered(weight, similarity)
    ks = np.unique(np.geomspace(min(LEAST, len(w)), len(w), STEPS).round().astype(np.int64))
    # Centred first: sums of products then lose no digits.
    x, y = w - w.mean(), s - s.mean()
    n, sx, sy, xx, yy, xy = (sums[ks - 1] for sums in map(np.cumsum, (np.ones_like(x), x, y, x * x, y * y, x * y)))
    spread = (xx - sx * sx / n) * (yy - sy * sy / n)
    r = np.divide(xy - sx * sy / n, np.sqrt(np.maximum(spread, 0)), out=np.full(len(ks), np.nan), where=spread > 0)
    return pd.DataFrame({"k": ks, "mean_similarity": np.cumsum(s)[ks - 1] / ks, "r": r})


def binned(weight: Matrix, similarity: Matrix) -> pd.DataFrame:
    """`weight, similarity`: means of weights in groups as large as each other, lowest first."""
    w, s = ordered(weight, similarity)
    groups = [group for group in np.array_split(np.arange(len(w))[::-1], BINS) if len(group)]
    return pd.DataFrame(
        {"weight": [w[group].mean() for group in groups], "similarity": [s[group].mean() for group in groups]}
    )


def correlation(weight: Matrix, similarity: Matrix, k: int) -> Statistic:
    """Pearson's correlation of the `k` highest weights with the similarities, a figure of the `N` output neurons.

    Weights of one neuron belong together: they are drawn anew together.
    """
    flat = np.where(np.isfinite(similarity), weight, -np.inf).ravel()
    is_high = np.zeros(len(flat), dtype=bool)
    is_high[np.argsort(-flat, kind="stable")[:k]] = True
    chosen = is_high.reshape(weight.shape)
    x, y = (np.where(chosen, of, 0).astype(np.float64) for of in (weight, similarity))
    x, y = (np.where(chosen, of - of.sum() / chosen.sum(), 0) for of in (x, y))
    sums = np.stack([chosen.sum(1), x.sum(1), y.sum(1), (x * x).sum(1), (y * y).sum(1), (x * y).sum(1)], 1)  # [N, 6]

    def of_counts(counts: Counts) -> Floats:
        n, sx, sy, xx, yy, xy = np.maximum(counts @ sums, [1, -np.inf, -np.inf, 0, 0, -np.inf]).T
        spread = (xx - sx * sx / n) * (yy - sy * sy / n)
        found: Floats = np.divide(
            xy - sx * sy / n, np.sqrt(np.maximum(spread, 0)), out=np.full(len(counts), np.nan), where=spread > 0
        )
        return found

    return Statistic(len(weight), of_counts)


def _summary(space: str, weight: Matrix, similarity: Matrix, k: int, asked: WeightsQuestion) -> dict[str, Any]:
    found = correlation(weight, similarity, k)
    low, high = found.interval(asked.resamples, asked.seed)
    random = np.random.default_rng(asked.seed)
    labelled = np.flatnonzero(np.isfinite(similarity).any(axis=0))
    by_chance = np.empty(SHUFFLES)
    for i in range(SHUFFLES):
        shuffled = similarity.copy()
        shuffled[:, labelled] = similarity[:, random.permutation(labelled)]
        by_chance[i] = correlation(weight, shuffled, k).value()
    _, s = ordered(weight, similarity)
    return {
        "space": space,
        "weights": k,
        "r": found.value(),
        "low": low,
        "high": high,
        "by_chance": float(np.nanquantile(by_chance, CHANCE)) if not np.isnan(by_chance).all() else np.nan,
        "mean_similarity": s[:k].mean(),
    }


def _highest(wiring: Wiring, similar: dict[str, Matrix]) -> pd.DataFrame:
    """The highest weights with the concepts at both ends and their similarity in each space."""
    known = np.isfinite(similar["CLIP"]).ravel()
    flat = np.where(known, wiring.weight.ravel(), -np.inf)
    first = np.argsort(-flat, kind="stable")[: min(HIGHEST, int(known.sum()))]
    outputs, inputs = np.unravel_index(first, wiring.weight.shape)
    return pd.DataFrame(
        {
            "rank": np.arange(1, len(first) + 1),
            "output": outputs,
            "concept": [" | ".join(wiring.outputs[i]) for i in outputs],
            "input": inputs,
            "label": [wiring.inputs[i] for i in inputs],
            "weight": flat[first],
            **{f"{name}_cosine": similarity.ravel()[first] for name, similarity in similar.items()},
        }
    )


def _tables(wiring: Wiring, data: dict[str, pd.DataFrame]) -> Sequence[Table]:
    names = ["space", "weights", "r", "95 %", f"{CHANCE:.0%} of shuffled labels", "mean cosine"]
    rows = [
        [
            *(row.space, f"{row.weights:,}", f"{row.r:.3f}", f"{row.low:.3f} – {row.high:.3f}"),
            *(f"below {row.by_chance:.3f}", f"{row.mean_similarity:.3f}"),
        ]
        for row in data["summary"].itertuples()
    ]
    title = f"Weights of {wiring.layer} from {wiring.input_layer}, and the cosine of the concepts at their ends"
    highest = [
        [f"{row.weight:.3f}", f"{row.concept} ({row.output})", f"{row.label} ({row.input})", f"{row.CLIP_cosine:.3f}"]
        for row in data["highest"].head(SHOWN).itertuples()
    ]
    ends = ["weight", wiring.layer, wiring.input_layer, "CLIP cosine"]
    return [
        table_of(title, names, rows, right=names[1:]),
        table_of("Highest weights", ends, highest, right=["weight", "CLIP cosine"]),
    ]


def _draw(curves: pd.DataFrame, bins: pd.DataFrame, names: Sequence[str]) -> Figure:
    figure, (left, right) = style.panels(2)
    for number, name in enumerate(names):
        of, groups = curves[curves["space"] == name], bins[bins["space"] == name]
        line = style.line_style(number)
        left.plot(of["k"], of["mean_similarity"], label=name, **line)
        right.plot(groups["weight"], groups["similarity"], marker=style.MARKERS[number], label=name, **line)
    left.set(xscale="log", xlabel="k highest weights", ylabel="mean cosine of concepts", title="Highest weights")
    right.set(xlabel="weight", ylabel="mean cosine of concepts", title=f"All weights, in {BINS} groups")
    left.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    left.legend(loc="best")
    return figure
