"""Activations on images that show what a label says, against those on other images: CoSy's AUC and MAD.

L. Kopf et al., "CoSy: Evaluating Textual Explanations of Neurons", NeurIPS 2024. There a diffusion model draws the
images that show a label; here somebody has said which do: the probe set's own labels, a table, or a folder for each
concept, as CoSy's generated images lie.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from storage.completion import Rows, steps
from tasks import recorded
from tasks.dissection.faithfulness import auc, mad
from tasks.evaluation.shown_concepts import ShownConcepts, concept_key
from tasks.labelling import LabelPlan
from tasks.observation import ActivationsRef

#: Images of the control, and of each concept, at most: drawn at random where there are more.
MOST_CONTROLS, MOST_SHOWN = 16_384, 200
#: Images that show a concept at least.
LEAST_SHOWN = 5
#: Neurons whose activations are read at a time: of the control 16 MiB.
NEURONS_AT_A_TIME = 256

Floats = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Contrast:
    """`[N]` each; NaN for a neuron without a label that enough images are known to show."""

    auc: Floats
    mad: Floats


def contrasts(
    plan: LabelPlan,
    layer: str,
    images: Tensor,
    labels: Sequence[Sequence[str | None]],
    shown: ShownConcepts,
    seed: int,
) -> list[Contrast]:
    """AUC and MAD of each neuron for each of `labels`, which hold a label for each neuron, or None.

    The control is of `images`, rows (rising) of the probe set, without those that are known to show the label. So are
    the images that show it where these are of the probe set.
    """
    control = _drawn(images.numpy(), MOST_CONTROLS, seed)
    wanted = {concept_key(label) for of in labels for label in of if label}
    found = {name: rows for name in wanted if (rows := _shown(shown, name, images.numpy(), seed)) is not None}
    results = [np.full((2, len(of)), np.nan) for of in labels]
    if found and len(control):
        pictures = _Pictures.of(control, found, shown)
        for neurons in steps(Rows(0, plan.activations.num_neurons[layer]), NEURONS_AT_A_TIME):
            block = pictures.activations(plan, layer, neurons, shown)
            for of, into in zip(labels, results, strict=True):
                for neuron in range(neurons.start, neurons.stop):
                    label = of[neuron]
                    if label and (name := concept_key(label)) in found:
                        into[:, neuron] = pictures.contrast(
                            name, *(part[:, neuron - neurons.start] for part in block)
                        )
    return [Contrast(*both) for both in results]


def _shown(shown: ShownConcepts, name: str, among: Numbers, seed: int) -> Numbers | None:
    """Rows that show a concept, or None where these are too few."""
    rows = shown.rows.get(name, np.empty(0, dtype=np.int64))
    if shown.is_probe:
        places = np.searchsorted(among, rows).clip(max=len(among) - 1)
        rows = rows[among[places] == rows]
    return _drawn(rows, MOST_SHOWN, seed) if len(rows) >= LEAST_SHOWN else None


@dataclass(frozen=True)
class _Pictures:
    """Which images are looked at."""

    #: Rows of the control, and of all images that show something.
    control: Numbers
    every: Numbers
    #: Where in `every` the images of a concept are, and which of `control` show none of it.
    places: Mapping[str, Numbers]
    others: Mapping[str, npt.NDArray[np.bool_]]

    @classmethod
    def of(cls, control: Numbers, found: Mapping[str, Numbers], shown: ShownConcepts) -> _Pictures:
        """Of rows that show each concept."""
        every = np.unique(np.concatenate(list(found.values())))
        return cls(
            control,
            every,
            {name: np.searchsorted(every, rows) for name, rows in found.items()},
            {name: ~np.isin(control, shown.of_probe.get(name, ())) for name in found},
        )

    def activations(self, plan: LabelPlan, layer: str, neurons: Rows, shown: ShownConcepts) -> tuple[Floats, Floats]:
        """Of some neurons, on the control and on `every`."""
        of = (plan.activations, self.control), (shown.activations, self.every)
        on_control, on_shown = (_activations(ref, layer, rows, neurons) for ref, rows in of)
        return on_control, on_shown

    def contrast(self, name: str, control: Floats, every: Floats) -> tuple[float, float]:
        """AUC and MAD of a neuron's activations for a concept; those that are not finite are left out."""
        on_shown, on_others = every[self.places[name]], control[self.others[name]]
        on_shown, on_others = (values[np.isfinite(values)] for values in (on_shown, on_others))
        return auc(on_shown, on_others), mad(on_shown, on_others)


def _activations(ref: ActivationsRef, layer: str, rows: Numbers, neurons: Rows) -> Floats:
    """Of some neurons on some images."""
    of = replace(ref, rows=torch.from_numpy(rows))
    blocks = recorded.activations(of, len(rows), layer, slice(neurons.start, neurons.stop))
    found: Floats = torch.cat([block for _, block in blocks]).double().numpy()
    return found


def _drawn(rows: Numbers, most: int, seed: int) -> Numbers:
    """At most so many of the rows, rising."""
    if len(rows) <= most:
        return rows
    return np.sort(np.random.default_rng(seed).choice(rows, most, replace=False))
