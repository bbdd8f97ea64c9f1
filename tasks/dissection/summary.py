"""Summary functions: one number per neuron and image from a layer's output (paper section 3.1, step 2; A.3, A.5).

A layer's output is a vector per image, a map (channels first or last) or a row of tokens. Which axes to pool
follows from its `Layout`, found once per layer by `layers.trace`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import Enum
from typing import Literal

import torch
from torch import Tensor

from tasks.dissection.errors import LayerError

SummaryName = Literal["mean", "max", "class_token", "token_mean", "token_max"]


class Layout(Enum):
    """Where an output `[B, ...]` keeps its neurons."""

    VECTOR = "vector"  # [B, N]
    MAP = "map"  # [B, N, ...], spatial axes last
    MAP_CHANNELS_LAST = "map, channels last"  # [B, H, W, N], as in Swin
    TOKENS = "tokens"  # [B, T, N]

    @classmethod
    def of(cls, shape: tuple[int, ...], name: str) -> Layout:
        """Of the shape `[B, ...]` of layer `name`'s output for square images.

        A 4-D output whose axes 1 and 2 are equal, and differ from axis 3, keeps its neurons last: a square
        image gives a square map. Where all three are equal, channels come first, torch's own order.
        """
        if len(shape) == 2:
            return cls.VECTOR
        if len(shape) == 3:
            return cls.TOKENS
        if len(shape) == 4:
            return cls.MAP_CHANNELS_LAST if shape[1] == shape[2] != shape[3] else cls.MAP
        if len(shape) == 5:
            return cls.MAP
        raise LayerError(
            f"Layer {name!r} gives an output of shape {list(shape)}: {len(shape)} axes. "
            "Neurons are read from outputs of 2 (vector), 3 (tokens), 4 or 5 axes (map)."
        )

    def positions(self, output: Tensor) -> Tensor:
        """`output` as `[B, T, N]`: a vector has one position, a map `H·W`, tokens are what they are."""
        if self is Layout.VECTOR:
            return output[:, None]
        if self is Layout.MAP:
            return output.flatten(2).transpose(1, 2)
        if self is Layout.MAP_CHANNELS_LAST:
            return output.flatten(1, 2)
        return output


def summarise(output: Tensor, layout: Layout, summary: SummaryName, name: str) -> Tensor:
    """Activations `[B, N]` of layer `name` from its output, in a tensor of its own.

    Raises `LayerError` where the summary function does not fit the layout.
    """
    positions = layout.positions(output)  # [B, T, N]
    if layout is not Layout.VECTOR:
        return SUMMARIES[summary](positions, layout, name)
    # A copy: the layer's own output may be overwritten by an in-place operation that follows it.
    return positions[:, 0].clone()


def num_class_tokens(num_tokens: int) -> int:
    """1 where a class token stands before a square of patch tokens, 0 where the tokens are such a square."""
    return 0 if math.isqrt(num_tokens) ** 2 == num_tokens else 1


def _mean(positions: Tensor, layout: Layout, name: str) -> Tensor:
    del layout, name
    return positions.mean(1)


def _max(positions: Tensor, layout: Layout, name: str) -> Tensor:
    del layout, name
    return positions.amax(1)


def _class_token(positions: Tensor, layout: Layout, name: str) -> Tensor:
    _needs_tokens(layout, name, "class_token")
    if num_class_tokens(positions.shape[1]) == 0:
        raise LayerError(
            f"Layer {name!r} gives {positions.shape[1]} tokens, a square of patches: it has no class token. "
            "Use token_mean or token_max."
        )
    return positions[:, 0].clone()


def _token_mean(positions: Tensor, layout: Layout, name: str) -> Tensor:
    _needs_tokens(layout, name, "token_mean")
    return positions[:, num_class_tokens(positions.shape[1]) :].mean(1)


def _token_max(positions: Tensor, layout: Layout, name: str) -> Tensor:
    _needs_tokens(layout, name, "token_max")
    return positions[:, num_class_tokens(positions.shape[1]) :].amax(1)


def _needs_tokens(layout: Layout, name: str, summary: str) -> None:
    if layout is not Layout.TOKENS:
        raise LayerError(
            f"Summary function {summary} needs tokens, and layer {name!r} gives a {layout.value}. Use mean or max."
        )


#: By name: mean and max over all positions (all tokens, the class token among them), the class token,
#: mean and max over the patch tokens. On vectors every summary function is the vector itself.
SUMMARIES: dict[SummaryName, Callable[[Tensor, Layout, str], Tensor]] = {
    "mean": _mean,
    "max": _max,
    "class_token": _class_token,
    "token_mean": _token_mean,
    "token_max": _token_max,
}


def first_tensor(output: object, name: str) -> Tensor:
    """The tensor in a layer's output: itself, or the first of a tuple or list (attention gives two)."""
    if isinstance(output, (tuple, list)) and output:
        output = output[0]
    if isinstance(output, Tensor) and torch.is_floating_point(output):
        return output
    raise LayerError(
        f"Layer {name!r} gives {type(output).__name__}, from which no activations can be read. "
        "Choose a layer inside or after it whose output is a tensor of floats."
    )
