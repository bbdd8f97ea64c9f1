"""Summary functions: the right axes are pooled, whatever the layout, and what fits no layout is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tasks.dissection.errors import LayerError
from tasks.dissection.summary import SUMMARIES, Layout, SummaryName, first_tensor, summarise
from tests.test_dissection.strategies import QUICK

ALL: tuple[SummaryName, ...] = get_args(SummaryName)
OF_TOKENS: tuple[SummaryName, ...] = ("class_token", "token_mean", "token_max")

sizes = st.integers(1, 5)


def output_of(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape)))


class TestLayout:
    @pytest.mark.parametrize(
        ("shape", "layout"),
        [
            ((3, 1000), Layout.VECTOR),
            ((3, 197, 768), Layout.TOKENS),
            ((3, 64, 56, 56), Layout.MAP),  # ResNet
            ((3, 56, 56, 96), Layout.MAP_CHANNELS_LAST),  # Swin
            ((3, 512, 1, 1), Layout.MAP),  # after global pooling
            ((3, 1, 1, 768), Layout.MAP_CHANNELS_LAST),
            ((3, 16, 16, 16), Layout.MAP),  # cannot be told: torch's own order
            ((3, 64, 8, 56, 56), Layout.MAP),  # video
        ],
    )
    def test_of_the_shapes_that_networks_have(self, shape: tuple[int, ...], layout: Layout) -> None:
        assert Layout.of(shape, "layer") is layout

    @pytest.mark.parametrize("shape", [(3,), (3, 2, 2, 2, 2, 2)])
    def test_other_numbers_of_axes_are_refused_by_name_and_shape(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(LayerError, match=rf"'neck' .* {len(shape)} axes") as caught:
            Layout.of(shape, "neck")
        assert str(list(shape)) in str(caught.value)


class TestMaps:
    @given(sizes, sizes, sizes, sizes)
    @QUICK
    def test_a_map_is_pooled_over_its_pixels(self, batch: int, neurons: int, height: int, width: int) -> None:
        maps = output_of(batch, neurons, height, width)
        pixels = [[one.flatten().tolist() for one in image] for image in maps]  # [B][N][H·W]
        means = summarise(maps, Layout.MAP, "mean", "layer")
        np.testing.assert_allclose(means, [[sum(p) / len(p) for p in image] for image in pixels], 1e-5, 1e-6)
        assert summarise(maps, Layout.MAP, "max", "layer").tolist() == [[max(p) for p in image] for image in pixels]

    @pytest.mark.parametrize("summary", ["mean", "max"])
    def test_channels_last_are_the_same_neurons(self, summary: SummaryName) -> None:
        maps = output_of(2, 7, 4, 4)
        first = summarise(maps, Layout.MAP, summary, "layer")
        last = summarise(maps.permute(0, 2, 3, 1), Layout.MAP_CHANNELS_LAST, summary, "layer")
        np.testing.assert_allclose(last, first, rtol=1e-6)

    @pytest.mark.parametrize("summary", ["mean", "max"])
    def test_a_video_is_pooled_over_time_too(self, summary: SummaryName) -> None:
        video = output_of(2, 5, 3, 4, 4)
        pooled = {"mean": video.mean((2, 3, 4)), "max": video.amax((2, 3, 4))}[summary]
        np.testing.assert_allclose(summarise(video, Layout.MAP, summary, "layer"), pooled, 1e-5, 1e-7)

    @pytest.mark.parametrize("layout", [Layout.MAP, Layout.MAP_CHANNELS_LAST])
    @pytest.mark.parametrize("summary", OF_TOKENS)
    def test_a_map_has_no_tokens(self, summary: SummaryName, layout: Layout) -> None:
        with pytest.raises(LayerError, match=rf"{summary} needs tokens, and layer 'conv' .* Use mean or max"):
            summarise(output_of(2, 4, 4, 4), layout, summary, "conv")


class TestTokens:
    @pytest.mark.parametrize("num_patches", [1, 4, 9, 196])
    def test_the_class_token_stands_before_a_square_of_patches(self, num_patches: int) -> None:
        tokens = output_of(2, num_patches + 1, 6)
        of = {summary: summarise(tokens, Layout.TOKENS, summary, "block") for summary in ALL}
        expected = {
            "mean": tokens.sum(1) / (num_patches + 1),
            "max": tokens.max(1).values,
            "class_token": tokens[:, 0],
            "token_mean": tokens[:, 1:].sum(1) / num_patches,
            "token_max": tokens[:, 1:].max(1).values,
        }
        for summary in ALL:
            np.testing.assert_allclose(of[summary], expected[summary], 1e-5, 1e-6, err_msg=summary)

    @pytest.mark.parametrize("num_patches", [1, 4, 196])
    def test_a_square_of_patches_has_no_class_token_and_all_are_pooled(self, num_patches: int) -> None:
        tokens = output_of(2, num_patches, 6)
        for summary in ("mean", "max"):
            assert torch.equal(
                summarise(tokens, Layout.TOKENS, f"token_{summary}", "block"),
                summarise(tokens, Layout.TOKENS, summary, "block"),
            )
        with pytest.raises(LayerError, match=rf"'block' gives {num_patches} tokens.*Use token_mean or token_max"):
            summarise(tokens, Layout.TOKENS, "class_token", "block")


class TestVectors:
    @pytest.mark.parametrize("summary", ALL)
    def test_a_vector_is_its_own_summary(self, summary: SummaryName) -> None:
        vector = output_of(3, 10)
        assert torch.equal(summarise(vector, Layout.VECTOR, summary, "fc"), vector)


LAYOUTS = {
    Layout.VECTOR: (2, 5),
    Layout.MAP: (2, 5, 1, 1),
    Layout.MAP_CHANNELS_LAST: (2, 1, 1, 5),
    Layout.TOKENS: (2, 2, 5),
}


FITTING = [
    (layout, summary)
    for layout in LAYOUTS
    for summary in SUMMARIES
    if layout in (Layout.VECTOR, Layout.TOKENS) or summary not in OF_TOKENS
]


@pytest.mark.parametrize(("layout", "summary"), FITTING)
def test_activations_are_never_a_view_of_the_output(layout: Layout, summary: SummaryName) -> None:
    output = output_of(*LAYOUTS[layout])
    activations = summarise(output, layout, summary, "layer")
    before = activations.clone()
    output.fill_(7.0)  # as an in-place operation that follows the layer does
    assert torch.equal(activations, before)


class TestFirstTensor:
    @pytest.mark.parametrize("wrap", [lambda t: t, lambda t: (t, None), lambda t: [t, t + 1]])
    def test_is_the_output_or_the_first_of_several(self, wrap: Callable[[Tensor], object]) -> None:
        tensor = output_of(2, 3)
        assert first_tensor(wrap(tensor), "layer") is tensor

    @pytest.mark.parametrize(
        ("output", "kind"),
        [
            ({"features": torch.zeros(1)}, "dict"),
            ((), "tuple"),
            ((None, torch.zeros(1)), "NoneType"),
            (torch.zeros(2, dtype=torch.int64), "Tensor"),
        ],
        ids=["dict", "empty tuple", "no tensor first", "integers"],
    )
    def test_of_anything_else_is_refused_by_name_and_kind(self, output: object, kind: str) -> None:
        with pytest.raises(LayerError, match=rf"'neck' gives {kind}"):
            first_tensor(output, "neck")
