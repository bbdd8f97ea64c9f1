"""Networks whose answer to an image depends on the images beside it are refused, and no others."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import models

from tasks.dissection.batch_check import NUM_TRIAL_IMAGES, refuse_batch_dependence
from tasks.dissection.errors import LayerError
from tasks.dissection.layers import trace

SHAPE = (3, 32, 32)


def check(model: nn.Module, layer: str = "last", images: Tensor | None = None) -> None:
    """As a run does with the layers that it is to record."""
    layout = trace(model, SHAPE)[layer].layout
    assert layout is not None
    if images is None:
        images = torch.rand(NUM_TRIAL_IMAGES, *SHAPE, generator=torch.Generator().manual_seed(0))
    refuse_batch_dependence(model, images, {layer: layout})


class Step(nn.Module):
    """A module that computes a function."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Around(nn.Module):
    """Computes a function itself, between two layers."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second, self.function = nn.Conv2d(4, 4, 3), nn.ReLU(), function

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.function(self.first(x)))


def network(middle: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    layers = OrderedDict(conv=nn.Conv2d(3, 4, 3), middle=middle, last=nn.Conv2d(4, 5, 3))
    return nn.Sequential(layers).eval()


def in_training(module: nn.Module) -> nn.Module:
    """A module that stays as it is while the network goes into evaluation mode."""
    module.train()
    module.train = lambda mode=True: module  # type: ignore[method-assign, misc, assignment]
    return module


DEPENDENT: dict[str, tuple[Callable[[], nn.Module], str, str]] = {
    "no running statistics": (
        lambda: nn.BatchNorm2d(4, track_running_stats=False),
        r"beside other images.*module 'middle' \(BatchNorm2d\)",
        "track_running_stats=True",
    ),
    "batch norm in training mode": (
        lambda: in_training(nn.BatchNorm2d(4)),
        r"module 'middle' \(BatchNorm2d\)",
        "evaluation mode",
    ),
    "softmax over the batch": (lambda: Step(lambda x: x.softmax(0)), r"module 'middle' \(Step\)", "--batch-size"),
    "mean of the batch": (lambda: Step(lambda x: x - x.mean(0)), r"module 'middle' \(Step\)", "--batch-size"),
    "cumulated": (lambda: Step(lambda x: x.cumsum(0)), r"module 'middle' \(Step\)", "--batch-size"),
    "dropout left on": (
        lambda: Step(lambda x: F.dropout(x, 0.5, training=True)),
        r"each time.*module 'middle' \(Step\)",
        "training=self.training",
    ),
    "noise": (lambda: Step(lambda x: x + torch.randn_like(x)), r"each time.*'middle' \(Step\)", "chance"),
    "between two layers": (
        lambda: Around(lambda x: x.softmax(0)),
        r"the code of module 'middle' \(Around\), before it calls 'middle.second'",
        "--batch-size",
    ),
    "not a number beside some": (
        lambda: Step(lambda x: x / (x.sum((1, 2, 3), keepdim=True) - x[:1].sum())),
        "'middle'",
        "--batch-size",
    ),
}


@pytest.mark.parametrize(("make", "culprit", "way_out"), DEPENDENT.values(), ids=DEPENDENT)
def test_a_network_that_depends_on_the_batch_or_on_chance_is_refused_by_its_module(
    make: Callable[[], nn.Module], culprit: str, way_out: str
) -> None:
    model = network(make())
    with pytest.raises(LayerError, match=f"Layer 'last' .*{culprit}.*{way_out}"):
        check(model)
    check(model, "conv")  # what comes before it may be recorded
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


INDEPENDENT: dict[str, Callable[[], nn.Module]] = {
    "batch norm": lambda: nn.BatchNorm2d(4),
    "instance norm": lambda: nn.InstanceNorm2d(4),
    "group norm": lambda: nn.GroupNorm(2, 4),
    "dropout": lambda: nn.Dropout(),
    "not a number": lambda: Step(lambda x: x / 0 * (x - x)),
    "zeros": lambda: Step(torch.zeros_like),
    "huge": lambda: Step(lambda x: x * 1e30),
    "windows": lambda: Step(lambda x: torch.cat([x[:, :, :15], x[:, :, 15:]], 2)),
}


@pytest.mark.parametrize("make", INDEPENDENT.values(), ids=INDEPENDENT)
def test_a_network_that_treats_each_image_by_itself_is_not_refused(make: Callable[[], nn.Module]) -> None:
    check(network(make()))


def test_a_network_that_takes_no_single_image_is_tried_in_batches() -> None:
    def refusing(x: Tensor) -> Tensor:
        if len(x) == 1:
            raise ValueError("Expected more than 1 value per channel")
        return x

    check(network(Step(refusing)))
    with pytest.raises(LayerError, match="beside other images"):
        check(network(nn.Sequential(Step(refusing), Step(lambda x: x - x.mean(0)))))


def test_half_precision_has_roundings_of_its_own() -> None:
    model = network(nn.BatchNorm2d(4)).bfloat16()
    images = torch.rand(NUM_TRIAL_IMAGES, *SHAPE).bfloat16()
    check(model, images=images)


USUAL: dict[str, Callable[[], nn.Module]] = {
    "resnet18": models.resnet18,
    "mobilenet_v3_small": models.mobilenet_v3_small,
    "squeezenet1_1": models.squeezenet1_1,
    "vit": lambda: models.VisionTransformer(
        image_size=64, patch_size=8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32
    ),
    "swin": lambda: models.SwinTransformer([4, 4], 24, [2, 2], [2, 4], [4, 4]),
    "densenet": lambda: models.DenseNet(8, (2, 2, 2, 2), 16),
}


@pytest.mark.parametrize("make", USUAL.values(), ids=USUAL)
def test_no_layer_of_a_usual_network_is_refused(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    model = make().eval()
    traced = trace(model, (3, 64, 64))
    layouts = {name: layer.layout for name, layer in traced.items() if layer.layout and layer.num_calls == 1}
    assert len(layouts) > 20
    refuse_batch_dependence(model, torch.randn(NUM_TRIAL_IMAGES, 3, 64, 64), layouts)
