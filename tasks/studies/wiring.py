"""A linear layer of a run: its weights, what it reads, and what the neurons at both ends are called."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tasks.evaluation.texts import Encoder, sentence_encoder
from tasks.finished import FinishedRun, StudyError
from tasks.inputs import linear_inputs
from tasks.models.targets import load_target

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Wiring:
    """A linear layer of `N` neurons, and the recorded layer of `M` that it reads."""

    layer: str
    input_layer: str
    #: `[N, M]` and `[N]`.
    weight: Floats
    bias: Floats
    #: Names of each output neuron's concept, any of which is right; none where there is none.
    outputs: tuple[tuple[str, ...], ...]
    #: First label of each input neuron; None of a dead one.
    inputs: tuple[str | None, ...]


def wiring_of(run: FinishedRun, layer: str, typed: str | None, truth: str | None, study: str) -> Wiring:
    """Of a linear layer. Output neurons are called what they are known to detect, by `truth` or that of the run.

    `typed` is the target that the user typed. Raises `StudyError` where the layer is not linear, or what it reads is
    no recorded layer; `ModelError` where the network is another by now.
    """
    plan, target = run.plan, run.network(typed, f"the study {study}")
    loaded = load_target(target, plan.spec.checkpoint, plan.spec.preprocess)
    found = linear_inputs(loaded, plan.activations, plan.probe.num_images, layer)
    if found is None:
        raise StudyError(f"Layer {layer} is not linear: it has no weights of one neuron to another. Give --layer.")
    if found.input_layer is None:
        raise StudyError(
            f"None of the recorded layers ({', '.join(run.layers)}) gives what {layer} reads. Run with the layer "
            "before it too, and --summary mean where its mean is what is read."
        )
    known = run.truth(layer, truth)
    return Wiring(
        layer,
        found.input_layer,
        found.weight.numpy(),
        found.bias.numpy(),
        tuple(known.get(neuron, ()) for neuron in range(len(found.weight))),
        first_labels(run, found.input_layer),
    )


def first_labels(run: FinishedRun, layer: str) -> tuple[str | None, ...]:
    """The first label of each neuron of a layer; None of a dead one."""
    of = run.first_labels[run.first_labels["layer"] == layer].sort_values("neuron")
    return tuple(None if dead else label for label, dead in zip(of["concept"], of["is_dead"], strict=True))


def spaces(run: FinishedRun, sentence_model: str | None) -> dict[str, Encoder]:
    """Text spaces that concepts are compared in: that of the run's CLIP model, and of a sentence encoder if named."""
    found: dict[str, Encoder] = {"CLIP": run.embed}
    if sentence_model:
        found["sentence"] = sentence_encoder(sentence_model)
    return found


def text_similarities(outputs: Sequence[Sequence[str]], inputs: Sequence[str | None], encode: Encoder) -> Floats:
    """Cosine of each output's concept and each input's label, `[N, M]`; of several names the nearest.

    NaN where one of the two has none.
    """
    texts = list(dict.fromkeys([*(label for label in inputs if label), *(name for of in outputs for name in of)]))
    row = {text: i for i, text in enumerate(texts)}
    embeddings = encode(texts).astype(np.float32) if texts else np.empty((0, 1), dtype=np.float32)  # [T, D]
    found = np.full((len(outputs), len(inputs)), np.nan, dtype=np.float32)
    labelled = np.array([i for i, label in enumerate(inputs) if label], dtype=np.int64)
    of_inputs = embeddings[[row[label] for label in inputs if label]]  # [m, D]
    for output, names in enumerate(outputs):
        if names:
            found[output, labelled] = (of_inputs @ embeddings[[row[name] for name in names]].T).max(axis=1)
    return found
