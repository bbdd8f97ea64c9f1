"""Recording: what the hooks keep is what the layer gave, once per pass, and nothing stays behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision import models

from tasks.dissection.errors import LayerError
from tasks.dissection.hooks import recorded
from tasks.dissection.layers import recordable, resolve, trace
from tasks.dissection.layouts import Axes, Layout
from tasks.dissection.summary import SummaryName
from tests.real_models import cifar_resnet20
from tests.test_dissection.conftest import LAYERS, Cifar10
from tests.test_dissection.networks import Attended, Repeated, some_images


def record(network: nn.Module, images: Tensor, layers: list[str], summary: SummaryName = "mean") -> dict[str, Tensor]:
    """As the pipeline does: names, one traced pass, layouts, recording."""
    layouts = recordable(trace(network, tuple(images.shape[1:])), resolve(network, layers), summary)
    with torch.no_grad(), recorded(network, layouts, summary) as activations:
        network(images)
        return dict(activations)


class TestRecording:
    def test_a_pass_fills_in_the_layers_asked_for_and_no_others(self) -> None:
        activations = record(Attended().eval(), some_images(2, 12), ["head", "patches"])
        assert {name: tuple(values.shape) for name, values in activations.items()} == {
            "patches": (2, 8),
            "head": (2, 5),
        }

    def test_the_output_of_the_network_is_not_changed(self) -> None:
        network, images = Attended().eval(), some_images(2, 12)
        expected = network(images)
        with recorded(network, {"attention": Layout(Axes.TOKENS), "head": Layout(Axes.VECTOR)}, "mean"):
            assert torch.equal(network(images), expected)

    def test_every_pass_starts_anew(self) -> None:
        network = Attended().eval()
        with torch.no_grad(), recorded(network, {"head": Layout(Axes.VECTOR)}, "mean") as activations:
            for images in (some_images(2, 12, seed=0), some_images(5, 12, seed=1)):
                expected = network(images)
                assert torch.equal(activations["head"], expected)

    def test_a_pass_that_fails_leaves_nothing_for_the_next(self) -> None:
        network = nn.Sequential(nn.ReLU(), nn.Linear(3, 2))
        with recorded(network, {"0": Layout(Axes.VECTOR)}, "mean") as activations:
            with pytest.raises(RuntimeError):
                network(torch.ones(1, 7))  # recorded, then too wide for the next layer
            network(torch.zeros(6, 3))
            assert activations["0"].tolist() == [[0.0] * 3] * 6

    @pytest.mark.parametrize(
        "after", [nn.ReLU(inplace=True), nn.Hardswish(inplace=True), nn.Dropout(1.0, inplace=True)]
    )
    def test_an_operation_in_place_after_the_layer_does_not_reach_its_activations(self, after: nn.Module) -> None:
        network = nn.Sequential(nn.Linear(6, 5), after)
        inputs = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
        with (
            torch.no_grad(),
            recorded(network, {"0": Layout(Axes.VECTOR), "1": Layout(Axes.VECTOR)}, "mean") as activations,
        ):
            network(inputs)
        linear = network[0]
        np.testing.assert_allclose(activations["0"], (inputs @ linear.weight.T + linear.bias).detach(), 1e-5, 1e-6)
        assert not torch.equal(activations["0"], activations["1"])

    def test_attention_is_recorded_by_the_first_of_its_two_outputs(self) -> None:
        network, images = Attended().eval(), some_images(3, 12)
        with torch.no_grad():
            tokens = network.patches(images).flatten(2).transpose(1, 2)
            expected = network.attention(tokens, tokens, tokens)[0]
        np.testing.assert_allclose(record(network, images, ["attention"])["attention"], expected.mean(1), 1e-5, 1e-6)

    def test_activations_hold_on_to_no_graph(self) -> None:
        # One number per neuron and image, and nothing else: a graph would keep every map of the pass in memory.
        network = Attended().eval()
        with recorded(
            network, {"attention": Layout(Axes.TOKENS), "head": Layout(Axes.VECTOR)}, "mean"
        ) as activations:
            network(some_images(2, 12))
        assert [values.requires_grad for values in activations.values()] == [False, False]


class TestRefusals:
    def test_a_module_that_runs_twice_in_a_pass_is_refused_while_recording(self) -> None:
        network = Repeated()
        with (
            recorded(network, {"relu": Layout(Axes.MAP)}, "mean"),
            pytest.raises(LayerError, match=r"'relu' runs more than once .* Record the block"),
        ):
            network(some_images(2, 8))

    def test_a_summary_that_does_not_fit_is_refused_while_recording(self) -> None:
        network = Repeated()
        with recorded(network, {"first": Layout(Axes.MAP)}, "token_max"), pytest.raises(LayerError, match="'first'"):
            network(some_images(2, 8))


class TestCleaning:
    def test_after_the_with_a_pass_records_nothing(self) -> None:
        network = Attended().eval()
        with recorded(network, {"head": Layout(Axes.VECTOR)}, "mean") as activations:
            network(some_images(2, 12))
        network(some_images(4, 12))
        assert len(activations["head"]) == 2

    def test_hooks_are_removed_where_the_body_fails(self) -> None:
        network = Attended().eval()
        with pytest.raises(KeyboardInterrupt), recorded(network, {"head": Layout(Axes.VECTOR)}, "mean"):
            raise KeyboardInterrupt
        assert not hooks_of(network)

    def test_hooks_are_removed_where_a_layer_does_not_exist(self) -> None:
        network = Attended().eval()
        layouts = {"head": Layout(Axes.VECTOR), "neck": Layout(Axes.VECTOR)}
        with pytest.raises(KeyError, match="neck"), recorded(network, layouts, "mean"):
            pass
        assert not hooks_of(network)

    def test_hooks_of_others_stay(self) -> None:
        network, seen = Attended().eval(), []
        network.head.register_forward_hook(lambda *_: seen.append("head"))
        with recorded(network, {"head": Layout(Axes.VECTOR)}, "mean"):
            network(some_images(1, 12))
        network(some_images(1, 12))
        assert seen == ["head", "head"]


def hooks_of(network: nn.Module) -> list[object]:
    return [hook for m in network.modules() for hook in (*m._forward_hooks, *m._forward_pre_hooks)]


def vit_tokens(network: nn.Module, images: Tensor) -> Tensor:
    """What `encoder` gives: `[B, 1 + patches, 768]`."""
    patches = network.conv_proj(images).flatten(2).transpose(1, 2)
    return network.encoder(torch.cat([network.class_token.expand(len(images), -1, -1), patches], dim=1))


def resnet_stages(network: nn.Module, images: Tensor, last: str) -> Tensor:
    for name in ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"):
        images = getattr(network, name)(images)
        if name == last:
            break
    return images


Forward = Callable[[nn.Module, Tensor], Tensor]

#: By network: layer, summary function and the same number by a forward pass without hooks.
ARCHITECTURES: dict[str, list[tuple[str, SummaryName, Forward]]] = {
    "resnet18": [
        ("conv1", "mean", lambda net, x: resnet_stages(net, x, "conv1").mean((2, 3))),
        ("layer2", "max", lambda net, x: resnet_stages(net, x, "layer2").amax((2, 3))),
        ("layer4", "mean", lambda net, x: resnet_stages(net, x, "layer4").mean((2, 3))),
        ("fc", "mean", lambda net, x: net(x)),
    ],
    "vit_b_16": [
        ("conv_proj", "mean", lambda net, x: net.conv_proj(x).mean((2, 3))),
        ("encoder", "class_token", lambda net, x: vit_tokens(net, x)[:, 0]),
        ("encoder", "token_mean", lambda net, x: vit_tokens(net, x)[:, 1:].mean(1)),
        ("heads.head", "class_token", lambda net, x: net(x)),
    ],
    "swin_t": [
        ("features.1", "mean", lambda net, x: net.features[:2](x).mean((1, 2))),
        ("features.3", "max", lambda net, x: net.features[:4](x).amax((1, 2))),
        ("norm", "mean", lambda net, x: net.norm(net.features(x)).mean((1, 2))),
        ("permute", "mean", lambda net, x: net.norm(net.features(x)).mean((1, 2))),
        ("head", "mean", lambda net, x: net(x)),
    ],
    "mobilenet_v3_small": [
        ("features.0", "max", lambda net, x: net.features[0](x).amax((2, 3))),
        ("features.8", "mean", lambda net, x: net.features[:9](x).mean((2, 3))),
        ("classifier.0", "mean", lambda net, x: net.classifier[0](net.features(x).mean((2, 3)))),
    ],
}
SIZES = {"vit_b_16": 32}


@pytest.fixture(scope="module", params=ARCHITECTURES)
def architecture(request: pytest.FixtureRequest) -> tuple[str, nn.Module]:
    """Torchvision's own, with random weights."""
    name = request.param
    size = {"image_size": SIZES[name]} if name in SIZES else {}
    return name, models.get_model(name, weights=None, **size).eval()


def test_torchvisions_networks_record_what_an_independent_pass_gives(architecture: tuple[str, nn.Module]) -> None:
    name, network = architecture
    images = some_images(2, SIZES.get(name, 64))
    traced = trace(network, tuple(images.shape[1:]))
    for layer, summary, forward in ARCHITECTURES[name]:
        with torch.no_grad(), recorded(network, recordable(traced, [layer], summary), summary) as activations:
            network(images)
        with torch.no_grad():
            expected = forward(network, images)
        np.testing.assert_allclose(activations[layer], expected, 1e-4, 1e-5, err_msg=f"{name} {layer} {summary}")


def test_resnet20_gives_the_published_activations_of_500_images(real: Path, cifar10: Cifar10) -> None:
    network, preprocess = cifar_resnet20()
    network.load_state_dict(load_file(real / "cifar10" / "resnet20.safetensors"))
    keys = (real / "cifar10" / "image_embeddings.keys.txt").read_text(encoding="utf-8").splitlines()
    pixels = []
    for key in keys:
        with Image.open(real / "cifar10" / "images" / key) as image:
            pixels.append(preprocess(image.convert("RGB")))
    activations = record(network.eval(), torch.stack(pixels), list(LAYERS))
    for layer in LAYERS:
        np.testing.assert_allclose(activations[layer], cifar10.activations[layer], 1e-4, 1e-4, err_msg=layer)
