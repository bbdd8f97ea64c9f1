"""A network tried on a few images before it is run on all of them."""

from __future__ import annotations

from collections.abc import Mapping
from weakref import WeakKeyDictionary

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tasks.dissection.batch_check import NUM_TRIAL_IMAGES, refuse_batch_dependence
from tasks.dissection.layouts import Layout
from tasks.models.devices import held_device
from tasks.models.errors import ModelError
from tasks.models.preprocess import Preprocess
from tasks.models.targets import Target, load_target, weights_are_random
from tasks.parameters import TargetSpec

#: How often the preprocessing of an image is tried: a flip by chance is missed once in 64 times.
REPEATS = 3
#: Layers that were tried, by network: a run asks in its plan of everything, and before it records.
_tried: WeakKeyDictionary[Target, set[str]] = WeakKeyDictionary()
#: Notes on networks that were asked for.
_noted: WeakKeyDictionary[Target, tuple[str, ...]] = WeakKeyDictionary()


def try_network(target: Target, layouts: Mapping[str, Layout]) -> None:
    """Raises `LayerError` where activations of an image depend on other images or on chance, `ModelError` where its
    input does. Each layer of a network is tried once in a process.
    """
    tried = _tried.setdefault(target, set())
    layouts = {name: layout for name, layout in layouts.items() if name not in tried}
    if not layouts:
        return
    images = trial_images(target.preprocess)
    parameter = next((one for one in target.model.parameters() if one.is_floating_point()), images)
    with held_device("cpu"):
        refuse_batch_dependence(target.model, images.to(parameter.dtype), layouts)
    tried.update(layouts)


def network_notes(spec: TargetSpec) -> tuple[str, ...]:
    """Returns what whoever reads the labels should know of the network: a preprocessing or weights that it lacks."""
    target = load_target(*spec.network)
    if target not in _noted:
        untrained = spec.checkpoint is None and weights_are_random(target)
        _noted[target] = target.notes + (_UNTRAINED.format(name=spec.target),) * untrained
    return _noted[target]


#: Note on a function that draws weights at random.
_UNTRAINED = (
    "{name} draws weights at random: another network each time, if its random numbers did not begin at seed 0 here. "
    "Where that is not meant, load trained weights in the function, or give --checkpoint FILE."
)


def trial_images(preprocess: Preprocess) -> Tensor:
    """Pictures of coarse and fine noise, preprocessed, `[NUM_TRIAL_IMAGES, C, H, W]`.

    Raises `ModelError` where the preprocessing makes another input of the same picture each time.
    """
    pictures = [_picture(seed) for seed in range(NUM_TRIAL_IMAGES)]
    images = [preprocess(picture) for picture in pictures]
    for picture, image in zip(pictures, images, strict=True):
        for _ in range(REPEATS - 1):
            if not torch.equal(torch.as_tensor(preprocess(picture)), torch.as_tensor(image)):
                raise ModelError(
                    "The preprocessing makes another input of the same image each time, as random crops and flips "
                    "do, so that activations would be by chance. Use the one for evaluation, or --preprocess."
                )
    return torch.stack([torch.as_tensor(image) for image in images])


def _picture(seed: int) -> Image.Image:
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 200, (4, 4, 3), dtype=np.uint8)
    fine = random.integers(0, 56, (64, 64, 3), dtype=np.uint8)
    return Image.fromarray(np.kron(coarse, np.ones((16, 16, 1), dtype=np.uint8)) + fine)
