"""Preprocessing: from a decoded image to a network's input, and what names it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tasks.dissection.errors import UnknownNameError
from tasks.models.checkpoints import loading
from tasks.models.describe import Description
from tasks.models.errors import ModelError, error_with_kind
from tasks.models.functions import imported
from tasks.preprocess_choice import IMAGENET, PreprocessChoice

#: Letters of a description that people can still read; of a longer one the beginning is kept, and a digest.
LONGEST_TEXT = 4_000
#: From an RGB image to the network's input `[3, H, W]`.
Preprocess = Callable[[Image.Image], Tensor]
#: The entry of what processors of transformers return that holds the image.
PIXELS = "pixel_values"
#: Side of the blank image that preprocessings are tried on.
BLANK_SIZE = 64


def describe(preprocess: Preprocess, root: str | None = None) -> str:
    """A text that changes when the preprocessing does: its settings, the user's own code, versions of libraries.

    `root` is the module that the user named.
    """
    description = Description(root=root)
    text = description.text(preprocess)
    if len(text) > LONGEST_TEXT:
        text = f"{text[: LONGEST_TEXT // 2]}… {hashlib.sha256(text.encode()).hexdigest()}"
    return f"{text} {description.code()}".strip()


def chosen_preprocess(text: str) -> tuple[Preprocess, str | None]:
    """The preprocessing that a user names by --preprocess, and the module of the user's that it is from.

    Raises `ModelError`.
    """
    if text == IMAGENET:
        return imagenet_preprocess(), None
    chosen = PreprocessChoice.of(text)
    if chosen.function is None:
        return _resized(chosen), None
    return _users_preprocess(text)


def _resized(chosen: PreprocessChoice) -> Preprocess:
    """Shorter side resized, centre cropped, in [0, 1], then normalised."""
    from torchvision.transforms._presets import ImageClassification

    made = ImageClassification(
        crop_size=chosen.size, resize_size=chosen.size, mean=list(chosen.mean), std=list(chosen.std)
    )
    return cast(Preprocess, made)


def _users_preprocess(text: str) -> tuple[Preprocess, str]:
    with loading(only_tensors=False):
        module = imported(text, "--preprocess")
    name = text.rpartition(":")[2]
    found = getattr(module, name, None)
    if not callable(found):
        known = [one for one, value in vars(module).items() if callable(value) and not isinstance(value, type)]
        way_out = f"{module.__name__} has {', '.join(known) or 'none'}."
        raise UnknownNameError.of("preprocessing", name, known, way_out)
    return cast(Preprocess, found), module.__name__


def imagenet_preprocess() -> Preprocess:
    """Resize to 256, centre crop of 224, ImageNet mean and standard deviation: where a network brings none."""
    from torchvision.transforms._presets import ImageClassification

    return cast(Preprocess, ImageClassification(crop_size=224))


def image_shape(preprocess: Preprocess) -> tuple[int, ...]:
    """Shape `[3, H, W]` of the input that a preprocessing makes."""
    return tuple(preprocess(_blank()).shape)


class OneImage:
    """A preprocessing that returns its tensor in another form, as one that returns the tensor `[3, H, W]`."""

    def __init__(self, preprocess: Callable[[Image.Image], Any]) -> None:
        self.preprocess = preprocess

    def __call__(self, image: Image.Image) -> Tensor:
        """The tensor. Raises `ModelError` where there is none in what the preprocessing returns."""
        return _image_tensor(self.preprocess(image))


def giving_tensors(preprocess: Any, name: str) -> Preprocess:
    """The preprocessing itself, or one that takes its tensor out of a dict, a batch of one image or an array.

    Tries it on a blank image. Raises `ModelError` where that fails or gives no image; `name` is the network's.
    """
    named = f"The preprocessing of {name}, {_named(preprocess)},"
    if not callable(preprocess):
        raise ModelError(f"{named} cannot be called. It takes a PIL image and returns a tensor [3, H, W].")
    try:
        made = preprocess(_blank())
    except Exception as error:
        raise ModelError(
            f"{named} fails on a blank image of {BLANK_SIZE} x {BLANK_SIZE} pixels ({error_with_kind(error)}). It "
            "takes a PIL image and returns a tensor [3, H, W]."
        ) from error
    try:
        is_plain = _image_tensor(made) is made
    except ModelError as error:
        raise ModelError(f"{named} is of no use here: {error}") from error
    return cast(Preprocess, preprocess) if is_plain else OneImage(preprocess)


def _blank() -> Image.Image:
    return Image.new("RGB", (BLANK_SIZE, BLANK_SIZE))


def _named(preprocess: Any) -> str:
    kind = preprocess if hasattr(preprocess, "__qualname__") else type(preprocess)
    return f"{kind.__module__}.{kind.__qualname__}"


def _image_tensor(made: Any) -> Tensor:
    """One image as a tensor, from what a preprocessing returned: the very object where it is one already."""
    found, is_batch = made, False
    if isinstance(found, Mapping):  # BatchFeature of transformers is one
        if PIXELS not in found:
            raise ModelError(f"it returns a dict of {', '.join(map(str, found)) or 'nothing'}, without {PIXELS}.")
        found, is_batch = found[PIXELS], True
    if isinstance(found, list | tuple) and len(found) == 1:
        found, is_batch = found[0], False
    if isinstance(found, np.ndarray) and found.dtype != object:
        found = torch.from_numpy(np.ascontiguousarray(found))
    if not isinstance(found, Tensor):
        raise ModelError(f"it returns {type(found).__name__}, not a tensor [3, H, W]: end it with ToTensor().")
    # Of four axes, the first is that of a batch, or of the channels of a video.
    if found.ndim > 3 and found.shape[0] == 1 and (is_batch or found.shape[1] == 3):
        found = found[0]
    if found.ndim < 3 or (found.ndim == 3 and found.shape[0] > 4 and found.shape[2] in (1, 3)):
        raise ModelError(
            f"it returns a tensor {list(found.shape)}, not [3, H, W]: the axis of channels comes first, as with "
            "ToTensor() or tensor.permute(2, 0, 1)."
        )
    return found
