"""Summary functions: the right axes are pooled, whatever the layout, and what fits no layout is refused."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tasks.dissection.errors import LayerError
from tasks.dissection.layouts import Axes, Layout
from tasks.dissection.summary import SUMMARIES, SummaryName, summarise
from tests.test_dissection.strategies import QUICK

ALL: tuple[SummaryName, ...] = get_args(SummaryName)
OF_TOKENS: tuple[SummaryName, ...] = ("class_token", "token_mean", "token_max")

sizes = st.integers(1, 5)


def output_of(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape)))


class TestMaps:
    @given(sizes, sizes, sizes, sizes)
    @QUICK
    def test_a_map_is_pooled_over_its_pixels(self, batch: int, neurons: int, height: int, width: int) -> None:
        maps = output_of(batch, neurons, height, width)
        pixels = [[one.flatten().tolist() for one in image] for image in maps]  # [B][N][H·W]
        means = summarise(maps, Layout(Axes.MAP), "mean", "layer")
        np.testing.assert_allclose(means, [[sum(p) / len(p) for p in image] for image in pixels], 1e-5, 1e-6)
        assert summarise(maps, Layout(Axes.MAP), "max", "layer").tolist() == [
            [max(p) for p in image] for image in pixels
        ]

    @pytest.mark.parametrize("summary", ["mean", "max"])
    def test_channels_last_are_the_same_neurons(self, summary: SummaryName) -> None:
        maps = output_of(2, 7, 4, 4)
        first = summarise(maps, Layout(Axes.MAP), summary, "layer")
        last = summarise(maps.permute(0, 2, 3, 1), Layout(Axes.MAP_CHANNELS_LAST), summary, "layer")
        np.testing.assert_allclose(last, first, rtol=1e-6)

    @pytest.mark.parametrize("summary", ["mean", "max"])
    def test_a_video_is_pooled_over_time_too(self, summary: SummaryName) -> None:
        video = output_of(2, 5, 3, 4, 4)
        pooled = {"mean": video.mean((2, 3, 4)), "max": video.amax((2, 3, 4))}[summary]
        np.testing.assert_allclose(summarise(video, Layout(Axes.MAP), summary, "layer"), pooled, 1e-5, 1e-7)

    @pytest.mark.parametrize("layout", [Layout(Axes.MAP), Layout(Axes.MAP_CHANNELS_LAST)])
    @pytest.mark.parametrize("summary", OF_TOKENS)
    def test_a_map_has_no_tokens(self, summary: SummaryName, layout: Layout) -> None:
        with pytest.raises(LayerError, match=rf"{summary} needs tokens, and layer 'conv' .* Use mean or max"):
            summarise(output_of(2, 4, 4, 4), layout, summary, "conv")


class TestTokens:
    @pytest.mark.parametrize(("num_prefix", "num_patches"), [(1, 1), (1, 9), (2, 196), (5, 12), (1, 50)])
    def test_what_stands_before_the_patches_is_no_patch(self, num_prefix: int, num_patches: int) -> None:
        tokens = output_of(2, num_prefix + num_patches, 6)
        layout = Layout(Axes.TOKENS, num_prefix)
        expected = {
            "mean": tokens.sum(1) / (num_prefix + num_patches),
            "max": tokens.max(1).values,
            "class_token": tokens[:, 0],
            "token_mean": tokens[:, num_prefix:].sum(1) / num_patches,
            "token_max": tokens[:, num_prefix:].max(1).values,
        }
        for summary in ALL:
            of = summarise(tokens, layout, summary, "block")
            np.testing.assert_allclose(of, expected[summary], 1e-5, 1e-6, err_msg=summary)

    @pytest.mark.parametrize("summary", ALL)
    def test_tokens_before_images_are_the_same_neurons(self, summary: SummaryName) -> None:
        tokens = output_of(2, 10, 6)
        first = summarise(tokens.transpose(0, 1), Layout(Axes.TOKENS_FIRST, 1), summary, "block")
        assert torch.equal(first, summarise(tokens, Layout(Axes.TOKENS, 1), summary, "block"))

    def test_patches_alone_have_no_class_token_and_all_are_pooled(self) -> None:
        tokens, layout = output_of(2, 196, 6), Layout(Axes.TOKENS, 0)
        assert torch.equal(
            summarise(tokens, layout, "token_mean", "block"), summarise(tokens, layout, "mean", "block")
        )
        assert torch.equal(summarise(tokens, layout, "token_max", "block"), summarise(tokens, layout, "max", "block"))
        with pytest.raises(LayerError, match=r"'block' gives 196 tokens.*Use token_mean or token_max"):
            summarise(tokens, layout, "class_token", "block")

    def test_registers_are_no_class_token(self) -> None:
        registers = Layout(Axes.TOKENS, 4, has_class_token=False)
        with pytest.raises(LayerError, match=r"'block' gives 4 tokens before its patches, .* registers"):
            summarise(output_of(2, 20, 6), registers, "class_token", "block")
        assert summarise(output_of(2, 20, 6), registers, "token_mean", "block").shape == (2, 6)

    @pytest.mark.parametrize("summary", ["token_mean", "token_max"])
    def test_a_class_token_alone_has_no_patches(self, summary: SummaryName) -> None:
        alone = Layout(Axes.TOKENS, 1)
        assert summarise(output_of(2, 1, 6), alone, "class_token", "block").shape == (2, 6)
        with pytest.raises(LayerError, match=r"'block' gives 1 tokens, none of them a patch. Use class_token"):
            summarise(output_of(2, 1, 6), alone, summary, "block")

    @pytest.mark.parametrize("summary", OF_TOKENS)
    def test_where_patches_cannot_be_told_the_way_out_is_said(self, summary: SummaryName) -> None:
        unknown = Layout(Axes.TOKENS)
        assert summarise(output_of(2, 52, 6), unknown, "mean", "block").shape == (2, 6)
        with pytest.raises(LayerError, match=r"'block' gives 52 tokens.*Use mean or max.*num_prefix_tokens"):
            summarise(output_of(2, 52, 6), unknown, summary, "block")


class TestVectors:
    @pytest.mark.parametrize("summary", ALL)
    def test_a_vector_is_its_own_summary(self, summary: SummaryName) -> None:
        vector = output_of(3, 10)
        assert torch.equal(summarise(vector, Layout(Axes.VECTOR), summary, "fc"), vector)


LAYOUTS = {
    Layout(Axes.VECTOR): (2, 5),
    Layout(Axes.MAP): (2, 5, 1, 1),
    Layout(Axes.MAP_CHANNELS_LAST): (2, 1, 1, 5),
    Layout(Axes.TOKENS, 1): (2, 2, 5),
    Layout(Axes.TOKENS_FIRST, 1): (2, 2, 5),
}


FITTING = [
    (layout, summary)
    for layout in LAYOUTS
    for summary in SUMMARIES
    if layout.axes is Axes.VECTOR or layout.is_tokens or summary not in OF_TOKENS
]


@pytest.mark.parametrize(("layout", "summary"), FITTING)
def test_activations_are_never_a_view_of_the_output(layout: Layout, summary: SummaryName) -> None:
    output = output_of(*LAYOUTS[layout])
    activations = summarise(output, layout, summary, "layer")
    before = activations.clone()
    output.fill_(7.0)  # as an in-place operation that follows the layer does
    assert torch.equal(activations, before)
