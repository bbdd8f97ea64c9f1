"""Small square JPEGs of images of any mode and size."""

from __future__ import annotations

import io
import math
from typing import cast

from PIL import Image

DEEP_MODES = frozenset({"I", "F", "I;16", "I;16L", "I;16B", "I;16N"})


def thumbnail(image: Image.Image, side: int = 96) -> bytes:
    """The centre of `image` as a `side` × `side` JPEG.

    The pixels are taken as they come: a caller that turns images by their EXIF orientation before
    the network sees them passes the turned image here too.
    """
    square = _rgb(_centre_square(image))
    # Nearest keeps the pixels of a 32×32 image apart, as squares that can be read; a smooth
    # enlargement would show a blur that the network never saw.
    is_small = square.width < side
    method = Image.Resampling.NEAREST if is_small else Image.Resampling.LANCZOS
    small = square.resize((side, side), method, reducing_gap=3.0)
    small.info.clear()  # the JPEG writer would copy the original's comment, up to 64 KiB of it
    buffer = io.BytesIO()
    # Halved colour resolution would smear the squares into each other.
    small.save(buffer, "JPEG", quality=82, optimize=True, subsampling="4:4:4" if is_small else "4:2:0")
    return buffer.getvalue()


def _centre_square(image: Image.Image) -> Image.Image:
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


def _rgb(image: Image.Image) -> Image.Image:
    """`image` as a viewer would show it: transparency over white, deep grey levels stretched to 8 bits."""
    if image.mode in DEEP_MODES:
        return _stretched(image).convert("RGB")
    if image.mode == "LAB":
        return image.getchannel("L").convert("RGB")  # Pillow converts LAB only with a colour profile
    if image.mode == "La":
        image = image.convert("LA")  # the only way on from La
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _stretched(image: Image.Image) -> Image.Image:
    # Nothing in the file says which range is used (12-bit scans in 16-bit files are common), so the
    # darkest pixel becomes black and the brightest white. Pillow itself would clip at 255.
    image = image.convert("F")
    low, high = cast("tuple[float, float]", image.getextrema())  # one band, hence one pair
    if not (math.isfinite(low) and math.isfinite(high)):
        return Image.new("L", image.size, 128)
    scale = 255 / (high - low) if high > low else 0.0
    return image.point(lambda value: value * scale - low * scale).convert("L")
