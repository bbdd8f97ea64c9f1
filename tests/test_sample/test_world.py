"""The drawn world: the same bits everywhere, captions that are true, splits that share nothing."""

import hashlib
from collections import Counter

import numpy as np
import pytest

from tasks.sample.shapes import SHAPES
from tasks.sample.world import (
    BACKGROUNDS,
    CAPTIONS,
    COLOURS,
    PER_BLOCK,
    TEXTURES,
    caption,
    draw,
    mentions,
    scene,
)


@pytest.mark.parametrize(
    ("split", "index", "digest"),
    [
        ("probe", 0, "2f6f2e251e8396b8"),
        ("probe", 777, "6f31ceea0f4bf027"),
        ("probe", 1500, "680dafb072869252"),
        ("probe", 2399, "c40e104fc7036c0b"),
        ("train", 0, "b268ad6ab5e95951"),
        ("train", 23_999, "3dfb33be5d3021f2"),
    ],
)
def test_a_drawing_is_the_same_on_every_machine(split, index, digest):
    pixels = draw(scene(index, split))
    assert pixels.shape == (64, 64, 3) and pixels.dtype == np.uint8
    assert hashlib.sha256(pixels.tobytes()).hexdigest()[:16] == digest


def test_splits_share_no_drawing():
    drawn = {split: {draw(scene(index, split)).tobytes() for index in range(300)} for split in ("train", "probe")}
    assert len(drawn["train"]) == len(drawn["probe"]) == 300
    assert drawn["train"].isdisjoint(drawn["probe"])


def test_a_block_is_balanced():
    scenes = [scene(index, "probe") for index in range(PER_BLOCK)]
    assert [of.shape for of in scenes] == [name for name in SHAPES for _ in range(120)]
    for field, values in (
        ("colour", COLOURS),
        ("texture", TEXTURES),
        ("background", BACKGROUNDS),
        ("background_colour", COLOURS),
    ):
        counts = Counter((of.shape, getattr(of, field)) for of in scenes)
        assert counts == {(name, value): 120 // len(values) for name in SHAPES for value in values}
    assert all(of.colour != of.background_colour for of in scenes)


def test_every_shape_covers_some_of_the_disc_and_differs_from_the_others():
    y, x = np.mgrid[1:-1:65j, -1:1:65j].astype(np.float32)
    masks = [shape(x, y) for shape in SHAPES.values()]
    assert all(0.1 < mask.mean() < 0.75 for mask in masks)
    for i, mask in enumerate(masks):
        assert all((mask ^ other).mean() > 0.05 for other in masks[:i])


def test_captions_are_true_and_of_every_kind():
    of = scene(1234, "train")
    possible = {template.format(**vars(of)) for template in CAPTIONS}
    rng = np.random.default_rng(0)
    assert {caption(of, rng) for _ in range(2_000)} == possible


def test_mentions_names_the_fields_of_a_template():
    assert mentions("a {colour} {shape} on a {background} background") == {"colour", "shape", "background"}
