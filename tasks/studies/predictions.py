"""The class of an image, predicted from the label of the neuron that contributes most to it (paper A.6).

Of ResNet-50 on ImageNet the paper predicts 10.28 % of the images' classes in this way (Network Dissection: 3.36 %,
MILAN: 2.31 %).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from matplotlib.figure import Figure
from rich.table import Table
from torch import Tensor

from storage.errors import IncompleteError
from tasks import recorded
from tasks.dissection.metrics import mean
from tasks.evaluation.shown_concepts import concept_key, of_probe
from tasks.finished import FinishedRun, StudyError
from tasks.show import table_of
from tasks.studies import style
from tasks.studies.namesakes import Namesakes
from tasks.studies.outcome import Outcome
from tasks.studies.wiring import Wiring, spaces, text_similarities, wiring_of

#: How the cosines of two spaces are weighed, CLIP first: the paper's text averages, its published code has 3 : 1.
AVERAGE, PUBLISHED = "average", "3 : 1"
WEIGHED = {AVERAGE: (1, 1), PUBLISHED: (3, 1)}
#: Times that labels are shuffled among neurons.
SHUFFLES = 20
#: What a prediction is compared with.
OF_IMAGE, OF_NETWORK = "class of the image", "class the network says"
#: Images whose contributions are in memory at a time: 32 MiB for 2,048 inputs.
IMAGES_AT_A_TIME = 4_096

Numbers = npt.NDArray[np.int64]
Matrix = npt.NDArray[np.float32]


@dataclass(frozen=True)
class PredictionsQuestion:
    """What is asked of the predictions."""

    #: A linear layer that says the class; by default the last.
    layer: str | None = None
    #: The run's network, typed where it is code.
    target: str | None = None
    #: Names of the classes; by default the truth of the run.
    truth: str | None = None
    #: Table of which image is of what class; by default the probe set's own labels.
    image_labels: str | None = None
    sentence_model: str | None = None
    resamples: int = 1_000
    seed: int = 0


def predictions(run: FinishedRun, asked: PredictionsQuestion) -> Outcome:
    """How often the label of the most contributing neuron is nearest to the class, in each text space.

    Raises `StudyError` without names of classes, `IncompleteError` where all activations were not kept, and what
    `wiring_of` raises.
    """
    plan = run.plan
    if plan.activations.kept == "top":
        raise IncompleteError(
            f"{run.out.url} kept the top images alone (--activations top), and the study looks at all images. Run "
            "again with --activations float16."
        )
    wiring = wiring_of(run, run.layer(asked.layer), asked.target, asked.truth, "predictions")
    if not any(wiring.outputs):
        raise StudyError(f"The classes of {wiring.layer} have no names: give those with --truth.")
    images = contributing(run, wiring)
    images["class"] = _classes(run, wiring, asked.image_labels)
    similar = weighed(
        {n: text_similarities(wiring.outputs, wiring.inputs, e) for n, e in spaces(run, asked.sentence_model).items()}
    )
    nearest = {space: nearest_class(similarity) for space, similarity in similar.items()}
    neurons = images["neuron"].to_numpy()
    for space, of_labels in nearest.items():
        images[space] = np.where(neurons >= 0, of_labels[neurons], -1)
    accuracy = pd.DataFrame(_accuracies(images, wiring, nearest, asked))
    names = list(nearest)
    classes = _by_class(images, wiring, names)
    data = {"accuracy": accuracy, "classes": classes, "images": _named(images, wiring, names)}
    told = vars(replace(asked, layer=wiring.layer)) | {"reads": wiring.input_layer}
    return Outcome(
        [_table(accuracy, wiring), *_notes(images, wiring)], data, partial(_draw, accuracy, classes, names), told
    )


def contributing(run: FinishedRun, wiring: Wiring) -> pd.DataFrame:
    """`said, neuron, contribution` of each image: the class that the network says, and what contributed most to it.

    The contribution of neuron j to class c is `W[c, j]` times its activation. A neuron without a label describes
    nothing and is passed over; -1 where no other contributes anything positive.
    """
    weight = torch.from_numpy(wiring.weight)
    is_silent = torch.tensor([label is None for label in wiring.inputs])
    parts = [
        (said, *_most(weight[said] * inputs.masked_fill(inputs.isneginf(), 0), is_silent))
        for said, inputs in _said_and_inputs(run, wiring)
    ]
    said, neuron, contribution = (torch.cat(of).numpy() for of in zip(*parts, strict=True))
    return pd.DataFrame({"said": said, "neuron": neuron, "contribution": contribution})


def _said_and_inputs(run: FinishedRun, wiring: Wiring) -> Iterator[tuple[Tensor, Tensor]]:
    """The class that the network says `[b]`, and the activations `[b, M]` that it says it from."""
    of, num_images = run.plan.activations, run.plan.probe.num_images
    both = (recorded.activations(of, num_images, layer) for layer in (wiring.layer, wiring.input_layer))
    for (_, outputs), (_, inputs) in zip(*both, strict=True):
        yield from zip(
            torch.split(outputs.argmax(1), IMAGES_AT_A_TIME), torch.split(inputs, IMAGES_AT_A_TIME), strict=True
        )


def _most(contributions: Tensor, is_silent: Tensor) -> tuple[Tensor, Tensor]:
    """The largest of each row `[b, M]` and where it is; -1 and 0 where none is positive."""
    value, neuron = contributions.masked_fill(is_silent, -torch.inf).max(1)
    return neuron.where(value > 0, -1), value.clamp(min=0)


def weighed(similar: dict[str, Matrix]) -> dict[str, Matrix]:
    """Cosines in each space, and where there are two the means of both."""
    if len(similar) < 2:
        return similar
    one, other = similar.values()
    means = {name: np.average([one, other], axis=0, weights=by).astype(np.float32) for name, by in WEIGHED.items()}
    return similar | means


def nearest_class(similarity: Matrix) -> Numbers:
    """The class `[M]` of which the name is nearest to each input's label; -1 where there is no label."""
    known = np.where(np.isnan(similarity), -np.inf, similarity)
    return np.where(np.isinf(known).all(axis=0), -1, known.argmax(axis=0))


def _classes(run: FinishedRun, wiring: Wiring, image_labels: str | None) -> Numbers:
    """The class of each image `[I]` by its label; -1 where that names none."""
    rows = of_probe(run.plan, image_labels).rows
    classes = np.full(run.plan.probe.num_images, -1)
    for number, names in enumerate(wiring.outputs):
        for name in names:
            classes[rows.get(concept_key(name), [])] = number  # of namesakes the last: each is right
    return classes


def _accuracies(
    images: pd.DataFrame, wiring: Wiring, nearest: dict[str, Numbers], asked: PredictionsQuestion
) -> Iterator[dict[str, Any]]:
    shuffled, namesakes = list(_shuffled(wiring, asked.seed)), Namesakes.of(wiring.outputs)
    neurons = images["neuron"].to_numpy()
    for against, true in ((OF_IMAGE, images["class"].to_numpy()), (OF_NETWORK, images["said"].to_numpy())):
        known = true >= 0
        if not known.any():
            continue
        for space, classes in nearest.items():
            right = mean(namesakes.is_right(images[space].to_numpy(), true)[known])
            low, high = right.interval(asked.resamples, asked.seed)
            others = (np.where(neurons >= 0, classes[one[neurons]], -1) for one in shuffled)
            yield {
                "space": space,
                "against": against,
                "images": int(known.sum()),
                "share": right.value(),
                "low": low,
                "high": high,
                "by_chance": float(np.mean([namesakes.is_right(other, true)[known].mean() for other in others])),
            }


def _shuffled(wiring: Wiring, seed: int) -> Iterator[Numbers]:
    """For each input neuron one whose label it gets, at random among those that have one."""
    random = np.random.default_rng(seed)
    labelled = np.array([i for i, label in enumerate(wiring.inputs) if label is not None], dtype=np.int64)
    for _ in range(SHUFFLES):
        places = np.arange(len(wiring.inputs))
        places[labelled] = random.permutation(labelled)
        yield places


def _named(images: pd.DataFrame, wiring: Wiring, names: Sequence[str]) -> pd.DataFrame:
    """A row per image, with names in place of numbers; null where there is none."""
    classes = [*(" | ".join(of) or None for of in wiring.outputs), None]
    labels = [*wiring.inputs, None]

    def of(column: str, texts: Sequence[str | None]) -> Any:
        return pd.array([texts[i] for i in images[column]], dtype="string")

    columns = {"row": np.arange(len(images)), "class": of("class", classes), "said": of("said", classes)}
    columns |= {"neuron": images["neuron"], "contribution": images["contribution"], "label": of("neuron", labels)}
    return pd.DataFrame(columns | {name: of(name, classes) for name in names})


def _notes(images: pd.DataFrame, wiring: Wiring) -> Iterator[str]:
    known, namesakes = images["class"] >= 0, Namesakes.of(wiring.outputs)
    if len(namesakes.pairs):
        yield (
            f"{namesakes.num_with_one:,} classes have a name in common with another class: what is said by that name "
            "is right for either."
        )
    if known.any():
        right = float(namesakes.is_right(images["said"].to_numpy(), images["class"].to_numpy())[known].mean())
        yield f"The network itself says the class of {right:.2%} of {known.sum():,} images."
    else:
        yield "No image is known to be of a class: --image-labels TABLE (path, concept) says of which it is."
    without = int((images["neuron"] < 0).sum())
    if without:
        yield f"Of {without:,} images no labelled neuron contributes anything to the class: counted as wrong."


def _table(accuracy: pd.DataFrame, wiring: Wiring) -> Table:
    names = ["text space", "predicted", "images", "right", "95 %", "by chance"]
    rows = [
        [
            *(row.space, row.against, f"{row.images:,}", f"{row.share:.2%}"),
            *(f"{row.low:.2%} – {row.high:.2%}", f"{row.by_chance:.2%}"),
        ]
        for row in accuracy.itertuples()
    ]
    title = f"Class by the label of the neuron of {wiring.input_layer} that contributes most to {wiring.layer}"
    return table_of(title, names, rows, right=names[2:])


def _by_class(images: pd.DataFrame, wiring: Wiring, names: Sequence[str]) -> pd.DataFrame:
    """`class, images` and the share that is right in each text space; of images' own classes, else the network's."""
    true = "class" if (images["class"] >= 0).any() else "said"
    known = images[images[true] >= 0]
    namesakes, of_images = Namesakes.of(wiring.outputs), known[true].to_numpy()
    flags = {name: namesakes.is_right(known[name].to_numpy(), of_images) for name in names}
    right = pd.DataFrame(flags, index=known.index).groupby(known[true])
    shares = right.mean()
    shares.insert(0, "images", right.size())
    shares.insert(0, "class", [" | ".join(wiring.outputs[number]) for number in shares.index])
    return shares.sort_values(names[-1], ascending=False, kind="stable").reset_index(drop=True)


def _draw(accuracy: pd.DataFrame, classes: pd.DataFrame, names: Sequence[str]) -> Figure:
    figure, (left, right) = style.panels(2)
    places, share = -np.arange(len(accuracy)), accuracy["share"].to_numpy()
    ends = [share - accuracy["low"].to_numpy(), accuracy["high"].to_numpy() - share]
    bars: dict[str, Any] = {"color": style.COLOURS[0], "ecolor": style.GREY, "capsize": 3}
    left.barh(places, share, height=0.5, xerr=np.maximum(0, np.stack(ends)), label="labels", **bars)
    left.vlines(accuracy["by_chance"], places - 0.3, places + 0.3, color=style.COLOURS[1], label="shuffled labels")
    left.set_yticks(places, [f"{row.space}:\n{row.against}" for row in accuracy.itertuples()])
    left.set(xlabel="share of images", title="Predicted right", ylim=(places[-1] - 1, 1))
    left.legend(loc="lower right")
    for number, name in enumerate(names):
        right.plot(
            np.arange(1, len(classes) + 1), np.sort(classes[name])[::-1], label=name, **style.line_style(number)
        )
    right.set(xlabel="classes, best first", ylabel="share of a class's images", ylim=(-0.02, 1.02), title="By class")
    right.legend(loc="best")
    return figure
