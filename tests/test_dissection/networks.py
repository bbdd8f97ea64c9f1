"""Networks small enough to reason about, and the ResNet-20 whose weights stand in the real data."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F


class Attended(nn.Module):
    """Patches as tokens, then an attention whose output is a tuple (tokens, weights)."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, stride=4)
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.head = nn.Linear(width, 5)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2)  # [B, T, width]
        tokens, _ = self.attention(tokens, tokens, tokens)
        return self.head(tokens.mean(1))


class Repeated(nn.Module):
    """One ReLU module after two convolutions, as the blocks of torchvision's ResNets have it."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3)
        self.second = nn.Conv2d(4, 4, 3)
        self.relu = nn.ReLU()

    def forward(self, images: Tensor) -> Tensor:
        return self.relu(self.second(self.relu(self.first(images))))


class ResNet20(nn.Module):
    """He et al. 2016, section 4.2: three stages of three blocks for CIFAR-10, shortcuts without parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(*(Block(16, 16) for _ in range(3)))
        self.layer2 = nn.Sequential(Block(16, 32), Block(32, 32), Block(32, 32))
        self.layer3 = nn.Sequential(Block(32, 64), Block(64, 64), Block(64, 64))
        self.linear = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        maps = F.relu(self.bn1(self.conv1(images)))
        maps = self.layer3(self.layer2(self.layer1(maps)))
        return self.linear(maps.mean((2, 3)))

    @classmethod
    def of(cls, weights: Path) -> ResNet20:
        network = cls()
        network.load_state_dict(load_file(weights))
        return network.eval()


class Block(nn.Module):
    def __init__(self, num_in: int, num_out: int) -> None:
        super().__init__()
        self.stride = num_out // num_in
        self.num_zeros = (num_out - num_in) // 2
        self.conv1 = nn.Conv2d(num_in, num_out, 3, stride=self.stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(num_out)
        self.conv2 = nn.Conv2d(num_out, num_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(num_out)

    def forward(self, maps: Tensor) -> Tensor:
        # Option A: every second pixel, as many channels of zeros on both sides.
        kept = maps[:, :, :: self.stride, :: self.stride]
        shortcut = F.pad(kept, (0, 0, 0, 0, self.num_zeros, self.num_zeros))
        maps = F.relu(self.bn1(self.conv1(maps)))
        return F.relu(self.bn2(self.conv2(maps)) + shortcut)


def some_images(num_images: int, size: int, seed: int = 0) -> Tensor:
    return torch.randn(num_images, 3, size, size, generator=torch.Generator().manual_seed(seed))
