"""Preprocessing: from a decoded image to a network's input, and what names it."""

from __future__ import annotations

import hashlib
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import cast

from PIL import Image
from torch import Tensor

#: From an RGB image to the network's input `[3, H, W]`.
Preprocess = Callable[[Image.Image], Tensor]


def describe(preprocess: Preprocess) -> str:
    """A text that changes when the preprocessing does. Transforms of torchvision say all in their repr."""
    if inspect.isfunction(preprocess):
        return f"{preprocess.__module__}.{preprocess.__qualname__} {source_digest(inspect.getmodule(preprocess))}"
    return re.sub(r" at 0x[0-9a-f]+", "", repr(preprocess))


def source_digest(module: ModuleType | None) -> str:
    """SHA-256 of a module's source: an edit to the code that makes a network makes another network."""
    file = getattr(module, "__file__", None)
    return hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else ""


def imagenet_preprocess() -> Preprocess:
    """Resize to 256, centre crop of 224, ImageNet mean and standard deviation: where a network brings none."""
    from torchvision.transforms._presets import ImageClassification

    return cast(Preprocess, ImageClassification(crop_size=224))


def image_shape(preprocess: Preprocess) -> tuple[int, ...]:
    """Shape `[3, H, W]` of the input that a preprocessing makes."""
    return tuple(preprocess(Image.new("RGB", (64, 64))).shape)
