"""What a layer's labels say at a glance."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from tasks.report.rows import Layer

NUM_BINS = 28
NUM_FREQUENT = 12


@dataclass(frozen=True, slots=True)
class LayerSummary:
    """Counts over one layer; labels mean first labels."""

    name: str
    num_neurons: int
    num_dead: int
    num_distinct: int
    """Distinct labels."""
    frequent: tuple[tuple[str, int], ...]
    """(label, neurons that bear it) of the labels that several bear, most frequent first, then by name."""
    num_truths: int
    """Neurons whose right concept is known."""
    num_right: int
    """Of those, neurons whose label is that concept; a dead neuron is not right."""
    median: float | None
    """Median similarity of the labels."""
    bars: tuple[float, ...]
    """[NUM_BINS] heights in 0..1: the histogram of similarities over the range of the whole report."""


def summarise(layers: Sequence[Layer]) -> tuple[LayerSummary, ...]:
    """One summary per layer; the histograms share their axis, so that layers can be compared by eye."""
    similarities = [_similarities(layer) for layer in layers]
    pooled = [value for values in similarities for value in values]
    low, high = (min(pooled), max(pooled)) if pooled else (0.0, 0.0)
    return tuple(_summary(layer, values, low, high) for layer, values in zip(layers, similarities, strict=True))


def _similarities(layer: Layer) -> list[float]:
    firsts = (float(neuron.labels[0].similarity) for neuron in layer.neurons if neuron.labels)
    return [value for value in firsts if math.isfinite(value)]


def _summary(layer: Layer, similarities: Sequence[float], low: float, high: float) -> LayerSummary:
    counts = Counter(neuron.first_label for neuron in layer.neurons if neuron.first_label is not None)
    shared = [(label, number) for label, number in counts.items() if number > 1]
    truths = [neuron for neuron in layer.neurons if neuron.truth is not None]
    return LayerSummary(
        name=layer.name,
        num_neurons=len(layer.neurons),
        num_dead=sum(neuron.is_dead for neuron in layer.neurons),
        num_distinct=len(counts),
        frequent=tuple(sorted(shared, key=lambda item: (-item[1], item[0]))[:NUM_FREQUENT]),
        num_truths=len(truths),
        num_right=sum(neuron.first_label == neuron.truth for neuron in truths),
        median=statistics.median(similarities) if similarities else None,
        bars=_bars(similarities, low, high),
    )


def _bars(values: Sequence[float], low: float, high: float) -> tuple[float, ...]:
    width = (high - low) / NUM_BINS or 1.0  # all values equal: one bar
    bins = Counter(min(int((value - low) / width), NUM_BINS - 1) for value in values)
    highest = max(bins.values(), default=1)
    return tuple(bins[i] / highest for i in range(NUM_BINS))
