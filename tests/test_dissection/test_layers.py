"""Layers: names as users write them, and what one forward pass shows of each."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence
from torchvision.models import alexnet, resnet18

from tasks.dissection.errors import LayerError, UnknownNameError
from tasks.dissection.layers import TracedLayer, recordable, resolve, trace
from tasks.dissection.layouts import Axes, Layout
from tests.test_dissection.networks import Attended, Repeated


@dataclass
class BackboneOutput:
    """As transformers' networks give it."""

    maps: Tensor


def packed(rows: Tensor) -> PackedSequence:
    """A sequence of one step for each image, which looks like a row per image, in an order of its own."""
    return pack_padded_sequence(rows[:, :1], torch.ones(len(rows)), batch_first=True)


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

    def test_two_stars_go_to_any_depth(self, resnet: nn.Module) -> None:
        every = [name for name, _ in resnet.named_modules() if name]
        assert list(resolve(resnet, ["**"])) == list(resolve(resnet, ["**.**"])) == every
        assert list(resolve(resnet, ["**.conv1"])) == [name for name in every if name.split(".")[-1] == "conv1"]
        assert resolve(resnet, ["layer1.**"])[:2] == ("layer1.0", "layer1.0.conv1")
        assert len(resolve(resnet, ["layer1.**"])) == sum(name.startswith("layer1.") for name in every)
        assert resolve(resnet, ["layer1.**.bn?"]) == tuple(f"layer1.{i}.bn{j}" for i in (0, 1) for j in (1, 2))
        assert resolve(resnet, ["**.layer1.0.conv1"]) == ("layer1.0.conv1",)
        assert resolve(resnet, ["**.downsample[1]"]) == tuple(f"layer{i}.0.downsample.1" for i in (2, 3, 4))

    @pytest.mark.parametrize(
        ("written", "hint"),
        [
            (
                "*.conv1",
                r"A \* ends at a dot.*: \*\*\.conv1 finds 9 layers \(conv1, layer1\.0\.conv1, layer1\.1\.conv1, …\)",
            ),
            ("*downsample", r"A \* ends at a dot.*: \*\*\.\*downsample finds 3 layers"),
            ("layer2.*sample", r"layer2\.\*\*\.\*sample finds 1 layer \(layer2\.0\.downsample\)"),
            ("layer2.conv1", r"layer2\.\*\*\.conv1 finds 2 layers"),
            ("conv2", r"\*\*\.conv2 finds 8 layers"),
            ("body.*.conv2", r"\*\*\.conv2 finds 8 layers"),
        ],
    )
    def test_a_glob_that_finds_nothing_is_told_what_a_deeper_one_finds(
        self, written: str, hint: str, resnet: nn.Module
    ) -> None:
        with pytest.raises(UnknownNameError, match=hint):
            resolve(resnet, [written])

    @pytest.mark.parametrize("written", ["*.nothing", "nothing", "layer1.*.*.*", "**.nothing", "fc.**"])
    def test_a_glob_is_told_of_no_deeper_one_that_finds_nothing_either(self, written: str, resnet: nn.Module) -> None:
        with pytest.raises(UnknownNameError) as caught:
            resolve(resnet, [written])
        assert "finds" not in str(caught.value)

    def test_brackets_are_an_index(self, resnet: nn.Module) -> None:
        assert resolve(resnet, ["layer1[1].conv1"]) == ("layer1.1.conv1",)
        assert resolve(resnet, ["layer4[0].downsample[1]"]) == ("layer4.0.downsample.1",)
        assert resolve(nn.Sequential(nn.ReLU(), nn.ReLU()), ["[1]"]) == ("1",)

    def test_an_index_of_two_digits_is_not_two_of_one(self) -> None:
        with torch.device("meta"):
            network = alexnet()
        assert resolve(network, ["features[10]", "classifier.[2]"]) == ("features.10", "classifier.2")

    def test_an_index_is_that_of_python_whatever_the_children_are_called(self, resnet: nn.Module) -> None:
        blocks = nn.Sequential(OrderedDict(one=nn.ReLU(), two=nn.ReLU(), three=nn.Linear(2, 2)))
        network = nn.ModuleDict({"blocks": blocks})
        assert resolve(network, ["blocks[0]", "blocks[-1]"]) == ("blocks.one", "blocks.three")
        assert resolve(resnet, ["layer*[-1].conv1"]) == tuple(f"layer{i}.1.conv1" for i in (1, 2, 3, 4))

    def test_a_module_that_stands_twice_does_not_shift_the_indices(self) -> None:
        relu = nn.ReLU()
        network = nn.Sequential(relu, relu, nn.Linear(2, 2))
        assert resolve(network, ["[2]", "[-1]"]) == ("2",)

    def test_brackets_with_anything_but_a_number_are_a_glob(self, resnet: nn.Module) -> None:
        assert resolve(resnet, ["layer[1-3]"]) == ("layer1", "layer2", "layer3")
        assert resolve(resnet, ["layer[!1].[0-9].bn1"]) == tuple(
            f"layer{i}.{j}.bn1" for i in (2, 3, 4) for j in (0, 1)
        )

    @pytest.mark.parametrize("written", ["layer[12]", "layer[12]*", "layer1[2]", "layer1[-3]", "conv1[0]"])
    def test_an_index_that_leads_nowhere_is_told_apart_from_a_glob(self, written: str, resnet: nn.Module) -> None:
        with pytest.raises(UnknownNameError, match=r"in brackets is an index; a glob is written layer\[1-3\]"):
            resolve(resnet, [written])

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
        assert (conv.kind, conv.shape, conv.layout, conv.num_neurons) == (
            "Conv2d",
            (64, 32, 32),
            Layout(Axes.MAP),
            64,
        )
        assert (fc.kind, fc.shape, fc.layout, fc.num_neurons) == ("Linear", (1000,), Layout(Axes.VECTOR), 1000)
        assert traced_resnet["layer3"].shape == (256, 4, 4)
        assert set(traced_resnet) == {name for name, _ in resnet.named_modules() if name}

    def test_counts_how_often_a_module_runs(self, traced_resnet: dict[str, TracedLayer]) -> None:
        assert trace(Repeated(), (3, 8, 8))["relu"].num_calls == 2
        assert [traced_resnet[name].num_calls for name in ("relu", "layer1.0.relu", "layer1.0")] == [1, 2, 1]

    def test_reads_tokens_from_the_tuple_that_attention_gives(self) -> None:
        attention = trace(Attended(), (3, 12, 12))["attention"]
        assert (attention.shape, attention.layout, attention.num_neurons) == ((9, 8), Layout(Axes.TOKENS, 0), 8)

    def test_a_layer_with_a_row_per_window_has_no_row_per_image(self) -> None:
        swin = timm.create_model(
            "swin_tiny_patch4_window7_224", img_size=56, depths=(1,), num_heads=(2,), embed_dim=12
        ).eval()
        traced = trace(swin, (3, 56, 56))
        windows, block = traced["layers.0.blocks.0.attn"], traced["layers.0.blocks.0"]
        assert (windows.num_calls, windows.shape, windows.layout, windows.num_neurons) == (1, None, None, None)
        assert (block.shape, block.layout, block.num_neurons) == ((14, 14, 12), Layout(Axes.MAP_CHANNELS_LAST), 12)

    @pytest.mark.parametrize("side", [3, 2])  # 9 tokens; 4 tokens of 3 images
    def test_tokens_before_images_are_told_by_the_number_of_images(self, side: int) -> None:
        class TokensFirst(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.block = nn.TransformerEncoderLayer(8, 2, 16)  # [T, B, N]

            def forward(self, images: Tensor) -> Tensor:
                return self.block(images.flatten(2).permute(2, 0, 1))

        block = trace(TokensFirst().eval(), (8, side, side))["block"]
        assert (block.layout, block.shape) == (Layout(Axes.TOKENS_FIRST, 0), (side**2, 8))

    @pytest.mark.parametrize("image_shape", [(3, 12, 9), (3, 8, 8), (3, 5, 7)])
    def test_channels_last_are_told_by_what_grows_with_the_image(self, image_shape: tuple[int, ...]) -> None:
        class Inside(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.first = nn.Conv2d(3, 8, 1)
                self.last = nn.LayerNorm(8)
                self.both = nn.Identity()

            def forward(self, images: Tensor) -> Tensor:
                maps = self.last(self.first(images).permute(0, 2, 3, 1))
                return self.both(maps.flatten(1, 2).transpose(1, 2)).mean(2)

        traced = trace(Inside().eval(), image_shape)
        _, height, width = image_shape
        assert [traced[name].layout for name in ("first", "last", "both")] == [
            Layout(Axes.MAP),
            Layout(Axes.MAP_CHANNELS_LAST),
            Layout(Axes.MAP),
        ]
        assert [layer.num_neurons for layer in traced.values()] == [8, 8, 8]
        assert traced["both"].shape == (8, height * width)

    def test_a_network_is_left_as_it_was_whatever_it_keeps_of_a_size(self) -> None:
        class Keeps(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.body = nn.Conv2d(3, 4, 3)

            def forward(self, images: Tensor) -> Tensor:
                self.size = images.shape[-1]
                return self.body(images)

        network = Keeps().eval()
        trace(network, (3, 6, 6))
        assert network.size == 6

    def test_what_the_modules_around_a_layer_say_of_its_tokens_is_taken(self) -> None:
        class Said(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.norm = nn.LayerNorm(3)
                self.num_prefix_tokens = 3

            def forward(self, images: Tensor) -> Tensor:
                tokens = images.flatten(2).transpose(1, 2)
                return self.norm(torch.cat([tokens[:, :2], tokens[:, :1], tokens[:, :5]], 1))  # 3 + 5, of any image

        traced = trace(nn.Sequential(Said()), (3, 4, 4))
        assert traced["0.norm"].layout == Layout(Axes.TOKENS, 3)
        del (unsaid := Said()).num_prefix_tokens
        assert trace(nn.Sequential(unsaid), (3, 4, 4))["0.norm"].layout == Layout(Axes.TOKENS, None)

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
        assert list(layouts.items()) == [("fc", Layout(Axes.VECTOR)), ("layer1", Layout(Axes.MAP))]

    def test_a_layer_that_never_runs_is_refused(self) -> None:
        traced = trace(Attended().eval(), (3, 12, 12))
        assert traced["attention.out_proj"].num_calls == 0  # fused: its weights are read, the module never runs
        with pytest.raises(LayerError, match=r"'attention\.out_proj' .* does not run .* Record the block"):
            recordable(traced, ["head", "attention.out_proj"], "mean")

    def test_the_layer_around_one_that_cannot_be_recorded_is_named(
        self, traced_resnet: dict[str, TracedLayer]
    ) -> None:
        with pytest.raises(LayerError, match=r"runs 2 times .*the block that contains it, 'layer3\.1', or the layer"):
            recordable(traced_resnet, ["layer3.1.relu"], "mean")
        with pytest.raises(LayerError, match=r"does not run .*the block that contains it, 'attention'\."):
            recordable(trace(Attended().eval(), (3, 12, 12)), ["attention.out_proj"], "mean")

    def test_a_layer_that_runs_twice_is_refused_with_the_number(self) -> None:
        with pytest.raises(LayerError, match=r"'relu' \(ReLU\) runs 2 times .* Record the block"):
            recordable(trace(Repeated(), (3, 8, 8)), ["relu"], "mean")

    @pytest.mark.parametrize(
        ("output", "what"),
        [
            (lambda images: {"classes": images.argmax(1)}, "dict of classes, from which"),
            (lambda images: BackboneOutput(images > 0), "BackboneOutput, from which"),
            (lambda images: [None, images > 0], "list that begins with NoneType"),
            (
                lambda images: {"maps": images, "pooled": images.mean((2, 3))},
                r"2 tensors of floats .*, and none comes",
            ),
            (lambda images: ((images, images), images), r"3 tensors .*backbone\[0\]\[0\], .*\[1\]\), and none comes"),
            (lambda images: (images.mean(), images), r"\[\] for 3 images, .* Record backbone\[1\]\."),
            (lambda images: images[:, :0], r"\[0, 4, 4\] for an image, which holds no number"),
            (lambda images: images.flatten(1).to_sparse(), "sparse Tensor of float32"),
            (lambda images: torch.nested.nested_tensor(list(images)), "nested Tensor of float32"),
            (lambda images: images.to(torch.float8_e4m3fn), "Tensor of float8"),
            (lambda images: packed(images.mean(1)), "PackedSequence, from which"),
            (lambda images: images.argmax(1), "Tensor of int64"),
            (lambda images: torch.fft.fft(images), "Tensor of complex64"),
            (lambda images: images.mean(), r"\[\] for 3 images, which has no row per image"),
            (lambda images: images.mean(0), r"\[3, 4, 4\] for 3 images, which has no row per image"),
            (lambda images: images[0, :, 0], r"\[3, 4\] for 3 images, which has no row per image"),
        ],
    )
    def test_a_layer_without_a_tensor_of_floats_per_image_is_refused_with_what_it_gives(
        self, output: Callable[[Tensor], object], what: str
    ) -> None:
        class Backbone(nn.Module):
            def forward(self, images: Tensor) -> object:
                return output(images)

        class Network(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.backbone = Backbone()

            def forward(self, images: Tensor) -> Tensor:
                self.backbone(images)
                return images

        traced = trace(Network(), (3, 4, 4))
        assert (traced["backbone"].num_calls, traced["backbone"].num_neurons) == (1, None)
        with pytest.raises(LayerError, match=rf"'backbone' gives {what}"):
            recordable(traced, ["backbone"], "mean")

    def test_a_summary_that_does_not_fit_is_refused_before_any_image_is_read(
        self, traced_resnet: dict[str, TracedLayer]
    ) -> None:
        with pytest.raises(LayerError, match="class_token needs tokens, and layer 'layer1'"):
            recordable(traced_resnet, ["fc", "layer1"], "class_token")
