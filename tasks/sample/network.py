"""The small convnet to dissect: it names the shape in a 64 x 64 picture of the drawn world."""

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tasks.sample import CLASSIFIER_WEIGHTS

_WIDTHS = (16, 32, 64, 96, 128)


def _block(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False),
            bn=nn.BatchNorm2d(channels_out),
            relu=nn.ReLU(),
            pool=nn.MaxPool2d(2),
        )
    )


def _stem(channels_out: int) -> nn.Sequential:
    """The first block: a stride instead of a pool, for a quarter of the work at full resolution."""
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(3, channels_out, 5, stride=2, padding=2, bias=False),
            bn=nn.BatchNorm2d(channels_out),
            relu=nn.ReLU(),
        )
    )


class SampleNet(nn.Module):
    """Five convolution blocks `block1`..`block5`, each halving the side, a global mean and `head`."""

    def __init__(self, num_classes: int = 20) -> None:
        super().__init__()
        self.block1 = _stem(_WIDTHS[0])
        self.block2 = _block(_WIDTHS[0], _WIDTHS[1])
        self.block3 = _block(_WIDTHS[1], _WIDTHS[2])
        self.block4 = _block(_WIDTHS[2], _WIDTHS[3])
        self.block5 = _block(_WIDTHS[3], _WIDTHS[4])
        self.head = nn.Linear(_WIDTHS[4], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return class scores [B, 20] of images [B, 3, 64, 64] made by `preprocess`."""
        x = self.block1(images)  # [B, 16, 32, 32]
        x = self.block2(x)  # [B, 32, 16, 16]
        x = self.block3(x)  # [B, 64, 8, 8]
        x = self.block4(x)  # [B, 96, 4, 4]
        x = self.block5(x)  # [B, 128, 2, 2]
        scores: Tensor = self.head(x.mean(dim=(2, 3)))  # [B, 20]
        return scores


def normalised(pixels: Tensor) -> Tensor:
    """Bring pixels, uint8 of any shape, to float32 in [-2, 2]."""
    return (pixels.to(torch.float32) - 127.5) / 63.75


def preprocess(image: Any) -> Tensor:
    """Turn one RGB picture of 64 x 64 pixels (PIL image or array [64, 64, 3]) into float32 [3, 64, 64].

    Raises:
        ValueError: The picture has another size or another number of channels.
    """
    pixels = np.array(image, dtype=np.uint8)
    if pixels.shape != (64, 64, 3):
        raise ValueError(f"the sample network takes pictures of shape (64, 64, 3), got {pixels.shape}")
    return normalised(torch.from_numpy(pixels)).permute(2, 0, 1)


def target(weights: Path = CLASSIFIER_WEIGHTS) -> tuple[nn.Module, Callable[[Any], Tensor]]:
    """Return the trained network in evaluation mode, and its preprocessing."""
    network = SampleNet()
    network.load_state_dict(load_file(weights))  # float16 on disk, copied into float32 parameters
    return network.eval(), preprocess
