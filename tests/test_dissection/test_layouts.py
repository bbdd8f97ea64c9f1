"""Layouts: which axis holds the neurons, by what grows with the image; and how many tokens are no patch."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.dissection.errors import LayerError
from tasks.dissection.layouts import Axes, Layout, PrefixTokens, Seen, find_layout
from tests.test_dissection.strategies import QUICK

SQUARE = (224, 224)
Shape = tuple[int, ...]


def layout_of(
    shape: Shape, grown: Shape | None = None, size: tuple[int, int] = SQUARE, said: PrefixTokens | None = None
) -> Layout:
    """Of an output `[3, ...]`, and `[2, ...]` for images of twice the size."""
    other = Seen((2, *grown), 2) if grown else Seen((2, *shape), 2)
    layout, of_one = find_layout("layer", size, Seen((3, *shape), 3), other, said)
    assert of_one == shape
    return layout


@pytest.mark.parametrize(
    ("shape", "grown", "axes"),
    [
        ((1000,), (1000,), Axes.VECTOR),
        ((2048,), (8192,), Axes.VECTOR),  # a flattened map
        ((64, 56, 56), (64, 112, 112), Axes.MAP),  # ResNet
        ((56, 56, 96), (112, 112, 96), Axes.MAP_CHANNELS_LAST),  # Swin
        ((7, 7, 7), (7, 14, 14), Axes.MAP),
        ((7, 7, 7), (14, 14, 7), Axes.MAP_CHANNELS_LAST),
        ((12, 9, 9), (24, 18, 9), Axes.MAP_CHANNELS_LAST),
        ((9, 9, 12), (9, 18, 24), Axes.MAP),
        ((8, 1, 1), (8, 2, 2), Axes.MAP),
        ((196, 768), (784, 768), Axes.TOKENS),
        ((512, 49), (512, 196), Axes.MAP),  # one spatial axis: a flattened map, or a Mixer's mixing
        ((8, 4, 28, 28), (8, 4, 56, 56), Axes.MAP),  # video
        ((8, 4, 28, 28), (8, 8, 56, 56), Axes.MAP),
    ],
)
def test_the_axis_that_does_not_grow_with_the_image_is_that_of_neurons(
    shape: Shape, grown: Shape, axes: Axes
) -> None:
    assert layout_of(shape, grown).axes is axes


@pytest.mark.parametrize(
    ("shape", "size", "axes"),
    [
        ((64, 56, 56), SQUARE, Axes.MAP),
        ((56, 56, 96), SQUARE, Axes.MAP_CHANNELS_LAST),
        ((28, 56, 96), (112, 224), Axes.MAP_CHANNELS_LAST),
        ((96, 28, 56), (112, 224), Axes.MAP),
        ((4, 3, 12), (15, 10), Axes.MAP_CHANNELS_LAST),  # rounded up
        ((512, 7, 7), (112, 224), Axes.MAP),  # pooled to one size
        ((512, 1, 1), SQUARE, Axes.MAP),
        ((1, 1, 768), SQUARE, Axes.MAP_CHANNELS_LAST),
        ((16, 16, 16), SQUARE, Axes.MAP),  # cannot be told: torch's own order
        ((197, 768), SQUARE, Axes.TOKENS),
        ((64, 8, 56, 56), SQUARE, Axes.MAP),
    ],
)
def test_what_does_not_grow_is_told_by_the_shape_of_the_image(
    shape: Shape, size: tuple[int, int], axes: Axes
) -> None:
    assert layout_of(shape, None, size).axes is axes


@pytest.mark.parametrize(
    ("shape", "grown"),
    [
        ((3, 197, 64), (3, 785, 64)),  # heads, tokens, width
        ((3, 197, 64), None),
        ((197, 3, 64), (785, 3, 64)),
        ((197, 197), (785, 785)),
        ((7, 7, 7), (14, 14, 14)),
        ((2, 2, 2, 2, 2), None),
    ],
)
def test_where_the_axis_of_neurons_cannot_be_told_the_shape_is_said(shape: Shape, grown: Shape | None) -> None:
    with pytest.raises(LayerError, match=r"'layer' gives .* which axis holds its neurons") as caught:
        layout_of(shape, grown)
    assert str(list(shape)) in str(caught.value)
    assert str(list(grown or shape)) in str(caught.value)


class TestImages:
    def test_tokens_may_stand_before_images(self) -> None:
        seen, other = Seen((50, 3, 8), 3), Seen((197, 2, 8), 2)
        assert find_layout("layer", SQUARE, seen, other, None) == (Layout(Axes.TOKENS_FIRST, 1), (50, 8))

    def test_three_tokens_are_not_taken_for_three_images(self) -> None:
        seen, other = Seen((3, 3, 8), 3), Seen((3, 2, 8), 2)
        layout, shape = find_layout("layer", SQUARE, seen, other, PrefixTokens(2, True))
        assert (layout, shape) == (Layout(Axes.TOKENS_FIRST, 2), (3, 8))

    @pytest.mark.parametrize("shape", [(), (1, 50, 8), (192, 49, 96), (12, 8, 8, 32), (9, 3, 2, 4)])
    def test_an_output_without_a_row_per_image_is_refused_with_both_numbers(self, shape: Shape) -> None:
        with pytest.raises(LayerError, match=r"'layer' gives .* for 3 images, which has no row per image") as caught:
            find_layout("layer", SQUARE, Seen(shape, 3), Seen(shape, 2), None)
        assert str(list(shape)) in str(caught.value)

    def test_a_layer_that_gave_nothing_at_the_other_size_is_told_by_its_shape(self) -> None:
        assert find_layout("layer", SQUARE, Seen((3, 7, 7, 96), 3), None, None)[0].axes is Axes.MAP_CHANNELS_LAST


class TestPrefixTokens:
    @given(st.integers(0, 9), st.integers(1, 20), st.integers(1, 20))
    @QUICK
    def test_they_are_those_that_do_not_grow(self, num_prefix: int, rows: int, columns: int) -> None:
        shape, grown = (num_prefix + rows * columns, 8), (num_prefix + 4 * rows * columns, 8)
        layout = layout_of(shape, grown, (16 * rows, 16 * columns), PrefixTokens(3, True))
        assert layout == Layout(Axes.TOKENS, num_prefix)

    @pytest.mark.parametrize(
        ("num_tokens", "said", "num_prefix"),
        [
            (197, 1, 1),
            (196, 1, 0),  # the patches before the class token joins them
            (198, 2, 2),  # DeiT, distilled
            (201, 5, 5),  # registers
            (200, 4, 4),
            (1, 1, 1),  # the class token alone
            (150, 5, 5),  # patches of which some were dropped
            (196, 0, 0),
            (150, 0, 0),
        ],
    )
    def test_else_they_are_as_many_as_the_network_says(self, num_tokens: int, said: int, num_prefix: int) -> None:
        layout = layout_of((num_tokens, 8), said=PrefixTokens(said, has_class_token=False))
        assert layout == Layout(Axes.TOKENS, num_prefix, has_class_token=False)

    @pytest.mark.parametrize(
        ("num_tokens", "size", "num_prefix"),
        [
            (197, SQUARE, 1),
            (196, SQUARE, 0),
            (1, SQUARE, 0),
            (2, SQUARE, 1),
            (12, (64, 48), 0),
            (13, (64, 48), 1),
            (99, (112, 224), 1),  # 7 × 14
            (99, SQUARE, None),
            (198, SQUARE, None),
        ],
    )
    def test_else_they_are_none_or_one_before_a_grid_of_the_images_shape(
        self, num_tokens: int, size: tuple[int, int], num_prefix: int | None
    ) -> None:
        assert layout_of((num_tokens, 8), None, size).num_prefix_tokens == num_prefix


def test_a_layout_says_what_it_is() -> None:
    layouts = Layout(Axes.VECTOR), Layout(Axes.MAP_CHANNELS_LAST), Layout(Axes.TOKENS, 0), Layout(Axes.TOKENS, 5)
    assert [str(layout) for layout in layouts] == [
        "vector",
        "map, channels last",
        "tokens",
        "tokens, 5 before the patches",
    ]
