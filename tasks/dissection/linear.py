"""Layers that are linear: their weights, and whether they read what another layer gives.

Shapes: `I` images, `N` neurons of the layer, `M` of its input.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

#: Share of a neuron's sum of products by which it may be off, by what was kept and what was computed in.
ROUNDING = {"float32": 1e-5, "float16": 2.0**-10, "fp32": 1e-5, "fp16": 2.0**-8, "bf16": 2.0**-6}


@dataclass(frozen=True)
class LinearMap:
    """`y = weight @ x + bias`, `weight` `[N, M]` and `bias` `[N]`, float32."""

    weight: Tensor
    bias: Tensor


def linear_map(module: nn.Module) -> LinearMap | None:
    """What a linear layer, or a convolution of single pixels, does with the channels of its input; else None."""
    is_linear = isinstance(module, nn.Linear) and type(module).forward is nn.Linear.forward
    if not is_linear and not _is_of_single_pixels(module):
        return None
    weight = module.weight
    assert isinstance(weight, Tensor)
    weight = weight.detach().float().flatten(1).cpu()  # [N, M]
    bias = module.bias.detach().float().cpu() if isinstance(module.bias, Tensor) else torch.zeros(len(weight))
    return LinearMap(weight, bias)


def _is_of_single_pixels(module: nn.Module) -> bool:
    # With a stride or padding, the mean of its output is not made of the mean of its input.
    return (
        isinstance(module, nn.Conv2d)
        and set(module.kernel_size) == set(module.stride) == {1}
        and module.groups == 1
        and module.padding in ((0, 0), "valid", "same")
    )


def reads(of: LinearMap, inputs: Tensor, outputs: Tensor, rounding: float = ROUNDING["float32"]) -> bool:
    """Whether activations `outputs [I, N]` are what the layer makes of `inputs [I, M]`, but for rounding.

    An image on which an input is not finite says nothing, nor does an output that is not. Where nothing is left, or
    the inputs add nothing to any bias, it is not known, and so not said.
    """
    usable = inputs.isfinite().all(1)
    X, Y = inputs[usable].double(), outputs[usable].double()  # [i, M], [i, N]
    W = of.weight.double()
    made = X @ W.T  # [i, N]
    tolerance = rounding * (X.abs() @ W.abs().T + of.bias.double().abs())
    error = (Y - of.bias.double() - made).abs()
    counts = Y.isfinite()
    is_told = (counts & (made.abs() > 2 * tolerance)).any()
    return bool(is_told and (error <= tolerance)[counts].all())
