"""What a report is made of: plain frozen rows, no arrays, no paths."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Label:
    """One concept proposed for a neuron; similarity = log_likelihood − λ·log_prior where both are known."""

    concept: str
    similarity: float
    log_likelihood: float | None = None
    """None for similarities that have no such part, such as cosine."""
    log_prior: float | None = None
    margin: float | None = None
    """What the next concept scores less."""
    null_quantile: float | None = None
    """Share of neurons with shuffled images whose best label scores less."""
    is_interpretable: bool | None = None
    """Whether it is above the cut-off; None where nobody knows."""


@dataclass(frozen=True, slots=True)
class TopImage:
    """An image that activates the neuron strongly."""

    key: str
    """Key into the thumbnails, and the caption a reader sees."""
    activation: float


@dataclass(frozen=True, slots=True)
class Range:
    """Images drawn from a neuron's most active ones (A.7)."""

    name: str
    """Which these are: `1 %`."""
    images: tuple[TopImage, ...]


@dataclass(frozen=True, slots=True)
class Activations:
    """A neuron's activations over the probe set."""

    mean: float
    std: float
    minimum: float
    maximum: float
    edges: tuple[float, ...]
    """Of the histogram: one more than there are counts."""
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Similar:
    """A neuron of the same layer that is near."""

    by: str
    """`activation` or `label`."""
    other: int
    value: float
    """Correlation of activations, or cosine of labels."""


@dataclass(frozen=True, slots=True)
class Input:
    """What a neuron of a linear layer reads."""

    layer: str | None
    """The layer whose neuron it is, where that is known."""
    neuron: int
    weight: float


@dataclass(frozen=True, slots=True)
class Neuron:
    """One neuron with its labels, best first, and its top images, strongest first."""

    index: int
    is_dead: bool
    labels: tuple[Label, ...]
    """Empty for a dead neuron."""
    top_images: tuple[TopImage, ...]
    truth: str | None = None
    """The right concept where it is known, as for the classes of a last layer."""
    is_nearly_constant: bool = False
    ranges: tuple[Range, ...] = ()
    activations: Activations | None = None
    similar: tuple[Similar, ...] = ()
    """Nearest first, of each kind."""
    inputs: tuple[Input, ...] = ()
    """Those that add most first, those that take most last."""

    @property
    def first_label(self) -> str | None:
        """The best concept, or None where there is none."""
        return self.labels[0].concept if self.labels else None


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer's neurons, in the order that the page shows first."""

    name: str
    neurons: tuple[Neuron, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """Everything the pages tell."""

    title: str
    facts: tuple[tuple[str, str], ...]
    """(name, value) pairs for the head: network, probe set, concepts, similarity, accuracy."""
    layers: tuple[Layer, ...]
    rejects: tuple[tuple[str, str], ...] = ()
    """(path, reason) of each input that was refused."""
    notes: tuple[str, ...] = ()
    """Sentences worth telling, such as a K that had to be lowered."""
    origin: tuple[tuple[str, str], ...] = ()
    """(name, value) pairs for the foot: digest, seconds of work, versions."""
    spec: tuple[tuple[str, str], ...] = ()
    """(name, value) pairs of all parameters."""
    cut: float | None = None
    """Similarity above which a label is interpretable; None where that is not told by similarity."""
