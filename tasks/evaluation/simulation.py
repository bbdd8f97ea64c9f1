"""Simulation: does what CLIP says of label and image predict the neuron's activation?

T. Oikarinen and T.-W. Weng, "Linear Explanations for Individual Neurons", ICML 2024, section 4: a label is as good as
the correlation of the neuron's activations and of those that a simulator, which is told the label alone, predicts on
images. Theirs predicts by SigLIP's probability of the label; this one by the cosine of image and label in the CLIP
space of the run.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import numpy as np
import numpy.typing as npt
from torch import Tensor

from storage.completion import Rows, steps
from tasks import recorded
from tasks.dissection.faithfulness import Correlation
from tasks.labelling import LabelPlan
from tasks.relabel import of_images

#: Neurons whose activations are read at a time: of a shard group 32 MiB, and as much of each prediction.
NEURONS_AT_A_TIME = 512

Floats = npt.NDArray[np.float64]


def simulation_correlations(plan: LabelPlan, layer: str, images: Tensor, labels: Sequence[Tensor]) -> list[Floats]:
    """Pearson's correlation of prediction and activation of each neuron `[N]` on some images, for each of `labels`.

    `images` are rows `[H]` (rising) of the probe set.

    One of `labels` holds unit embeddings `[N, D]`, a row for the label of each neuron; NaN where it has none, and so
    is its correlation. Also NaN where a neuron has one activation on all images.
    """
    num_neurons, of = plan.activations.num_neurons[layer], of_images(plan, images)
    parts = [_of_some(of, layer, labels, some) for some in steps(Rows(0, num_neurons), NEURONS_AT_A_TIME)]
    return [np.concatenate(found) for found in zip(*parts, strict=True)]


def _of_some(plan: LabelPlan, layer: str, labels: Sequence[Tensor], neurons: Rows) -> list[Floats]:
    part = slice(neurons.start, neurons.stop)
    of = [embeddings[part].T for embeddings in labels]  # [D, n] each
    both = recorded.both(plan.embeddings, plan.activations, plan.probe.num_images, layer, part)
    blocks = ([Correlation.of(E @ T, A) for T in of] for E, A in both)
    merged = reduce(lambda found, block: [one.merge(other) for one, other in zip(found, block, strict=True)], blocks)
    return [one.finish() for one in merged]
