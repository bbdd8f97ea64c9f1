"""Layers: names as users write them, and what one forward pass shows of each."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import Tensor, nn
from torchvision.models import alexnet, resnet18

from tasks.dissection.errors import LayerError, UnknownNameError
from tasks.dissection.layers import TracedLayer, recordable, resolve, trace
from tasks.dissection.summary import Layout
from tests.test_dissection.networks import Attended, Repeated


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    return resnet18(weights=None).eval()


@pytest.fixture(scope="module")
def traced_resnet(resnet: nn.Module) -> dict[str, TracedLayer]:
    return trace(resnet, (3, 64, 64))


class TestResolve:
    def test_a_glob_stands_for_the_layers_of_its_depth_in_the_models_order(self, resnet: nn.Module) -> None:
        assert resolve(resnet, ["layer*"]) == ("layer1", "layer2", "layer3", "layer4")
        assert resolve(resnet, ["layer?.1.conv2"]) == tuple(f"layer{i}.1.conv2" for i in (1, 2, 3, 4))
        assert resolve(resnet, ["*"])[:4] == ("conv1", "bn1", "relu", "maxpool")
        assert all("." not in name for name in resolve(resnet, ["*"]))

    def test_brackets_are_an_index(self, resnet: nn.Module) -> None:
        assert resolve(resnet, ["layer1[1].conv1"]) == ("layer1.1.conv1",)
        assert resolve(resnet, ["layer4[0].downsample[1]"]) == ("layer4.0.downsample.1",)
        assert resolve(nn.Sequential(nn.ReLU(), nn.ReLU()), ["[1]"]) == ("1",)

    def test_an_index_of_two_digits_is_not_two_of_one(self) -> None:
        with torch.device("meta"):
            network = alexnet()
        assert resolve(network, ["features[10]"]) == ("features.10",)

    def test_layers_come_once_in_the_order_written(self, resnet: nn.Module) -> None:
        written = ["fc", "layer*", "layer2", "fc", "conv1"]
        assert resolve(resnet, written) == ("fc", "layer1", "layer2", "layer3", "layer4", "conv1")

    @pytest.mark.parametrize(
        ("written", "nearest"),
        [("layr4", "layer4"), ("layer1[1].convl", "layer1.1.conv1"), ("encoder.layer1", "layer1"), ("FC", None)],
    )
    def test_an_unknown_name_is_told_the_nearest_and_how_to_see_all(
        self, written: str, nearest: str | None, resnet: nn.Module
    ) -> None:
        with pytest.raises(UnknownNameError) as caught:
            resolve(resnet, ["conv1", written])
        assert isinstance(caught.value, LookupError)
        message = str(caught.value)
        assert repr(written) in message
        assert f"{sum(1 for name, _ in resnet.named_modules() if name)} layers" in message
        assert "clip-dissect layers" in message
        assert ("Nearest" in message) == (nearest is not None)
        assert (nearest or "") in message

    def test_a_glob_that_matches_nothing_is_unknown(self, resnet: nn.Module) -> None:
        with pytest.raises(UnknownNameError, match="blocks"):
            resolve(resnet, ["blocks.*"])


class TestTrace:
    def test_says_kind_shape_layout_and_neurons(
        self, resnet: nn.Module, traced_resnet: dict[str, TracedLayer]
    ) -> None:
        conv, fc = traced_resnet["conv1"], traced_resnet["fc"]
        assert (conv.kind, conv.shape, conv.layout, conv.num_neurons) == ("Conv2d", (64, 32, 32), Layout.MAP, 64)
        assert (fc.kind, fc.shape, fc.layout, fc.num_neurons) == ("Linear", (1000,), Layout.VECTOR, 1000)
        assert traced_resnet["layer3"].shape == (256, 4, 4)
        assert set(traced_resnet) == {name for name, _ in resnet.named_modules() if name}

    def test_counts_how_often_a_module_runs(self, traced_resnet: dict[str, TracedLayer]) -> None:
        assert trace(Repeated(), (3, 8, 8))["relu"].num_calls == 2
        assert [traced_resnet[name].num_calls for name in ("relu", "layer1.0.relu", "layer1.0")] == [1, 2, 1]

    def test_reads_tokens_from_the_tuple_that_attention_gives(self) -> None:
        attention = trace(Attended(), (3, 12, 12))["attention"]
        assert (attention.shape, attention.layout, attention.num_neurons) == ((9, 8), Layout.TOKENS, 8)

    def test_a_layer_with_a_row_per_window_has_no_row_per_image(self) -> None:
        swin = timm.create_model(
            "swin_tiny_patch4_window7_224", img_size=56, depths=(1,), num_heads=(2,), embed_dim=12
        ).eval()
        traced = trace(swin, (3, 56, 56))
        windows, block = traced["layers.0.blocks.0.attn"], traced["layers.0.blocks.0"]
        assert (windows.num_calls, windows.shape, windows.layout, windows.num_neurons) == (1, None, None, None)
        assert (block.shape, block.layout, block.num_neurons) == ((14, 14, 12), Layout.MAP_CHANNELS_LAST, 12)

    def test_a_layer_with_tokens_before_images_has_no_row_per_image(self) -> None:
        class TokensFirst(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.block = nn.TransformerEncoderLayer(8, 2, 16)  # [T, B, N]

            def forward(self, images: Tensor) -> Tensor:
                return self.block(images.flatten(2).permute(2, 0, 1).repeat(1, 1, 2)[..., :8].contiguous())

        assert trace(TokensFirst().eval(), (4, 3, 3))["block"].layout is None

    def test_runs_in_the_precision_of_the_weights(self) -> None:
        assert trace(Attended().to(torch.bfloat16), (3, 12, 12))["head"].shape == (5,)

    def test_a_network_without_weights_is_traced_too(self) -> None:
        assert trace(nn.Sequential(nn.ReLU(), nn.AvgPool2d(2)), (3, 8, 8))["1"].shape == (3, 4, 4)

    def test_leaves_no_hook_behind_even_where_the_pass_fails(self) -> None:
        network = Repeated()
        trace(network, (3, 8, 8))
        with pytest.raises(RuntimeError):
            trace(network, (5, 8, 8))
        assert not any(module._forward_hooks for module in network.modules())


class TestRecordable:
    def test_gives_layouts_in_the_order_asked_for(self, traced_resnet: dict[str, TracedLayer]) -> None:
        layouts = recordable(traced_resnet, ["fc", "layer1"], "mean")
        assert list(layouts.items()) == [("fc", Layout.VECTOR), ("layer1", Layout.MAP)]

    def test_a_layer_that_never_runs_is_refused(self) -> None:
        traced = trace(Attended().eval(), (3, 12, 12))
        assert traced["attention.out_proj"].num_calls == 0  # fused: its weights are read, the module never runs
        with pytest.raises(LayerError, match=r"'attention\.out_proj' .* does not run .* Record the block"):
            recordable(traced, ["head", "attention.out_proj"], "mean")

    def test_a_layer_that_runs_twice_is_refused_with_the_number(self) -> None:
        with pytest.raises(LayerError, match=r"'relu' \(ReLU\) runs 2 times .* Record the block"):
            recordable(trace(Repeated(), (3, 8, 8)), ["relu"], "mean")

    def test_a_layer_without_a_tensor_of_floats_is_refused(self) -> None:
        class Pairs(nn.Module):
            def forward(self, images: Tensor) -> dict[str, Tensor]:
                return {"maps": images}

        class Maps(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.pairs = Pairs()

            def forward(self, images: Tensor) -> Tensor:
                return self.pairs(images)["maps"]

        traced = trace(Maps(), (3, 4, 4))
        assert traced["pairs"].num_calls == 1
        with pytest.raises(LayerError, match=r"'pairs' \(Pairs\) does not give one tensor of floats"):
            recordable(traced, ["pairs"], "mean")

    def test_a_summary_that_does_not_fit_is_refused_before_any_image_is_read(
        self, traced_resnet: dict[str, TracedLayer]
    ) -> None:
        with pytest.raises(LayerError, match="class_token needs tokens, and layer 'layer1'"):
            recordable(traced_resnet, ["fc", "layer1"], "class_token")
