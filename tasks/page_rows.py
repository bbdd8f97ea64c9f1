"""The rows of a report, from the tables of a published run."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from typing import Any

import numpy as np
import pandas as pd

from tasks.dissection.metrics import normal
from tasks.evaluation.truth import names_of
from tasks.report.rows import Activations, Input, Label, Layer, Neuron, Range, Similar, TopImage


@dataclass(frozen=True)
class Details:
    """Tables of what is known of neurons beyond labels and top images; empty where a run has none."""

    neurons: pd.DataFrame = field(default_factory=pd.DataFrame)
    ranges: pd.DataFrame = field(default_factory=pd.DataFrame)
    similar: pd.DataFrame = field(default_factory=pd.DataFrame)
    inputs: pd.DataFrame = field(default_factory=pd.DataFrame)


def layer_rows(
    name: str, truth: Sequence[str] | None, labels: pd.DataFrame, top_images: pd.DataFrame, details: Details
) -> Layer:
    """A layer's neurons by number; a line of `truth` names each one's true concept."""
    images = {
        neuron: tuple(TopImage(*row) for row in rows)
        for neuron, rows in _by_neuron(top_images, name, ("rank",), ("image",), ("activation",))
    }
    known = _Known.of(details, name)
    neurons = []
    columns = ("similarity", "log_likelihood", "log_prior", "margin", "null_quantile")
    flags = ("is_dead", "is_nearly_constant", "interpretable")
    for neuron, rows in _by_neuron(labels, name, ("rank",), ("concept",), (*columns, *flags)):
        is_dead = bool(rows[0][6])
        neurons.append(
            Neuron(
                neuron,
                is_dead,
                () if is_dead else tuple(_label(row) for row in rows),
                images.get(neuron, ()),
                _true_concept(truth[neuron], rows[0][0]) if truth and 0 <= neuron < len(truth) else None,
                is_nearly_constant=bool(rows[0][7]),
                ranges=known.ranges.get(neuron, ()),
                activations=known.activations.get(neuron),
                similar=known.similar.get(neuron, ()),
                inputs=known.inputs.get(neuron, ()),
            )
        )
    return Layer(name, tuple(neurons))


@dataclass(frozen=True)
class _Known:
    """Details of a layer's neurons, by number."""

    activations: Mapping[int, Activations]
    ranges: Mapping[int, tuple[Range, ...]]
    similar: Mapping[int, tuple[Similar, ...]]
    inputs: Mapping[int, tuple[Input, ...]]

    @classmethod
    def of(cls, details: Details, name: str) -> _Known:
        moments = ("mean", "std", "minimum", "maximum")
        return cls(
            {
                neuron: _activations(*rows[0])
                for neuron, rows in _by_neuron(details.neurons, name, (), ("edges", "counts"), moments)
                if _is_histogram(*rows[0][:2])
            },
            {
                neuron: tuple(
                    Range(of, tuple(TopImage(row[1], row[2]) for row in drawn))
                    for of, drawn in groupby(sorted(rows, key=_by_range), key=itemgetter(0))
                )
                for neuron, rows in _by_neuron(details.ranges, name, (), ("range", "image"), ("activation",))
            },
            {
                neuron: tuple(Similar(by, int(other), value) for by, other, value in rows)
                for neuron, rows in _by_neuron(details.similar, name, ("rank",), ("by", "other"), ("value",))
            },
            {
                neuron: tuple(
                    Input(of or None, int(at), weight)
                    for of, at, weight in sorted(rows, key=itemgetter(2), reverse=True)  # what adds most comes first
                )
                for neuron, rows in _by_neuron(details.inputs, name, ("rank",), ("input_layer", "input"), ("weight",))
            },
        )


def _by_neuron(
    table: pd.DataFrame, layer: str, order: Sequence[str], plain: Sequence[str], numbers: Sequence[str]
) -> Iterator[tuple[int, list[tuple[Any, ...]]]]:
    """A layer's rows of each neuron: columns as they are, then columns of numbers, NaN where there is none."""
    if table.empty:
        return
    own = table[table["layer"] == layer].sort_values(["neuron", *order], kind="stable")
    columns = [own["neuron"].tolist()] + [own[column].tolist() for column in plain]
    for column in numbers:
        has = column in own  # older runs know of no nearly constant neurons
        values = own[column].to_numpy("float64", na_value=np.nan).tolist() if has else [0.0] * len(own)
        columns.append(values)
    for neuron, rows in groupby(zip(*columns, strict=True), key=itemgetter(0)):
        yield int(neuron), [row[1:] for row in rows]


def _label(row: Sequence[Any]) -> Label:
    concept, similarity, likelihood, prior, margin, quantile = row[:6]
    above = row[8]
    scores = (_known(likelihood), _known(prior), _known(margin), _known(quantile))
    return Label(concept, similarity, *scores, None if math.isnan(above) else bool(above))


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _is_histogram(edges: Any, counts: Any) -> bool:
    """Whether it can be drawn; nothing is known of a neuron that is NaN everywhere."""
    return len(edges) == len(counts) + 1 > 1 and bool(np.isfinite(edges).all() and (counts >= 0).all())


def _activations(edges: Any, counts: Any, mean: float, std: float, minimum: float, maximum: float) -> Activations:
    return Activations(mean, std, minimum, maximum, tuple(edges.tolist()), tuple(counts.tolist()))


def _by_range(row: Sequence[Any]) -> tuple[float, str]:
    """The narrowest range first: `0.1 %`, `1 %`, `5 %`."""
    try:
        return float(row[0].rstrip(" %")), row[0]
    except ValueError:
        return math.inf, row[0]


def _true_concept(line: str, label: str) -> str | None:
    """What a neuron's true concept is called on the page: as its first label where that is right."""
    names = names_of(line)
    return label if normal(label) in map(normal, names) else next(iter(names), None)
