"""What a layer's labels say at a glance."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from tasks.report.rows import Layer, Neuron

NUM_BINS = 28
NUM_FREQUENT = 8


@dataclass(frozen=True, slots=True)
class LayerSummary:
    """Counts over one layer; labels mean first labels."""

    name: str
    num_neurons: int
    num_dead: int
    num_distinct: int
    """Distinct labels."""
    num_interpretable: int | None
    """Neurons whose label is above the cut-off; None where nobody knows of any."""
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


@dataclass(frozen=True, slots=True)
class Scale:
    """The range of similarities of a whole report."""

    low: float
    high: float

    @classmethod
    def of(cls, layers: Sequence[Layer]) -> Scale:
        """Of all first labels; zeros where there are none."""
        pooled = [value for layer in layers for value in _similarities(layer)]
        return cls(min(pooled), max(pooled)) if pooled else cls(0.0, 0.0)

    def share(self, value: float) -> float | None:
        """Where a value stands in it, from 0 to 1; None outside."""
        if not self.low <= value <= self.high:
            return None
        return (value - self.low) / (self.high - self.low or 1.0)


def summarise(layers: Sequence[Layer]) -> tuple[LayerSummary, ...]:
    """One summary per layer; the histograms share their axis, so that layers can be compared by eye."""
    scale = Scale.of(layers)
    return tuple(_summary(layer, scale) for layer in layers)


def is_right(neuron: Neuron) -> bool | None:
    """Whether a neuron's label is its right concept; None where that is not known."""
    return None if neuron.truth is None else neuron.first_label == neuron.truth


def _similarities(layer: Layer) -> list[float]:
    firsts = (float(neuron.labels[0].similarity) for neuron in layer.neurons if neuron.labels)
    return [value for value in firsts if math.isfinite(value)]


def _summary(layer: Layer, scale: Scale) -> LayerSummary:
    similarities = _similarities(layer)
    counts = Counter(neuron.first_label for neuron in layer.neurons if neuron.first_label is not None)
    shared = [(label, number) for label, number in counts.items() if number > 1]
    verdicts = [verdict for neuron in layer.neurons if (verdict := is_right(neuron)) is not None]
    cuts = [neuron.labels[0].is_interpretable for neuron in layer.neurons if neuron.labels]
    known = [is_above for is_above in cuts if is_above is not None]
    return LayerSummary(
        name=layer.name,
        num_neurons=len(layer.neurons),
        num_dead=sum(neuron.is_dead for neuron in layer.neurons),
        num_distinct=len(counts),
        num_interpretable=sum(known) if known else None,
        frequent=tuple(sorted(shared, key=lambda item: (-item[1], item[0]))[:NUM_FREQUENT]),
        num_truths=len(verdicts),
        num_right=sum(verdicts),
        median=statistics.median(similarities) if similarities else None,
        bars=_bars(similarities, scale),
    )


def _bars(values: Sequence[float], scale: Scale) -> tuple[float, ...]:
    width = (scale.high - scale.low) / NUM_BINS or 1.0  # all values equal: one bar
    bins = Counter(min(int((value - scale.low) / width), NUM_BINS - 1) for value in values)
    highest = max(bins.values(), default=1)
    return tuple(bins[i] / highest for i in range(NUM_BINS))
