"""What a report is made of: plain frozen rows, no arrays, no paths."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Label:
    """One concept proposed for a neuron; similarity = log_likelihood − λ·log_prior where both are known."""

    concept: str
    similarity: float
    log_likelihood: float | None
    """None for similarities that have no such part, such as cosine."""
    log_prior: float | None


@dataclass(frozen=True, slots=True)
class TopImage:
    """An image that activates the neuron strongly."""

    key: str
    """Key into the thumbnails, and the caption a reader sees."""
    activation: float


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

    @property
    def first_label(self) -> str | None:
        """The best concept, or None where there is none."""
        return self.labels[0].concept if self.labels else None


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer's neurons; index order is what the page shows first, whatever order they come in."""

    name: str
    neurons: tuple[Neuron, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """Everything one page tells."""

    title: str
    facts: tuple[tuple[str, str], ...]
    """(name, value) pairs for the head: network, probe set, concepts, similarity, versions."""
    layers: tuple[Layer, ...]
    rejects: tuple[tuple[str, str], ...] = ()
    """(path, reason) of each input that was refused."""
    notes: tuple[str, ...] = ()
    """Sentences worth telling, such as a K that had to be lowered."""
