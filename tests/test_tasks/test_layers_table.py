"""Layers as a table for a terminal."""

from __future__ import annotations

from rich.console import Console
from torch import Tensor, nn

from tasks.dissection.layers import trace
from tasks.show import layers_table


class Pair(nn.Module):
    """Gives a tensor, and a mapping of two others, one of which has no row per image."""

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return x, {"codes": x.mean((2, 3)), "loss": x.mean()}


class Mapped(nn.Module):
    """Gives two tensors, none of which comes first."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"maps": x, "codes": x.mean((2, 3))}


class Network(nn.Module):
    """Both, side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.pair, self.mapped = Pair(), Mapped()

    def forward(self, x: Tensor) -> Tensor:
        self.pair(x), self.mapped(x)
        return x


def test_tensors_of_which_a_layer_gives_several_are_listed_by_their_names() -> None:
    console = Console(width=120)
    with console.capture() as captured:
        console.print(layers_table(trace(Network(), (3, 8, 8)).values()))
    rows = [" ".join(line.split()) for line in captured.get().splitlines()[3:] if line.strip()]
    assert rows == [
        "pair Pair 3 × 8 × 8 map, the first of 3 tensors 3",
        "pair[0] Pair 3 × 8 × 8 map 3",
        "pair[1][codes] Pair 3 vector 3",
        "pair[1][loss] Pair - - -",
        "mapped Mapped - one of 2 tensors -",
        "mapped[maps] Mapped 3 × 8 × 8 map 3",
        "mapped[codes] Mapped 3 vector 3",
    ]
