"""Where a layer's output keeps its neurons, found from what a trace saw of it at two sizes of image.

Spatial axes grow with the image and the neuron axis does not; the axis of images is the one that is as long as the
batch. Where a network takes one size only, or an output does not grow (after global pooling), the number of axes and
the shape of the image decide.

Tokens that are no patch (class token, distillation token, registers) stand before the patches, a class token first.
There are as many as do not grow with the image; else as many as the network says in `num_prefix_tokens`; else none or
one, whichever leaves patches that cover the image in rows and columns; else it is not known.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

from tasks.dissection.errors import LayerError


class Axes(Enum):
    """The order of an output's axes."""

    VECTOR = "vector"  # [B, N]
    MAP = "map"  # [B, N, ...], spatial axes last
    MAP_CHANNELS_LAST = "map, channels last"  # [B, ..., N], as in Swin
    TOKENS = "tokens"  # [B, T, N]
    TOKENS_FIRST = "tokens before images"  # [T, B, N]


@dataclass(frozen=True)
class Layout:
    """Where an output keeps its neurons, and its tokens that are no patch of the image."""

    axes: Axes
    #: Tokens before those of the patches: class token, distillation token, registers. None where it is not known.
    num_prefix_tokens: int | None = None
    #: Whether the first of them is a class token.
    has_class_token: bool = True

    @property
    def is_tokens(self) -> bool:
        """Whether the output is a row of tokens."""
        return self.axes in (Axes.TOKENS, Axes.TOKENS_FIRST)

    @property
    def image_axis(self) -> int:
        """The axis of images."""
        return 1 if self.axes is Axes.TOKENS_FIRST else 0

    @property
    def neuron_axis(self) -> int:
        """The axis of neurons in the shape of one image's output."""
        return 0 if self.axes is Axes.MAP else -1

    def __str__(self) -> str:
        prefix = f", {self.num_prefix_tokens} before the patches" if self.is_tokens and self.num_prefix_tokens else ""
        return self.axes.value + prefix


@dataclass(frozen=True)
class Seen:
    """A layer's output in one forward pass."""

    shape: tuple[int, ...]
    num_images: int


@dataclass(frozen=True)
class PrefixTokens:
    """What a network says of the tokens before its patches (timm's `num_prefix_tokens`, `has_class_token`)."""

    num_tokens: int
    has_class_token: bool


def find_layout(
    name: str, image_size: tuple[int, int], seen: Seen, other: Seen | None, said: PrefixTokens | None
) -> tuple[Layout, tuple[int, ...]]:
    """The layout of layer `name`, and the shape of its output for one image.

    `seen` is the output for images of `image_size` (H, W); `other` that for another number of images, of twice that
    size where the network takes it, and None where the layer gave nothing then. Raises `LayerError` where there is
    no row per image, or the axis of neurons cannot be told.
    """
    image_axis = _image_axis(seen, other)
    if image_axis is None:
        raise LayerError(
            f"Layer {name!r} gives {list(seen.shape)} for {seen.num_images} images, which has no row per image. "
            "Choose a layer inside or after it."
        )
    shape = _without(seen.shape, image_axis)
    if 0 in shape:
        raise LayerError(f"Layer {name!r} gives {list(shape)} for an image, which holds no number. Choose another.")
    other_shape = _without(other.shape, image_axis) if other and len(other.shape) == len(seen.shape) else shape
    axes = Axes.TOKENS_FIRST if image_axis else _axes(shape, other_shape, image_size)
    if axes is None:
        grown = f" and {list(other_shape)} for one of another size" if other_shape != shape else ""
        raise LayerError(
            f"Layer {name!r} gives {list(shape)} for an image{grown}: which axis holds its neurons cannot be told. "
            "Neurons are read from vectors, maps (channels first or last) and tokens. Choose the block around it."
        )
    layout = Layout(axes)
    if layout.is_tokens:
        num_prefix = _num_prefix_tokens(shape[0], other_shape[0], image_size, said)
        layout = Layout(axes, num_prefix, said is None or said.has_class_token)
    return layout, shape


def _image_axis(seen: Seen, other: Seen | None) -> int | None:
    # Only tokens stand before images anywhere; a first axis of other lengths counts windows, or heads of all images.
    for axis in range(2 if len(seen.shape) == 3 else min(1, len(seen.shape))):
        also = other is None or len(other.shape) != len(seen.shape) or other.shape[axis] == other.num_images
        if seen.shape[axis] == seen.num_images and also:
            return axis
    return None


def _without(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return shape[:axis] + shape[axis + 1 :]


def _axes(shape: tuple[int, ...], other: tuple[int, ...], image_size: tuple[int, int]) -> Axes | None:
    """Of the shape of one image's output, and that for an image of another size."""
    last = len(shape) - 1
    if last == 0:
        return Axes.VECTOR
    if last not in (1, 2, 3):
        return None
    grows = {axis for axis in range(last + 1) if shape[axis] != other[axis]}
    if grows == set(range(last)):
        return Axes.TOKENS if last == 1 else Axes.MAP_CHANNELS_LAST
    # Of a video's three axes, time need not grow.
    if grows and 0 not in grows and grows >= {max(1, last - 1), last}:
        return Axes.MAP
    if grows:
        return None
    if last == 1:
        return Axes.TOKENS
    if last == 3 or _is_map(shape[1], shape[2], image_size):
        return Axes.MAP
    return Axes.MAP_CHANNELS_LAST if _is_map(shape[0], shape[1], image_size) else None


def _is_map(height: int, width: int, image_size: tuple[int, int]) -> bool:
    return height == width or _is_proportional(height, width, image_size)  # a square: pooled to one size


def _is_proportional(height: int, width: int, image_size: tuple[int, int]) -> bool:
    """Whether sides are in the proportion of the image's, but for rounding to whole pixels."""
    image_height, image_width = image_size
    return abs(width * image_height - height * image_width) < max(image_size)


def _num_prefix_tokens(
    num_tokens: int, num_tokens_grown: int, image_size: tuple[int, int], said: PrefixTokens | None
) -> int | None:
    """How many of `num_tokens` stand before the patches: as they grew, as the network says, or as patches leave."""
    # Twice the size has four times the patches, and as many tokens before them.
    num_prefix, rest = divmod(4 * num_tokens - num_tokens_grown, 3)
    if num_tokens_grown != num_tokens and rest == 0 <= num_prefix and _is_grid(num_tokens - num_prefix, image_size):
        return num_prefix
    if said and num_tokens == said.num_tokens:
        return num_tokens  # the class token alone, as the last blocks of CaiT pass it on
    if said and num_tokens > said.num_tokens:
        num_patches = num_tokens - said.num_tokens
        if _is_grid(num_patches, image_size) or not _is_grid(num_tokens, image_size):
            return said.num_tokens
    return next((number for number in (0, 1) if _is_grid(num_tokens - number, image_size)), None)


def _is_grid(num_patches: int, image_size: tuple[int, int]) -> bool:
    """Whether patches can cover the image in rows and columns: a square of them a square image."""
    short_sides = (side for side in range(1, math.isqrt(num_patches) + 1) if num_patches % side == 0)
    return any(
        _is_proportional(side, num_patches // side, image_size)
        or _is_proportional(num_patches // side, side, image_size)
        for side in short_sides
    )
