from __future__ import annotations

import io

import pytest
from PIL import Image

from tasks.report.thumbnails import DEEP_MODES, thumbnail

MODES = (
    *("1", "L", "P", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr", "LAB", "HSV", "LA", "La", "PA"),
    *sorted(DEEP_MODES),
)


def opened(jpeg: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(jpeg))
    image.load()
    return image


def close(a: object, b: tuple[int, int, int]) -> bool:
    assert isinstance(a, tuple)
    return all(abs(x - y) <= 6 for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("size", [(1, 1), (32, 32), (50, 300), (700, 400)])
@pytest.mark.parametrize("mode", MODES)
def test_any_mode_and_size(mode: str, size: tuple[int, int]) -> None:
    small = opened(thumbnail(Image.new(mode, size), side=64))
    assert (small.format, small.mode, small.size) == ("JPEG", "RGB", (64, 64))


def test_centre_is_cropped() -> None:
    wide = Image.new("RGB", (300, 100), "red")
    wide.paste((0, 0, 255), (100, 0, 200, 100))
    small = opened(thumbnail(wide))
    assert all(close(small.getpixel(xy), (0, 0, 254)) for xy in [(1, 1), (94, 94), (48, 48)])


def test_small_images_keep_their_pixels() -> None:
    board = Image.new("RGB", (32, 32), "white")
    board.paste((0, 0, 0), (16, 0, 32, 32))
    small = opened(thumbnail(board, side=96))
    assert close(small.getpixel((47, 50)), (255, 255, 255))
    assert close(small.getpixel((48, 50)), (0, 0, 0))


def test_deep_images_are_stretched_not_clipped() -> None:
    deep = Image.new("I;16", (100, 100), 1000)
    deep.paste(4000, (50, 0, 100, 100))
    small = opened(thumbnail(deep))
    assert close(small.getpixel((10, 50)), (0, 0, 0))
    assert close(small.getpixel((86, 50)), (255, 255, 255))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_floats_that_are_not_finite(value: float) -> None:
    assert opened(thumbnail(Image.new("F", (8, 8), value))).size == (96, 96)


def test_transparency_is_white() -> None:
    palette = Image.new("P", (120, 120), 0)
    palette.info["transparency"] = 0
    for clear in (Image.new("RGBA", (120, 120), (9, 9, 9, 0)), Image.new("LA", (120, 120), (9, 0)), palette):
        assert close(opened(thumbnail(clear)).getpixel((5, 5)), (255, 255, 255))


def test_nothing_else_of_the_original_is_kept() -> None:
    image = Image.new("RGB", (200, 200))
    image.info.update(comment=b"c" * 60_000, icc_profile=b"p" * 60_000, dpi=(1, 1))
    assert len(thumbnail(image)) < 1500
