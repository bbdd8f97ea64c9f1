"""Networks so small that what they do is known: targets of tests."""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import torch
from PIL.Image import Image
from torch import Tensor, nn
from torchvision.transforms import v2

from tasks.models import devices
from tests.test_dissection.networks import Autoencoded, PixelsAsTokens

#: Names the file that holds up runs of `held_up`.
HOLD_UP = "CLIP_DISSECT_HOLD_UP"
#: What they wait after: more images than a shard group's and those that tracing takes.
IMAGES_BEFORE_HOLD_UP = 300
to_tensor = v2.Compose([v2.Resize((8, 8)), v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)])


class ColourNet(nn.Module):
    """`conv` gives the red, green and blue of every pixel and a dead channel; `head` one neuron per colour."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1, bias=False)
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(4, 4, bias=False)
        with torch.no_grad():
            self.conv.weight.zero_()
            for channel in range(3):
                self.conv.weight[channel, channel] = 1.0
            self.head.weight.copy_(
                torch.tensor([[2.0, -1, -1, 0], [-1, 2.0, -1, 0], [-1, -1, 2.0, 0], [0.5, 0.5, 0.5, 0]])
            )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.relu(self.conv(x)).mean((2, 3)))


def colours() -> tuple[nn.Module, v2.Compose]:
    """The colour network and its preprocessing."""
    return ColourNet(), to_tensor


def light() -> tuple[nn.Module, None]:
    """A network that costs next to nothing, on images of 224 x 224."""
    return nn.Sequential(OrderedDict(conv=nn.Conv2d(3, 8, 16, 16), relu=nn.ReLU())), None


def small() -> tuple[nn.Module, v2.Compose]:
    """An untrained network of 448 neurons on images of 32 x 32, with maps and a head."""
    torch.manual_seed(0)
    convolutions = OrderedDict(conv1=nn.Conv2d(3, 64, 4, 4), relu=nn.ReLU(), conv2=nn.Conv2d(64, 256, 2, 2))
    net = nn.Sequential(
        convolutions | OrderedDict(pool=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten(), head=nn.Linear(256, 128))
    )
    return net, v2.Compose([v2.Resize((32, 32)), v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)])


def latents() -> tuple[nn.Module, v2.Compose]:
    """The colour network, and 2,048 latents of a sparse autoencoder for each pixel of its `conv`."""
    torch.manual_seed(0)
    return Autoencoded(ColourNet(), "relu", nn.Sequential(PixelsAsTokens(), nn.Linear(4, 2048), nn.ReLU())), to_tensor


def colours_with_function() -> tuple[nn.Module, object]:
    """The same with a plain function as its preprocessing."""
    return ColourNet(), preprocess


def preprocess(image: Image) -> Tensor:
    """The same as `to_tensor`."""
    return to_tensor(image)


def not_a_network() -> int:
    """What no target can be."""
    return 3


class NanNet(ColourNet):
    """Gives NaN for images that are mostly red."""

    def forward(self, x: Tensor) -> Tensor:
        out = super().forward(x)
        return torch.where(out[:, :1] > 0.5, torch.nan, out)


def nans() -> tuple[nn.Module, v2.Compose]:
    """A network whose head layer is fine and whose output is not recorded."""
    net = nn.Sequential()
    net.add_module("body", NanNet())
    return net, to_tensor


class OneNeuron(nn.Module):
    """`head` is one neuron, the red of the image."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.mean((2, 3))[:, :1])


def one_neuron() -> tuple[nn.Module, v2.Compose]:
    """A network with a layer of one neuron."""
    return OneNeuron(), to_tensor


class HeldUp(ColourNet):
    """Stops after its first shard group while the file of `HOLD_UP` is there, and has the lock of a GPU until then.

    A file beside it says that it has stopped.
    """

    def __init__(self) -> None:
        super().__init__()
        self.num_images = 0

    def forward(self, x: Tensor) -> Tensor:
        self.num_images += len(x)
        hold_up = Path(os.environ.get(HOLD_UP, "none"))
        if self.num_images > IMAGES_BEFORE_HOLD_UP and hold_up.is_file():
            with stand_in_gpu(hold_up.parent), devices._held_if_free(GPU) as is_ours:
                assert is_ours
                hold_up.with_suffix(".reached").touch()
                while hold_up.is_file():
                    time.sleep(0.02)
        return super().forward(x)


def held_up() -> tuple[nn.Module, v2.Compose]:
    """The colour network, which can be stopped in mid-run."""
    return HeldUp(), to_tensor


def held_up_on_a_gpu() -> tuple[nn.Module, v2.Compose]:
    """The same, in a process that takes its machine for one with a GPU when GPUs of a fleet are counted."""
    from flows.engine import gpus

    gpus.choose_devices = lambda wanted: (GPU,)
    return held_up()


GPU = torch.device("cuda", 0)


def gpu_is_free(folder: Path) -> bool:
    """Whether no process has the lock of the GPU of `folder`."""
    with stand_in_gpu(folder), devices._held_if_free(GPU) as is_ours:
        return is_ours


@contextmanager
def stand_in_gpu(folder: Path) -> Iterator[None]:
    """A GPU that is not there, with its lock file in `folder`."""
    properties = SimpleNamespace(uuid="gpu")
    with (
        patch.object(torch.cuda, "get_device_properties", return_value=properties),
        patch("tempfile.tempdir", str(folder)),
    ):
        yield
