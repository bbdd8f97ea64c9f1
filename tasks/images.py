"""Decoding: image bytes to RGB, and a clear reason where that cannot be."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from contextlib import suppress

import numpy as np
import numpy.typing as npt
from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from storage.sources.magic import unread_format
from tasks.png_chunks import without_metadata

#: Largest image decoded, in pixels: 16,384 × 16,384. A small file can claim far more than any memory holds.
MAX_PIXELS = 1 << 28
#: How many times as long as its shorter side an image may be. Preprocessings bring the shorter side to the size of a
#: network's input: with 512 pixels a longer image would exceed `MAX_PIXELS`, whatever the size of its file.
MAX_ASPECT = 1024
#: Longer side of a JPEG, in pixels, that its encoder takes.
MAX_JPEG_SIDE = 65_500
#: What is decoded, whatever a file is called. Not PostScript: Pillow would start Ghostscript on it.
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
#: Frame header of a lossless JPEG, which cannot be decoded at a fraction of its size: its rows stay of full length,
#: and Pillow 11 does not check that they fit into its memory for short ones.
LOSSLESS_JPEG = b"\xff\xc3"
#: Pixels of all scans of a JPEG: each takes as long as decoding anew, and a file of kilobytes may have thousands.
MAX_SCANNED = 32 * MAX_PIXELS
#: Exif blocks of a file, and comments of a GIF beside those that its pixels look like by chance: Pillow joins them,
#: in a time that grows with the square of their number.
MAX_EXIF, MAX_COMMENTS, BYTES_BY_CHANCE = 64, 1_000, 1 << 13
#: Values that are scaled at a time: in float64 those of the largest image would take 2 GiB.
VALUES_AT_A_TIME = 1 << 22
#: What a TIFF begins with, in either byte order; BigTIFF too.
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
#: Names of a TIFF's number types, by its tag SampleFormat.
SAMPLE_FORMATS = {1: "unsigned integers", 2: "signed integers", 3: "floats"}
# Pillow refuses what claims more than twice its own bound, before it takes memory for any frame of it.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2


class UndecodableError(ValueError):
    """Bytes that are no image, or half of one; the message is the reason given in `rejects.parquet`."""


def decode(data: bytes, enough: int | None = None) -> Image.Image:
    """The image as RGB, all of it. Raises `UndecodableError`.

    As the loaders of torchvision do, EXIF rotation is not applied and only the first frame is taken. A JPEG comes at
    a half, a quarter or an eighth of its size where that leaves its shorter side at least `enough` pixels: it is
    computed from fewer frequencies, in less time, and is not quite what reducing the whole image would give.
    """
    if not data:
        raise UndecodableError("the file is empty")
    try:
        with warnings.catch_warnings():
            # Pillow warns of what claims more than its own bound, which is half of ours.
            warnings.simplefilter("ignore")
            image = opened(data, FORMATS)
            if enough is not None and image.format == "JPEG":
                scale = max(1, min(image.size) // enough)
                image.draft(None, (image.width // scale, image.height // scale))
            return _rgb(image)
    except UnidentifiedImageError as error:
        raise UndecodableError(_unidentified(data)) from error
    except Exception as error:
        # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error, zlib.error and more.
        raise UndecodableError(str(error).strip() or type(error).__name__) from error


def decodable_size(data: bytes) -> tuple[int, int]:
    """Width and height in pixels of what `decode` takes. Raises `UndecodableError` where it would.

    A JPEG is decoded at an eighth of its size: that reads all of its data as a full decode does, and computes one
    pixel of each block of 64. What cannot be decoded so is decoded in full, which has the last word.
    """
    if data.startswith(b"\xff\xd8") and LOSSLESS_JPEG not in data:
        with suppress(Exception), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = opened(data, ("JPEG",))
            width, height = image.size
            image.draft(None, (max(1, width // 8), max(1, height // 8)))
            image.load()
            return width, height
    return decode(data).size


def refuse_thin(size: tuple[int, int]) -> None:
    """Raises `UndecodableError` where an image is so thin that enlarging it would take the memory of many."""
    short, long = sorted(size)
    if long > MAX_ASPECT * short:
        raise UndecodableError(
            f"it has {size[0]:,} x {size[1]:,} pixels, and {65_536 * long // short:,} once its shorter side is "
            f"brought to 256: a side may be {MAX_ASPECT:,} times as long as the other, and this is "
            f"{long / short:,.0f} times. Cut it into pieces"
        )


def file_format(data: bytes) -> str:
    """What decodable bytes are, as a file name ending: `png`, `jpeg` ... (`jpeg` too with further pictures, MPO)."""
    kind = str(opened(data, FORMATS).format)
    return {"MPO": "jpeg", "JPEG2000": "jp2"}.get(kind, kind.lower())


def as_png(image: Image.Image) -> bytes:
    """An image without loss, for those that come as pixels."""
    data = io.BytesIO()
    image.save(data, "PNG")
    return data.getvalue()


def reduced(image: Image.Image, shorter_side: int) -> Image.Image:
    """The image with its shorter side, which is longer, reduced to so many pixels."""
    scale = shorter_side / min(image.size)
    width, height = (max(shorter_side, round(side * scale)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)


def as_jpeg(image: Image.Image) -> bytes:
    """An RGB image as JPEG of quality 95."""
    data = io.BytesIO()
    image.save(data, "JPEG", quality=95)
    return data.getvalue()


def grey(values: npt.NDArray[np.generic], scaled: Callable[[npt.NDArray[np.float64]], npt.ArrayLike]) -> Image.Image:
    """An RGB image of `values` `[H, W]`, which `scaled` brings to 0 to 255, some rows at a time."""
    found = np.empty(values.shape, np.uint8)
    rows = max(1, VALUES_AT_A_TIME // max(1, values.shape[1]))
    for start in range(0, len(values), rows):
        some = slice(start, start + rows)
        found[some] = scaled(values[some].astype(np.float64))
    return Image.fromarray(found).convert("RGB")


def tiff_type(bits: int, sample_format: int, channels: int = 1) -> str:
    """The number type of a TIFF's pixels in words: `32-bit floats`, `3 channels of 16-bit signed integers`."""
    kind = f"{bits}-bit {SAMPLE_FORMATS.get(sample_format, 'numbers of another kind')}"
    return kind if channels == 1 else f"{channels:,} channels of {kind}"


def opened(data: bytes, formats: tuple[str, ...]) -> Image.Image:
    """An image of which only the header is read. Raises `UndecodableError` where the rest would take too long."""
    data = without_metadata(data)
    comments = data.count(b"\x21\xfe") if data.startswith(b"GIF8") else 0
    if data.count(b"Exif\0\0") > MAX_EXIF or comments > MAX_COMMENTS + len(data) // BYTES_BY_CHANCE:
        raise UndecodableError("there are more comments in it than in any image")
    image = Image.open(io.BytesIO(data), formats=formats)
    scans = data.count(b"\xff\xda") if data.startswith(b"\xff\xd8") else 1
    if scans * image.width * image.height > MAX_SCANNED:
        raise UndecodableError(f"it has {scans} scans of {image.width} x {image.height} pixels")
    return image


def _unidentified(data: bytes) -> str:
    """The reason for which Pillow takes bytes for no image."""
    if data.startswith(TIFF):
        with suppress(Exception), warnings.catch_warnings():  # damage
            warnings.simplefilter("ignore")
            return (
                f"its pixels are {_tiff_type(data)}, in a form of TIFF that is not read: save it in 8 bits, or as PNG"
            )
    if name := unread_format(data):
        return f"{name} is not read: convert it to PNG or JPEG"
    return "not an image, or of an unknown format"


def _tiff_type(data: bytes) -> str:
    """The number type of a TIFF that Pillow does not read, by its tags."""
    tags = TiffImagePlugin.ImageFileDirectory_v2(data[: 16 if data[2] == 43 else 8])
    file = io.BytesIO(data)
    file.seek(tags.next)
    tags.load(file)
    bits = tags[TiffImagePlugin.BITSPERSAMPLE]
    channels = len(bits) if len(bits) > 1 else tags.get(TiffImagePlugin.SAMPLESPERPIXEL, 1)
    return tiff_type(bits[0], tags.get(TiffImagePlugin.SAMPLEFORMAT, (1,))[0], channels)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        # Pillow would clip 16-bit values to 255, which makes nearly everything white. Which type the others are of
        # is looked at before an image enters a probe set (`tasks.number_types`); here numbers stay what they were.
        values = np.asarray(image)
        scale = 257.0 if image.mode.startswith("I;16") or values.max(initial=0) > 255 else 1.0
        return grey(values, lambda some: np.clip(some / scale, 0, 255).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # or Pillow says that it should be
    if image.mode == "RGB":
        image.load()
        return image  # converting would copy it
    return image.convert("RGB")
