"""Descriptions of objects: another for each value that matters, one for equal objects however they were made."""

from __future__ import annotations

import functools
import logging
import threading
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torchvision.models import resnet18
from torchvision.transforms import v2

from tasks.models import libraries
from tasks.models.describe import Description
from tasks.models.preprocess import describe

SCALE = 2.0
CALLS = 0


class Colour(Enum):
    RED = 1
    BLUE = 2


@dataclass(frozen=True)
class Settings:
    size: int


class Pair(NamedTuple):
    a: int
    b: int


class Slotted:
    __slots__ = ("size",)

    def __init__(self, size: int) -> None:
        self.size = size


class Plain:
    def __init__(self, **held: Any) -> None:
        vars(self).update(held)

    def double(self, x: Tensor) -> Tensor:
        return 2 * x


def scaled(x: Tensor) -> Tensor:
    return SCALE * x


def counted(x: Tensor) -> Tensor:
    global CALLS
    CALLS += 1
    return x


def closure(value: object) -> Callable[[], object]:
    return lambda: value


def text(value: object) -> str:
    return Description().text(value)


#: Pairs of objects that compute differently.
OTHERS: dict[str, tuple[Any, Any]] = {
    "true and one": (True, 1),
    "int and float": (1, 1.0),
    "text and number": ("1", 1),
    "tensor, far inside": (torch.arange(5000), torch.arange(5000).index_fill(0, torch.tensor([2500]), 0)),
    "tensor types": (torch.zeros(2), torch.zeros(2, dtype=torch.float64)),
    "array, far inside": (np.arange(5000), np.where(np.arange(5000) == 2500, 0, np.arange(5000))),
    "array shapes": (np.zeros((2, 3)), np.zeros((3, 2))),
    "pictures": (Image.new("RGB", (4, 4), "red"), Image.new("RGB", (4, 4), "blue")),
    "enums": (Colour.RED, Colour.BLUE),
    "dataclasses": (Settings(1), Settings(2)),
    "named tuples": (Pair(1, 2), Pair(2, 1)),
    "slots": (Slotted(1), Slotted(2)),
    "queues": (deque([1, 2]), deque([2, 1])),
    "data types": (torch.float16, torch.bfloat16),
    "partials": (functools.partial(scaled, 1), functools.partial(scaled, 2)),
    "partial of another": (functools.partial(scaled), functools.partial(counted)),
    "closures": (closure(1), closure(2)),
    "two lambdas in one line": (lambda x: x.relu(), lambda x: x.tanh()),
    "bound methods": (Plain(a=1).double, Plain(a=2).double),
    "keys": ({"a": 1}, {"b": 1}),
    "private attributes": (Plain(_a=1), Plain(_a=2)),
    "nested": (Plain(a=[{"b": (Settings(1),)}]), Plain(a=[{"b": (Settings(2),)}])),
    "activation functions": (
        nn.TransformerEncoderLayer(4, 2, activation=nn.functional.relu),
        nn.TransformerEncoderLayer(4, 2, activation=nn.functional.gelu),
    ),
    "order of layers": (nn.Sequential(nn.ReLU(), nn.Tanh()), nn.Sequential(nn.Tanh(), nn.ReLU())),
    "lambda transforms": (v2.Compose([v2.Lambda(closure(1))]), v2.Compose([v2.Lambda(closure(2))])),
}


@pytest.mark.parametrize(("one", "other"), OTHERS.values(), ids=OTHERS)
def test_what_computes_otherwise_is_described_otherwise(one: object, other: object) -> None:
    assert text(one) != text(other)


#: Functions that make an object anew, the same one each time.
SAME: dict[str, Callable[[int], Any]] = {
    "sets": lambda i: {"red", "green", "blue"} if i else {"blue", "green", "red"},
    "order of keys": lambda i: {"a": 1, "b": 2} if i else {"b": 2, "a": 1},
    "objects": lambda i: Plain(a=object(), b=[Plain()]),
    "lambdas": lambda i: lambda x: x,
    "locks and logs": lambda i: Plain(a=threading.Lock(), b=logging.getLogger(f"log{i}"), c=open),
    "weak references": lambda i: Plain(a=weakref.ref(Plain)),
    "files": lambda i: Plain(a=Path(__file__), b=__file__),
    "devices": lambda i: Plain(a=torch.device("cpu"), b=torch.Generator()),
    "shared tuples": lambda i: [(1, 2), tuple([1, 2])],  # noqa: C409 - not the constant
    "networks": lambda i: nn.Sequential(OrderedDict(a=nn.LSTM(2, 2), b=nn.MultiheadAttention(4, 2))).eval(),
}


@pytest.mark.parametrize("make", SAME.values(), ids=SAME)
def test_equal_objects_are_described_alike_without_addresses_and_folders(make: Callable[[int], Any]) -> None:
    def weighed(value: Any) -> str:
        tensors = value.state_dict(keep_vars=True).values() if isinstance(value, nn.Module) else ()
        return Description(tensors).text(value)

    first, second = weighed(make(0)), weighed(make(1))
    assert first == second
    assert "0x" not in first
    assert str(Path(__file__).parent) not in first


def test_values_in_circles_and_deep_ones_end() -> None:
    ring = Plain()
    ring.me, ring.method = [ring], ring.double  # type: ignore[attr-defined]
    assert text(ring)
    deep: Any = 1
    for _ in range(5000):
        deep = [deep, Plain(a=deep)] if isinstance(deep, int) else [deep, "x"]
    other: Any = 2
    for _ in range(5000):
        other = [other, Plain(a=other)] if isinstance(other, int) else [other, "x"]
    assert text(deep) != text(other)


def test_a_function_is_described_with_the_values_of_its_module_that_it_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    before = text(scaled), text(counted)
    monkeypatch.setattr(f"{__name__}.SCALE", 3.0)
    counted(torch.zeros(1))  # what it changes itself is no setting
    after = text(scaled), text(counted)
    assert before[0] != after[0]
    assert before[1] == after[1]


class Buffered(nn.Module):
    def __init__(self, value: float) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.register_buffer("mean", torch.full((2,), value), persistent=False)
        self.inside = [nn.BatchNorm1d(2)]  # no submodule: no weight of it is in the state dict


def described(model: nn.Module) -> str:
    return Description(model.state_dict(keep_vars=True).values()).text(model)


def test_weights_have_a_digest_of_their_own_and_what_it_leaves_out_is_described() -> None:
    one, other, third, fourth = Buffered(1.0), Buffered(1.0), Buffered(2.0), Buffered(1.0)
    with torch.no_grad():
        fourth.inside[0].weight[0] = 5.0
    assert described(one) == described(other)  # of other random weights
    assert len({described(model) for model in (one, third, fourth)}) == 3


def test_hooks_and_replaced_forwards_are_described() -> None:
    models = [nn.Sequential(nn.ReLU()) for _ in range(4)]
    models[1][0].register_forward_hook(lambda module, args, output: 2 * output)
    models[2].forward = lambda x: x  # type: ignore[method-assign]
    models[3][0].register_forward_pre_hook(lambda module, args: args)
    assert len({described(model) for model in models}) == 4


def test_networks_in_other_forms_are_described_alike_each_time() -> None:
    def graph() -> nn.Module:
        return torch.fx.symbolic_trace(nn.Sequential(nn.Linear(2, 2), nn.ReLU()))

    def normed() -> nn.Module:
        return parametrizations.weight_norm(nn.Linear(2, 2))

    for make in (graph, normed):
        assert described(make()) == described(make())
        assert "0x" not in described(make())


class Scaled(nn.Module):
    def __init__(self, scale: float) -> None:
        super().__init__()
        self.linear, self.scale = nn.Linear(2, 2), scale

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) * self.scale


@pytest.mark.filterwarnings("ignore")  # TorchScript is deprecated, and users' files still hold it
@pytest.mark.parametrize(
    "form", [torch.jit.script, lambda net: torch.jit.trace(net, torch.ones(1, 2))], ids=["script", "trace"]
)
def test_values_in_torchscript_count(form: Callable[[nn.Module], nn.Module]) -> None:
    texts = [described(form(nn.Sequential(Scaled(scale)).eval())) for scale in (2.0, 2.0, 3.0)]
    assert texts[0] == texts[1] != texts[2]


def test_a_whole_network_is_described_in_a_moment_and_each_setting_counts() -> None:
    models = [resnet18(weights=None, num_classes=2).eval() for _ in range(3)]
    models[1].layer4[1].conv2.stride = (2, 2)
    models[2].layer1[0].bn1.eps = 1e-3
    assert len({described(model) for model in models}) == 3


@pytest.mark.parametrize(
    ("version", "changes"), [("0.99.0", True), ("0.1.0+cpu", False), ("0.1.0+cu126", False)], ids=str
)
def test_another_version_of_the_library_is_another_preprocessing(
    monkeypatch: pytest.MonkeyPatch, version: str, changes: bool
) -> None:
    versions = {"torchvision": "0.1.0"}
    monkeypatch.setattr(libraries.importlib.metadata, "version", lambda package: versions[package])
    before = describe(v2.Compose([v2.Resize(8)]))
    assert before.endswith("torchvision 0.1.0")
    versions["torchvision"] = version
    assert (describe(v2.Compose([v2.Resize(8)])) != before) == changes


def test_versions_of_torch_and_of_what_is_not_installed_are_left_out() -> None:
    assert libraries.versions(["torch", "numpy", "json", "no_such_package", "torchvision"]) == [
        libraries.versions(["torchvision"])[0]
    ]
