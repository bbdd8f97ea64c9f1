"""Preprocessing: from a decoded image to a network's input, and what names it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import cast

from PIL import Image
from torch import Tensor

from tasks.dissection.errors import UnknownNameError
from tasks.models.checkpoints import loading
from tasks.models.describe import Description
from tasks.models.user_code import import_from_here
from tasks.preprocess_choice import IMAGENET, PreprocessChoice

#: Letters of a description that people can still read; of a longer one the beginning is kept, and a digest.
LONGEST_TEXT = 4_000
#: From an RGB image to the network's input `[3, H, W]`.
Preprocess = Callable[[Image.Image], Tensor]


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
    return _users_preprocess(*chosen.function), chosen.function[0]


def _resized(chosen: PreprocessChoice) -> Preprocess:
    """Shorter side resized, centre cropped, in [0, 1], then normalised."""
    from torchvision.transforms._presets import ImageClassification

    made = ImageClassification(
        crop_size=chosen.size, resize_size=chosen.size, mean=list(chosen.mean), std=list(chosen.std)
    )
    return cast(Preprocess, made)


def _users_preprocess(module_name: str, name: str) -> Preprocess:
    with loading(only_tensors=False):
        module = import_from_here(module_name, f"--preprocess {module_name}:{name}")
    found = getattr(module, name, None)
    if not callable(found):
        known = [one for one, value in vars(module).items() if callable(value) and not isinstance(value, type)]
        raise UnknownNameError.of("preprocessing", name, known, f"{module_name} has {', '.join(known) or 'none'}.")
    return cast(Preprocess, found)


def imagenet_preprocess() -> Preprocess:
    """Resize to 256, centre crop of 224, ImageNet mean and standard deviation: where a network brings none."""
    from torchvision.transforms._presets import ImageClassification

    return cast(Preprocess, ImageClassification(crop_size=224))


def image_shape(preprocess: Preprocess) -> tuple[int, ...]:
    """Shape `[3, H, W]` of the input that a preprocessing makes."""
    return tuple(preprocess(Image.new("RGB", (64, 64))).shape)
