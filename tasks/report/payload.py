"""The rows as compact JSON for the page: every concept, image key and thumbnail written once."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from typing import Any

from tasks.report.rows import Layer, Neuron


class _Table:
    """Strings numbered in the order they first appear."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}

    def number(self, text: str) -> int:
        return self.numbers.setdefault(text, len(self.numbers))


def payload(layers: Sequence[Layer], thumbnails: Mapping[str, bytes]) -> dict[str, Any]:
    """What `cards.js` unpacks: tables of strings, and per neuron one flat list of numbers into them.

    Of the thumbnails only those that some neuron shows are taken, base64-encoded; None where missing.
    """
    concepts, images = _Table(), _Table()
    packed = [
        {"name": layer.name, "neurons": [_packed(neuron, concepts, images) for neuron in layer.neurons]}
        for layer in layers
    ]
    return {
        "layers": packed,
        "concepts": list(concepts.numbers),
        "images": list(images.numbers),
        "thumbnails": [_encoded(thumbnails.get(key)) for key in images.numbers],
    }


def _packed(neuron: Neuron, concepts: _Table, images: _Table) -> list[Any]:
    labels: list[Any] = []  # four entries per label, flat: a third fewer bytes than objects
    for label in neuron.labels:
        scores = (label.similarity, label.log_likelihood, label.log_prior)
        labels += [concepts.number(label.concept), *map(_number, scores)]
    top_images: list[Any] = []  # two entries per image
    for image in neuron.top_images:
        top_images += [images.number(image.key), _number(image.activation)]
    truth = None if neuron.truth is None else concepts.number(neuron.truth)
    return [int(neuron.index), int(neuron.is_dead), labels, top_images, truth]


def _number(value: float | None) -> float | None:
    # JSON has no NaN and no infinity; five digits are more than anyone reads.
    return None if value is None or not math.isfinite(value) else float(f"{value:.5g}")


def _encoded(jpeg: bytes | None) -> str | None:
    return base64.b64encode(jpeg).decode("ascii") if jpeg else None
