"""What people rate: neurons drawn by chance, each with its label or, as a control, with that of another neuron."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class Item:
    """A neuron with the description that is shown of it."""

    layer: str
    #: Of the layer among those of the run.
    layer_number: int
    neuron: int
    concept: str
    #: Whether the description is that of another neuron.
    is_control: bool

    def sealed(self, run: str, seed: int, number: int) -> str:
        """The item as a word that tells a rater nothing, for the page and the CSV; the concept is not in it.

        It keeps nobody out who sets out to read it, and needs no file beside the CSV.
        """
        content = json.dumps([self.layer_number, self.layer, self.neuron, int(self.is_control)]).encode()
        return f"{number}-{base64.urlsafe_b64encode(_veiled(content, run, seed, number)).decode()}"

    @classmethod
    def opened(cls, word: str, concept: str, run: str, seed: str) -> Item:
        """The item that was sealed. Raises `ValueError` where it was not, or for another run or seed."""
        number, _, veiled = word.partition("-")
        content = _veiled(base64.urlsafe_b64decode(veiled), run, int(seed), int(number))
        layer_number, layer, neuron, is_control = json.loads(content)
        return cls(layer, layer_number, neuron, concept, bool(is_control))


def _veiled(content: bytes, run: str, seed: int, number: int) -> bytes:
    """Veils content, or takes the veil off."""
    veil = hashlib.shake_256(f"{run} {seed} {number}".encode()).digest(len(content))
    return bytes(a ^ b for a, b in zip(content, veil, strict=True))


def drawn(
    labels: pd.DataFrame, layers: Sequence[str], num_neurons: int, num_controls: int, seed: int
) -> tuple[Item, ...]:
    """Items of each layer, `num_neurons` and `num_controls` or as many as there are, all in one random order.

    Dead neurons are left out. More neurons by the same seed are those of fewer and others (B.1). Controls are other
    neurons than the rated ones while there are any; a layer whose neurons have all one label has none.
    """
    first = labels[(labels["rank"] == 1) & ~labels["is_dead"]]
    items: list[Item] = []
    for number, layer in enumerate(layers):
        table = first[first["layer"] == layer].sort_values("neuron")
        concepts = dict(zip(table["neuron"].tolist(), table["concept"].tolist(), strict=True))
        random = np.random.default_rng([seed, number])
        neurons = random.permutation(list(concepts)).tolist()
        items += [Item(layer, number, neuron, concepts[neuron], False) for neuron in neurons[:num_neurons]]
        for neuron in neurons[::-1][:num_controls]:
            others = [concept for concept in concepts.values() if concept != concepts[neuron]]
            if others:
                items.append(Item(layer, number, neuron, others[random.integers(len(others))], True))
    return tuple(items[i] for i in np.random.default_rng(seed).permutation(len(items)))
