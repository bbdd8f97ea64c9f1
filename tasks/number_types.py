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
        image = _loaded(data)
        if image is None:
            return None
        if image.mode == "F":
            return _of_floats(np.asarray(image), _is_inverted(image))
        top = _refuse_or_top(image)
    if top is None:
        return None
    values, inverted = np.asarray(image), _is_inverted(image)
    return grey(values, lambda some: (top - some if inverted else some) * 255 // top)


def _loaded(data: bytes) -> Image.Image | None:
    with suppress(Exception):
        image = opened(data, FORMATS)
        if min(image.size) and (image.format == "TIFF" or image.mode in ("I", "F")):
            image.load()
            return image
    return None


def _of_floats(values: npt.NDArray[np.float32], inverted: bool) -> Image.Image:
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        number = int(values.size - np.isfinite(values).sum())
        raise UndecodableError(f"{number:,} of its {values.size:,} values are NaN or infinite")
    if low < 0 or high > 1:
        raise UndecodableError(
            f"its pixels are 32-bit floats from {low:.9g} to {high:.9g}, of which no scale is known: save it in 8 "
            "bits, or as floats from 0 to 1"
        )
    return grey(values, lambda some: np.rint((1 - some if inverted else some) * 255))


def _refuse_or_top(image: Image.Image) -> int | None:
    """The value of white, or of black where 0 is white; None where `decode` knows it. Raises `UndecodableError`."""
    if image.format == "PPM":
        # A dark image would be taken for one of 8 bits. Pillow has brought its values to 16 bits.
        return 65535 if 0 < np.asarray(image).max() <= 255 else None
    bits, sample_format = _tag(image, BITSPERSAMPLE, 1), _tag(image, SAMPLEFORMAT, 1)
    if image.mode == "I" or sample_format == SIGNED:
        raise UndecodableError(
            f"its pixels are {tiff_type((bits,), sample_format)}, of which no scale is known: save it in 8 bits, or "
            "as unsigned integers of 16 bits"
        )
    if bits == 12:
        return 4095
    return 65535 if _is_inverted(image) else None


def _is_inverted(image: Image.Image) -> bool:
    """True if 0 is white and Pillow has left it so, as it does where a value has more than 8 bits."""
    return image.mode in ("F", "I;16", "I;16B") and _tag(image, PHOTOMETRIC_INTERPRETATION, 1) == WHITE_IS_ZERO


def _tag(image: Image.Image, number: int, default: int) -> int:
    value = getattr(image, "tag_v2", {}).get(number, default)
    return int(value[0] if isinstance(value, tuple) else value)
