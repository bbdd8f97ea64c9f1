"""Linear layers: their weights, and what they read, told from numbers alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tasks.dissection.linear import ROUNDING, LinearMap, linear_map, reads


def drawn(num_images: int = 20, num_inputs: int = 6, num_neurons: int = 4) -> tuple[LinearMap, Tensor, Tensor]:
    """A linear map, inputs, and what it makes of them, by a plain sum."""
    generator = torch.Generator().manual_seed(0)
    W, b = torch.randn(num_neurons, num_inputs, generator=generator), torch.randn(num_neurons, generator=generator)
    X = torch.randn(num_images, num_inputs, generator=generator)
    Y = torch.stack([(W * x).sum(1) + b for x in X])
    return LinearMap(W, b), X, Y


@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_layer_gives_its_weights(bias: bool) -> None:
    layer = nn.Linear(3, 2, bias=bias)
    found = linear_map(layer)
    assert found is not None
    assert torch.equal(found.weight, layer.weight)
    assert torch.equal(found.bias, layer.bias if bias else torch.zeros(2))


def test_a_convolution_of_single_pixels_is_linear_in_the_mean_of_its_map() -> None:
    layer, maps = nn.Conv2d(5, 3, 1), torch.randn(7, 5, 4, 4)
    found = linear_map(layer)
    assert found is not None and found.weight.shape == (3, 5)
    assert reads(found, maps.mean((2, 3)), layer(maps).detach().mean((2, 3)))
    assert not reads(found, maps.amax((2, 3)), layer(maps).detach().amax((2, 3)))


class Scaled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


@pytest.mark.parametrize(
    "layer",
    [
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, padding=1),
        nn.Conv2d(4, 4, 1, stride=2),
        nn.Conv2d(4, 4, 1, padding=1),
        nn.Conv2d(4, 4, 1, groups=2),
        nn.Sequential(nn.Linear(4, 4), nn.ReLU()),
        Scaled(4, 4),
    ],
    ids=str,
)
def test_any_other_layer_is_not_taken_for_linear(layer: nn.Module) -> None:
    assert linear_map(layer) is None


def test_the_layer_that_is_read_is_told_from_the_one_before_its_relu() -> None:
    of, X, _ = drawn()
    read = X.relu()
    Y = read @ of.weight.T + of.bias
    assert reads(of, read, Y)
    assert not reads(of, X, Y)
    assert not reads(of, read.flip(0), Y)
    assert not reads(of, read.flip(1), Y)


def test_one_neuron_that_does_not_fit_is_enough_to_say_no() -> None:
    of, X, Y = drawn()
    Y[3, 1] += 1e-2
    assert not reads(of, X, Y)


def test_activations_that_are_ignored_are_no_witnesses() -> None:
    of, X, Y = drawn()
    Y[2, 1], X[5, 0] = -torch.inf, -torch.inf
    Y[5] = 7.0
    assert reads(of, X, Y)
    assert not reads(of, torch.full_like(X, -torch.inf), Y)


def test_inputs_that_add_nothing_are_not_known_to_be_read() -> None:
    of, X, _ = drawn()
    silent = LinearMap(torch.zeros_like(of.weight), of.bias)
    assert not reads(silent, X, of.bias.repeat(len(X), 1))


@pytest.mark.parametrize(("kept", "dtype"), [("float16", torch.float16), ("bf16", torch.bfloat16)])
def test_numbers_of_fewer_digits_fit_within_their_rounding(kept: str, dtype: torch.dtype) -> None:
    of, X, Y = drawn(50, 300, 40)
    X, Y = X.to(dtype).float(), Y.to(dtype).float()
    assert reads(of, X, Y, ROUNDING[kept])
    assert not reads(of, X, Y)
    assert not reads(of, X.relu(), Y, ROUNDING[kept])
