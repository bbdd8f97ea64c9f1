"""The scale of an image's values, by their type: looked at once, before an image enters a probe set.

Pillow gives grey images of more than 8 bits as they are stored, and what is black and what is white in them depends
on the type of number and the file format. A scale is never taken from the values: two images of one folder would be
scaled by different factors.
"""

from __future__ import annotations

import warnings
from contextlib import suppress

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.TiffImagePlugin import BITSPERSAMPLE, PHOTOMETRIC_INTERPRETATION, SAMPLEFORMAT

from tasks.images import FORMATS, TIFF, UndecodableError, grey, opened, tiff_type

#: Increment when images of these types are scaled or refused otherwise than before.
VERSION = 1
#: Endings of files of these formats.
ENDINGS = frozenset({"tif", "tiff", "pgm"})
#: What files begin with that may hold other than 8-bit or 16-bit values: TIFF, and PGM and PFM.
MAY_BE_WIDE = (*TIFF, b"P2", b"P5", b"Pf")
WHITE_IS_ZERO, SIGNED = 0, 2


def in_8_bits(data: bytes) -> Image.Image | None:
    """The image as RGB, its values scaled by their type, where `decode` does not scale them so; None where it does.

    Raises `UndecodableError` where the type has no scale: integers of 32 bits or with a sign, and floats that leave
    the range from 0 to 1. What is damaged is left to `decode`.
    """
    if not data.startswith(MAY_BE_WIDE):
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = _header(data)
        top = _top(image) if image else None
        values = _values(image) if image and top else None
    if image is None or top is None or values is None:
        return None
    # What is dark in a PGM of 16 bits, `decode` would take for 8 bits.
    if image.format == "PPM" and image.mode == "I" and not 0 < values.max() <= 255:
        return None
    if image.mode == "F":
        _refuse_range(values)
    inverted, scaled = _is_inverted(image), np.rint if image.mode == "F" else np.floor
    return grey(values, lambda some: scaled((top - some if inverted else some) * 255 / top))


def _header(data: bytes) -> Image.Image | None:
    with suppress(Exception):
        return opened(data, FORMATS)
    return None


def _values(image: Image.Image) -> npt.NDArray[np.generic] | None:
    """The values as they are stored, `[H, W]`; None where they are damaged."""
    with suppress(Exception):
        values = np.asarray(image)
        return values if values.size else None
    return None


def _top(image: Image.Image) -> int | None:
    """The value of white, or of black where 0 is white; None where `decode` knows it. Raises `UndecodableError`."""
    if image.mode == "F":
        return 1
    if image.format != "TIFF":
        return 65535 if image.mode == "I" else None  # Pillow brings a PGM to 16 bits
    bits, sample_format = _tag(image, BITSPERSAMPLE, 1), _tag(image, SAMPLEFORMAT, 1)
    if (image.mode == "I" or sample_format == SIGNED) and _values(image) is not None:
        raise UndecodableError(
            f"its pixels are {tiff_type(bits, sample_format)}, of which no scale is known: save it in 8 bits, or "
            "as unsigned integers of 16 bits"
        )
    if bits == 12:
        return 4095
    return 65535 if _is_inverted(image) else None


def _refuse_range(floats: npt.NDArray[np.generic]) -> None:
    low, high = float(floats.min()), float(floats.max())
    if not np.isfinite([low, high]).all():
        number = floats.size - int(np.isfinite(floats).sum())
        raise UndecodableError(f"{number:,} of its {floats.size:,} values are NaN or infinite")
    if low < 0 or high > 1:
        raise UndecodableError(
            f"its pixels are 32-bit floats from {low:.9g} to {high:.9g}, of which no scale is known: save it in 8 "
            "bits, or as floats from 0 to 1"
        )


def _is_inverted(image: Image.Image) -> bool:
    """True if 0 is white and Pillow has left it so, as it does where a value has more than 8 bits."""
    return image.mode in ("F", "I;16", "I;16B") and _tag(image, PHOTOMETRIC_INTERPRETATION, 1) == WHITE_IS_ZERO


def _tag(image: Image.Image, number: int, default: int) -> int:
    value = getattr(image, "tag_v2", {}).get(number, default)
    return int(value[0] if isinstance(value, tuple) else value)
