"""Compiled networks: the same activations, whichever layers and summary functions are recorded one after the other.

The back end is left out here (it takes half a minute and a C++ compiler): what could go wrong on our side is
how it traces hooks.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tasks.dissection.layouts import Axes, Layout
from tasks.models.clip import PlacedClip, load_clip
from tasks.models.devices import Placement
from tasks.models.errors import ModelError
from tasks.models.targets import PlacedTarget, Target
from tests.test_tasks.conftest import TinyClip, on_cpu

COMPILED = Placement(torch.device("cpu"), compile=True)
MAP = Layout(Axes.MAP)


@pytest.fixture(autouse=True)
def _no_back_end(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    yield
    torch.compiler.reset()


def target() -> Target:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(inplace=True), nn.Conv2d(8, 4, 3), nn.Flatten(), nn.Linear(64, 5))
    return Target("net", net.eval(), lambda image: torch.zeros(3, 8, 8), {})


def test_a_compiled_network_records_what_the_network_does_for_any_layers() -> None:
    source, images = target(), torch.rand(6, 3, 8, 8)
    plain, compiled = PlacedTarget(source, Placement(torch.device("cpu"))), PlacedTarget(source, COMPILED)
    for layouts in (
        {"mean": {"0": MAP, "2": MAP}},
        {"max": {"2": MAP}},
        {"max": {"0": MAP, "2": MAP}},
        {"mean": {"0": MAP}, "max": {"0": MAP, "4": Layout(Axes.VECTOR)}},
        {"mean": {"0": MAP, "2": MAP}},
    ):
        for part in (images, images.flip(0)):
            found, expected = compiled.record(layouts, part, 4)(), plain.record(layouts, part, 4)()  # type: ignore[arg-type]
            assert set(found) == set(expected) != set()
            for name, values in expected.items():
                torch.testing.assert_close(found[name], values)


def test_a_compiled_clip_model_embeds_the_same(tiny_clip: TinyClip) -> None:
    clip, images = load_clip(str(tiny_clip.config), str(tiny_clip.checkpoint)), torch.rand(3, 3, 16, 16)
    torch.testing.assert_close(
        PlacedClip(clip, COMPILED).embed_images(images, 2)(), on_cpu(clip).embed_images(images, 2)()
    )


def test_a_network_that_cannot_be_compiled_is_told_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(module: Any, inputs: Any) -> Tensor:
        raise RuntimeError("no compiler is here")

    monkeypatch.setattr(torch, "compile", partial(torch.compile.func, backend=broken))  # type: ignore[attr-defined]
    with pytest.raises(
        ModelError, match=r"The network net cannot be compiled .*no compiler is here.*Leave out --comp"
    ):
        PlacedTarget(target(), COMPILED).record({"mean": {"0": MAP}}, torch.rand(2, 3, 8, 8), 2)()
