"""Published networks that no library has, as targets: `--target tests.real_models:cifar_resnet20`."""

from __future__ import annotations

from collections.abc import Callable

import torch
from PIL.Image import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms import v2


class BasicBlock(nn.Module):
    """Two 3 × 3 convolutions; the shortcut has no parameters (option A of He et al. 2016, section 4.2)."""

    def __init__(self, num_in: int, num_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(num_in, num_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(num_out)
        self.conv2 = nn.Conv2d(num_out, num_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(num_out)
        self.stride, self.num_added = stride, num_out - num_in

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        half = self.num_added // 2
        shortcut = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, half))
        return F.relu(y + shortcut)


class CifarResNet(nn.Module):
    """ResNet for 32 × 32 images: 3 stages of `num_blocks` blocks with 16, 32 and 64 channels."""

    def __init__(self, num_blocks: int, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._stage(16, 16, num_blocks, 1)
        self.layer2 = self._stage(16, 32, num_blocks, 2)
        self.layer3 = self._stage(32, 64, num_blocks, 2)
        self.linear = nn.Linear(64, num_classes)

    @staticmethod
    def _stage(num_in: int, num_out: int, num_blocks: int, stride: int) -> nn.Sequential:
        first = BasicBlock(num_in, num_out, stride)
        return nn.Sequential(first, *(BasicBlock(num_out, num_out, 1) for _ in range(num_blocks - 1)))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))


def cifar_resnet20() -> tuple[nn.Module, Callable[[Image], Tensor]]:
    """ResNet-20 for CIFAR-10, and its preprocessing."""
    preprocess = v2.Compose(
        [
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]),
        ]
    )
    return CifarResNet(3, 10), preprocess
