"""The same neurons labelled by several similarity functions (paper A.9): where they agree, and which is right.

The paper shows labels by plain cosine beside those of its own functions (Figure 14), and how often each is right
where the truth is known (Table 3).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.table import Table

from storage.errors import EmbeddingsError
from tasks.dissection.errors import UnknownNameError
from tasks.dissection.metrics import accuracy, distinct, mean, normal, right_ranks
from tasks.dissection.similarity import SIMILARITIES
from tasks.finished import FinishedRun, StudyError
from tasks.labelling import WITH_PRIOR, LabelPlan
from tasks.parameters import HYPERPARAMETERS
from tasks.relabel import changed, steps
from tasks.show import table_of
from tasks.studies import style
from tasks.studies.outcome import Outcome

ALL = "all"
#: Labels above this null quantile are told as such.
QUANTILE = 0.95
#: First labels among which the right one is looked for.
TOPS = (1, 5)


@dataclass(frozen=True)
class SimilaritiesQuestion:
    """What is asked of the similarity functions."""

    #: By default all that what was recorded is enough for.
    similarities: Sequence[str] = ()
    #: By default all of the run.
    layers: Sequence[str] = ()
    #: Neurons whose labels are shown, drawn at random from all layers.
    examples: int = 8
    resamples: int = 1_000
    seed: int = 0


def similarities(run: FinishedRun, asked: SimilaritiesQuestion, told: Callable[[str], None]) -> Outcome:
    """Labels by each similarity function, its hyperparameters being the run's for the run's own, else the paper's.

    Labels go into the run's store, so that what was labelled once is not again; `told` is called with what is being
    done. Raises `StudyError`, `UnknownNameError`, `IncompleteError`; `ValidationError` for a function that what was
    recorded is not enough for.
    """
    layers = [run.layer(name) for name in asked.layers] or run.layers
    plan = run.plan_of(layers)
    names, left_out = _names(plan, asked)
    tables = {}
    for name in names:
        try:
            tables[name] = _labels(plan, name, told)
        except EmbeddingsError as error:  # of a variant that these embeddings are nothing for
            if asked.similarities:
                raise
            left_out.append(f"{name} is left out. {error}")
    names = list(tables)
    labels = side_by_side(run, layers, tables)
    agreement = agreements(labels, names, layers, asked)
    functions = pd.DataFrame(
        [
            _function(run, tables[name], name, layer, asked)
            for layer in [*layers, *([ALL] if len(layers) > 1 else [])]
            for name in names
        ]
    )
    data = {"labels": labels, "agreement": agreement, "functions": functions}
    shown: list[Table | str] = [
        *(f"Note: {note}" for note in left_out),
        _agreement_table(agreement, names),
        _functions_table(functions),
        _examples_table(labels, names, asked),
    ]
    question = vars(replace(asked, similarities=names, layers=layers))
    return Outcome(shown, data, partial(_draw, agreement, functions, names), question)


def side_by_side(run: FinishedRun, layers: Sequence[str], tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """A row per layer and neuron: `layer, neuron, is_dead, truth`, and of each function its first label under its
    name, `NAME_similarity` and `NAME_null_quantile`. `truth` is null where it is not known.
    """
    first = {name: table[table["rank"] == 1].reset_index(drop=True) for name, table in tables.items()}
    one = next(iter(first.values()))
    known = {(layer, neuron): " | ".join(true) for layer in layers for neuron, true in run.truth(layer).items()}
    truth = [known.get(key) for key in zip(one["layer"], one["neuron"], strict=True)]
    columns: dict[str, Any] = {"truth": pd.array(truth, dtype="string")}
    for name, table in first.items():
        columns |= {
            name: table["concept"],
            f"{name}_similarity": table["similarity"],
            f"{name}_null_quantile": table["null_quantile"],
        }
    return one[["layer", "neuron", "is_dead"]].assign(**columns)


def agreements(
    labels: pd.DataFrame, names: Sequence[str], layers: Sequence[str], asked: SimilaritiesQuestion
) -> pd.DataFrame:
    """Share of live neurons to which two functions give one first label, by layer and of all.

    `layer, one, other, neurons, share, low, high`, a row per pair of functions.
    """
    rows = []
    for layer in [*layers, ALL]:
        of = labels[~labels["is_dead"] & ((labels["layer"] == layer) | (layer == ALL))]
        for one, other in combinations(names, 2):
            same = mean((of[one].map(normal) == of[other].map(normal)).to_numpy(dtype=bool))
            low, high = same.interval(asked.resamples, asked.seed)
            row = {"layer": layer, "one": one, "other": other, "neurons": len(of), "share": same.value()}
            rows.append(row | {"low": low, "high": high})
    return pd.DataFrame(rows)


def _names(plan: LabelPlan, asked: SimilaritiesQuestion) -> tuple[list[str], list[str]]:
    """The functions to label by, and notes on those that are left out."""
    if asked.similarities:
        names = list(dict.fromkeys(asked.similarities))
        for name in names:
            if name not in SIMILARITIES:
                raise UnknownNameError.of(
                    "similarity function", name, SIMILARITIES, f"There are {', '.join(SIMILARITIES)}."
                )
        if len(names) < 2:
            raise StudyError(f"--similarities {names[0]}: give two or more, for there is nothing to compare.")
        return names, []
    if plan.spec.activations == "top":
        others = ", ".join(name for name in SIMILARITIES if name not in WITH_PRIOR)
        note = f"The run kept top images alone (--activations top), which are not enough for {others}."
        return list(WITH_PRIOR), [note]
    return list(SIMILARITIES), []


def _labels(plan: LabelPlan, name: str, told: Callable[[str], None]) -> pd.DataFrame:
    of = _by(plan, name)
    for layer in steps(of):
        told(f"Labelling {layer} by {name}")
    return pd.concat([of.labels(layer) for layer in of.activations.layouts], ignore_index=True)


def _by(plan: LabelPlan, name: str) -> LabelPlan:
    """By a function's own hyperparameters: those of the run where it is the run's."""
    if name == plan.spec.similarity:
        return plan
    cleared = {parameter: None for group in HYPERPARAMETERS.values() for parameter in group}
    return changed(plan, similarity=name, keep_similarities=False, **cleared)


def _function(
    run: FinishedRun, table: pd.DataFrame, name: str, layer: str, asked: SimilaritiesQuestion
) -> dict[str, Any]:
    """What is to say of a function's labels of a layer, or of all: `top1` and `top5` where the truth is known."""
    live = table[~table["is_dead"] & ((table["layer"] == layer) | (layer == ALL))]
    first = live[live["rank"] == 1]
    by_null = (first["null_quantile"] > QUANTILE).mean() if first["null_quantile"].notna().all() else np.nan
    row = {"layer": layer, "similarity": name, "neurons": len(first), "labels": distinct(first["concept"].tolist())}
    row |= {"above_null": float(by_null)}
    truth = run.truth(layer)
    if not truth:
        return row | dict.fromkeys(("known", *(f"top{top}{end}" for top in TOPS for end in ("", "_low", "_high"))))
    ranked = live.groupby("neuron")["concept"].agg(list).to_dict()
    ranks = right_ranks([ranked.get(neuron, []) for neuron in truth], list(truth.values()))
    row |= {"known": len(truth)}
    for top in TOPS:
        right = accuracy(ranks, top)
        low, high = right.interval(asked.resamples, asked.seed)
        row |= {f"top{top}": right.value(), f"top{top}_low": low, f"top{top}_high": high}
    return row


def _agreement_table(agreement: pd.DataFrame, names: Sequence[str]) -> Table:
    matrix = _matrix(agreement, names)
    rows = [[name, *(f"{share:.1%}" for share in matrix[i])] for i, name in enumerate(names)]
    count = agreement["neurons"].iloc[-1]
    return table_of(f"First labels that agree, of {count:,} live neurons", ["", *names], rows, right=names)


def _matrix(agreement: pd.DataFrame, names: Sequence[str]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Agreement of all layers, `[functions, functions]`."""
    matrix = np.eye(len(names))
    of = agreement[agreement["layer"] == ALL]
    for one, other, share in zip(of["one"], of["other"], of["share"], strict=True):
        i, j = names.index(one), names.index(other)
        matrix[i, j] = matrix[j, i] = share
    return matrix


def _functions_table(functions: pd.DataFrame) -> Table:
    names = [
        "layer",
        "similarity",
        "live neurons",
        "labels",
        f"above null:{QUANTILE}",
        "known",
        "top-1",
        "95 %",
        "top-5",
    ]
    rows = [
        [
            *(row["layer"], row["similarity"], f"{row['neurons']:,}", f"{row['labels']:,}"),
            *(_share(row["above_null"]), "-" if pd.isna(row["known"]) else f"{row['known']:.0f}"),
            *(_share(row["top1"]), _interval(row["top1_low"], row["top1_high"]), _share(row["top5"])),
        ]
        for row in functions.to_dict("records")
    ]
    return table_of("Labels by each similarity function", names, rows, right=names[2:])


def _examples_table(labels: pd.DataFrame, names: Sequence[str], asked: SimilaritiesQuestion) -> Table:
    live = labels[~labels["is_dead"]]
    drawn = np.random.default_rng(asked.seed).choice(len(live), min(asked.examples, len(live)), replace=False)
    some = live.iloc[np.sort(drawn)]
    columns = ["layer", "neuron", "truth", *names] if labels["truth"].notna().any() else ["layer", "neuron", *names]
    rows = some[columns].astype(object).where(some[columns].notna(), "-").to_numpy().tolist()
    return table_of(f"{len(some)} neurons drawn at random", columns, rows, right=("neuron",))


def _share(value: Any) -> str:
    return "-" if pd.isna(value) else f"{value:.1%}"


def _interval(low: Any, high: Any) -> str:
    return "-" if pd.isna(low) else f"{low:.1%}–{high:.1%}"


def _draw(agreement: pd.DataFrame, functions: pd.DataFrame, names: Sequence[str]) -> Figure:
    figure, (left, right) = style.panels(2)
    _draw_agreement(left, _matrix(agreement, names), names)
    known = functions[functions["top1"].notna()]
    if len(known):
        _draw_accuracy(right, known)
    else:
        _draw_above_null(right, functions[functions["layer"] == functions["layer"].iloc[-1]])
    return figure


def _draw_agreement(axes: Axes, matrix: np.ndarray[Any, np.dtype[np.float64]], names: Sequence[str]) -> None:
    axes.imshow(matrix, cmap=style.COLOUR_MAP, vmin=0, vmax=1)
    for (i, j), share in np.ndenumerate(matrix):
        axes.text(j, i, f"{share:.2f}", ha="center", va="center", color="black" if share > 0.5 else "white")
    axes.set_xticks(range(len(names)), names, rotation=35, ha="right")
    axes.set_yticks(range(len(names)), names)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.set_title("First labels that agree")


def _draw_accuracy(axes: Axes, known: pd.DataFrame) -> None:
    places = np.arange(len(known), dtype=np.float64)
    for shift, top in ((-0.2, 1), (0.2, 5)):
        value = known[f"top{top}"].to_numpy(dtype=np.float64)
        ends = known[[f"top{top}_low", f"top{top}_high"]].to_numpy(dtype=np.float64)
        colour = style.COLOURS[0 if top == 1 else 5]
        axes.bar(places + shift, value, 0.38, color=colour, label=f"top-{top}")
        style.intervals(axes, places + shift, value, ends)
    layer, count = known["layer"].iloc[0], int(known["known"].iloc[0])
    axes.set_xticks(places, known["similarity"], rotation=35, ha="right")
    axes.set(ylim=(0, 1.2), ylabel="share right", title=f"Accuracy on {count:,} neurons of {style.text(layer)}")
    axes.legend(loc="upper right", ncols=2)


def _draw_above_null(axes: Axes, functions: pd.DataFrame) -> None:
    axes.bar(functions["similarity"], functions["above_null"].astype(float), 0.6, color=style.COLOURS[0])
    axes.tick_params("x", rotation=35)
    axes.set(ylim=(0, 1.05), ylabel="share of live neurons", title=f"Labels above null:{QUANTILE}")
