"""Networks small enough to reason about."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.models import resnet18


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


def some_images(num_images: int, size: int, seed: int = 0) -> Tensor:
    return torch.randn(num_images, 3, size, size, generator=torch.Generator().manual_seed(seed))


class Autoencoded(nn.Module):
    """A network, and the encoder of a sparse autoencoder that reads one of its layers, each run once in a pass."""

    def __init__(self, net: nn.Module, layer: str, sae: nn.Module) -> None:
        super().__init__()
        self.net, self.sae = net, sae
        net.get_submodule(layer).register_forward_hook(self.encode)

    def encode(self, module: nn.Module, args: object, output: Tensor) -> None:
        self.sae(output)

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images)


def autoencoded_vectors() -> nn.Module:
    """Codes `[B, 4096]`."""
    sae = nn.Sequential(nn.Flatten(), nn.Linear(512, 4096), nn.ReLU())
    return Autoencoded(resnet18(weights=None), "avgpool", sae)


def autoencoded_pixels() -> nn.Module:
    """Codes `[B, T, 4096]`, a row of them per pixel."""
    sae = nn.Sequential(PixelsAsTokens(), nn.Linear(128, 4096), nn.ReLU())
    return Autoencoded(resnet18(weights=None), "layer2", sae)


def autoencoded_maps() -> nn.Module:
    """Codes `[B, 4096, H, W]`."""
    sae = nn.Sequential(nn.Conv2d(128, 4096, 1), nn.ReLU())
    return Autoencoded(resnet18(weights=None), "layer2", sae)


class PixelsAsTokens(nn.Module):
    """A map `[B, N, H, W]` as tokens `[B, T, N]`."""

    def forward(self, maps: Tensor) -> Tensor:
        return maps.flatten(2).transpose(1, 2)
