"""The rows as compact scripts, which pages load when they need them: a page opened from disk may fetch nothing else.

Of a layer an index with all that a search, a filter or an order asks for, and chunks of neurons with the rest; of all
layers chunks of images, each image once. Every string of the rows is a string of the scripts, and no code.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tasks.report.rows import Activations, Input, Label, Layer, Neuron, TopImage
from tasks.report.summary import is_right

#: Neurons and images of a chunk: some hundred kilobytes.
NEURONS, IMAGES = 256, 128
#: What is so of a neuron, as bits; `rows.js` has the same.
DEAD, NEARLY_CONSTANT, CUT_KNOWN, INTERPRETABLE, TRUTH_KNOWN, RIGHT = (1 << bit for bit in range(6))


class Table:
    """Strings numbered in the order they first appear."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}

    def number(self, text: str) -> int:
        """The string's number, a new one where it is new."""
        return self.numbers.setdefault(text, len(self.numbers))


def scripts(layers: Sequence[Layer], thumbnails: Mapping[str, bytes]) -> Iterator[tuple[str, str]]:
    """Name and content of every script; `thumbnails` holds JPEG bytes per image key."""
    images = _image_numbers(layers)
    firsts = {layer.name: {neuron.index: neuron.first_label for neuron in layer.neurons} for layer in layers}
    numbers = {layer.name: number for number, layer in enumerate(layers)}
    for number, layer in enumerate(layers):
        concepts = Table()
        index = _index(layer, concepts)
        for chunk, start in enumerate(range(0, len(layer.neurons), NEURONS)):
            name = f"{number}-neurons-{chunk}"
            neurons = layer.neurons[start : start + NEURONS]
            yield name, _script(name, [_neuron(one, concepts, images, numbers, firsts) for one in neurons])
        name = f"{number}-index"
        yield name, _script(name, {"concepts": list(concepts.numbers)} | index)
    keys = list(images.numbers)
    for chunk, start in enumerate(range(0, len(keys), IMAGES)):
        name = f"images-{chunk}"
        yield name, _script(name, [[key, _encoded(thumbnails.get(key))] for key in keys[start : start + IMAGES]])


def _script(name: str, value: Any) -> str:
    # `json.dumps` writes all that is not ASCII as escapes; what JSON cannot hold has become null before.
    return f"put({json.dumps(name)},{json.dumps(value, separators=(',', ':'), allow_nan=False)});\n"


def _image_numbers(layers: Sequence[Layer]) -> Table:
    """Images that are seen together lie together: those of lists in their order, then those of cards alone."""
    images = Table()
    for layer in layers:
        for neuron in layer.neurons:
            for image in neuron.top_images:
                images.number(image.key)
    for layer in layers:
        for neuron in layer.neurons:
            for of_range in neuron.ranges:
                for image in of_range.images:
                    images.number(image.key)
    return images


def _index(layer: Layer, concepts: Table) -> dict[str, Any]:
    """Columns of a row per neuron; the concepts of a neuron's labels are a list of `ranks` numbers, -1 for none."""
    ranks = max((len(neuron.labels) for neuron in layer.neurons), default=0)
    labels: list[int] = []
    for neuron in layer.neurons:
        own = [concepts.number(label.concept) for label in neuron.labels]
        labels += own + [-1] * (ranks - len(own))
    firsts = [neuron.labels[0] if neuron.labels else None for neuron in layer.neurons]
    truths = [-1 if neuron.truth is None else concepts.number(neuron.truth) for neuron in layer.neurons]
    return {
        "neurons": [neuron.index for neuron in layer.neurons],
        "ranks": ranks,
        "labels": labels,
        "similarity": [_number(first.similarity) if first else None for first in firsts],
        "margin": [_number(first.margin) if first else None for first in firsts],
        "quantile": [_number(first.null_quantile) if first else None for first in firsts],
        "truths": truths if any(truth >= 0 for truth in truths) else [],
        "flags": [_flags(neuron) for neuron in layer.neurons],
    }


def _flags(neuron: Neuron) -> int:
    is_above = neuron.labels[0].is_interpretable if neuron.labels else None
    return (
        DEAD * neuron.is_dead
        | NEARLY_CONSTANT * neuron.is_nearly_constant
        | CUT_KNOWN * (is_above is not None)
        | INTERPRETABLE * bool(is_above)
        | TRUTH_KNOWN * (neuron.truth is not None)
        | RIGHT * bool(is_right(neuron))
    )


def _neuron(
    neuron: Neuron,
    concepts: Table,
    images: Table,
    numbers: Mapping[str, int],
    firsts: Mapping[str, Mapping[int, str | None]],
) -> list[Any]:
    """What a row's images and a card need; flat lists, which are a third smaller than objects."""
    return [
        [value for label in neuron.labels for value in _scores(label)],
        _images(neuron.top_images, images),
        [[of_range.name, _images(of_range.images, images)] for of_range in neuron.ranges],
        None if neuron.activations is None else _histogram(neuron.activations),
        [[near.by, near.other, _number(near.value)] for near in neuron.similar],
        [_input(one, concepts, numbers, firsts) for one in neuron.inputs],
    ]


def _scores(label: Label) -> tuple[float | None, ...]:
    is_above = label.is_interpretable
    scores = (label.similarity, label.log_likelihood, label.log_prior, label.margin, label.null_quantile)
    return (*map(_number, scores), None if is_above is None else int(is_above))


def _images(images: Sequence[TopImage], numbers: Table) -> list[Any]:
    return [value for image in images for value in (numbers.number(image.key), _number(image.activation))]


def _histogram(of: Activations) -> list[Any]:
    moments = (of.mean, of.std, of.minimum, of.maximum)
    return [*map(_number, moments), [_number(edge) for edge in of.edges], list(of.counts)]


def _input(
    one: Input, concepts: Table, numbers: Mapping[str, int], firsts: Mapping[str, Mapping[int, str | None]]
) -> list[Any]:
    """Layer and label where they are known, -1 where not."""
    known = numbers.get(one.layer, -1) if one.layer is not None else -1
    label = firsts[one.layer].get(one.neuron) if one.layer is not None and known >= 0 else None
    return [known, one.neuron, _number(one.weight), -1 if label is None else concepts.number(label)]


def _number(value: float | None) -> float | None:
    # JSON has no NaN and no infinity; five digits are more than anyone reads.
    return None if value is None or not math.isfinite(value) else float(f"{value:.5g}")


def _encoded(jpeg: bytes | None) -> str | None:
    return base64.b64encode(jpeg).decode("ascii") if jpeg else None
