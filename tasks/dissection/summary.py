"""Summary functions: one number per neuron and image from a layer's output (paper section 3.1, step 2; A.3, A.5).

A layer's output is a vector per image, a map (channels first or last) or a row of tokens. Which axes to pool
follows from its `Layout`, found once per layer by `layers.trace`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from tasks.dissection.errors import LayerError
from tasks.dissection.layouts import Axes, Layout

SummaryName = Literal["mean", "max", "class_token", "token_mean", "token_max"]


def summarise(output: Tensor, layout: Layout, summary: SummaryName, name: str) -> Tensor:
    """Activations `[B, N]` of layer `name` from its output, in a tensor of its own.

    Raises `LayerError` where the summary function does not fit the layout.
    """
    if layout.axes is Axes.VECTOR:
        # A copy: the layer's own output may be overwritten by an in-place operation that follows it.
        return output.clone()
    return SUMMARIES[summary](_positions(output, layout.axes), layout, name)


def _positions(output: Tensor, axes: Axes) -> Tensor:
    """A map's pixels, or tokens, as `[B, T, N]`."""
    if axes is Axes.MAP:
        return output.flatten(2).transpose(1, 2)
    if axes is Axes.MAP_CHANNELS_LAST:
        return output.flatten(1, -2)
    return output.transpose(0, 1) if axes is Axes.TOKENS_FIRST else output


def _mean_of(positions: Tensor) -> Tensor:
    # A mean rounded to half precision would tie thousands of images.
    return positions.mean(1, dtype=torch.promote_types(positions.dtype, torch.float32))


def _mean(positions: Tensor, layout: Layout, name: str) -> Tensor:
    del layout, name
    return _mean_of(positions)


def _max(positions: Tensor, layout: Layout, name: str) -> Tensor:
    del layout, name
    return positions.amax(1)


def _class_token(positions: Tensor, layout: Layout, name: str) -> Tensor:
    if _num_prefix_tokens(positions, layout, name, "class_token") == 0:
        raise LayerError(
            f"Layer {name!r} gives {positions.shape[1]} tokens, all of them patches: it has no class token. "
            "Use token_mean or token_max."
        )
    if not layout.has_class_token:
        raise LayerError(
            f"Layer {name!r} gives {layout.num_prefix_tokens} tokens before its patches, and they are registers: "
            "it has no class token. Use token_mean or token_max."
        )
    return positions[:, 0].clone()


def _token_mean(positions: Tensor, layout: Layout, name: str) -> Tensor:
    return _mean_of(_patches(positions, layout, name, "token_mean"))


def _token_max(positions: Tensor, layout: Layout, name: str) -> Tensor:
    return _patches(positions, layout, name, "token_max").amax(1)


def _patches(positions: Tensor, layout: Layout, name: str, summary: str) -> Tensor:
    patches = positions[:, _num_prefix_tokens(positions, layout, name, summary) :]
    if patches.shape[1] == 0:
        raise LayerError(
            f"Layer {name!r} gives {positions.shape[1]} tokens, none of them a patch. Use class_token, mean or max."
        )
    return patches


def _num_prefix_tokens(positions: Tensor, layout: Layout, name: str, summary: str) -> int:
    if not layout.is_tokens:
        raise LayerError(
            f"Summary function {summary} needs tokens, and layer {name!r} gives a {layout}. Use mean or max."
        )
    if layout.num_prefix_tokens is None:
        raise LayerError(
            f"Layer {name!r} gives {positions.shape[1]} tokens, and neither so many patches nor one fewer cover the "
            "image in rows and columns: which are patches cannot be told. Use mean or max, or let the network say "
            "it: a module around the layer with an attribute num_prefix_tokens."
        )
    return layout.num_prefix_tokens


#: By name: mean and max over all positions (all tokens, those before the patches among them), the class token, mean
#: and max over the tokens of patches alone. On vectors every summary function is the vector itself.
SUMMARIES: dict[SummaryName, Callable[[Tensor, Layout, str], Tensor]] = {
    "mean": _mean,
    "max": _max,
    "class_token": _class_token,
    "token_mean": _token_mean,
    "token_max": _token_max,
}
