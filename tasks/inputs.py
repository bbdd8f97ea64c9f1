"""What a linear layer reads: its weights, and which recorded layer's neurons they are of.

Which layer that is, is no matter of names: it is the one whose recorded activations, put through the weights, give
those recorded of the linear layer.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from storage.completion import Rows
from tasks.dissection.linear import ROUNDING, LinearMap, linear_map, reads
from tasks.models.errors import ModelError
from tasks.models.targets import Target
from tasks.observation import ActivationsRef
from tasks.recorded import activations_of_rows

#: Images whose activations are put through the weights.
IMAGES_CHECKED = 64


@dataclass(frozen=True)
class LinearInputs:
    """What a linear layer of `N` neurons makes of its `M` inputs."""

    #: `[N, M]` float32.
    weight: Tensor
    #: `[N]` float32.
    bias: Tensor
    #: The recorded layer whose `M` neurons the inputs are; None where that is not known.
    input_layer: str | None


def linear_inputs(target: Target, of: ActivationsRef, num_images: int, layer: str) -> LinearInputs | None:
    """Weights of a layer of a recording, and the layer of it that they are of; None where the layer is not linear.

    `target` is the network that was recorded: raises `ModelError` where it is another. A recording of top images
    alone cannot tell which layer is read.
    """
    _refuse_another(target, of)
    module = dict(target.model.named_modules()).get(layer)  # none where a layer is one of a module's tensors
    found = linear_map(module) if module else None
    if found is None:
        return None
    return LinearInputs(found.weight, found.bias, _input_layer(found, of, num_images, layer))


def _input_layer(of: LinearMap, recording: ActivationsRef, num_images: int, layer: str) -> str | None:
    if recording.kept == "top":
        return None
    width = of.weight.shape[1]
    candidates = [name for name, size in recording.num_neurons.items() if size == width and name != layer]
    if not candidates:
        return None
    rounding = max(ROUNDING[recording.kept], ROUNDING[str(recording.identity.get("precision", "fp32"))])
    first = Rows(0, min(IMAGES_CHECKED, num_images))
    outputs = activations_of_rows(recording, layer, first)
    # Of layers that say the same, such as a stage and its last block, the one that comes last.
    for name in reversed(candidates):
        if reads(of, activations_of_rows(recording, name, first), outputs, rounding):
            return name
    return None


def _refuse_another(target: Target, of: ActivationsRef) -> None:
    other = [name for name, value in target.identity.items() if of.identity.get(name) != value]
    if other:
        raise ModelError(
            f"{target.name} is another network than the one that was recorded (different: {', '.join(other)}). Give "
            "the same weights and code, or run again."
        )
