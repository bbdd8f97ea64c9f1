"""Decoding: every image that Pillow can read becomes RGB; everything else gets a reason."""

from __future__ import annotations

import io
import struct
import subprocess
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tasks.images import MAX_ASPECT, MAX_PIXELS, UndecodableError, decodable_size, decode, refuse_thin
from tasks.png_chunks import without_metadata

rng = np.random.default_rng(0)
NOISE = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
#: Smooth enough that JPEG keeps it nearly as it is.
RAMP = np.stack(np.broadcast_arrays(np.arange(20)[:, None] * 10, np.arange(30) * 8, 99), axis=2).astype(np.uint8)


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def pixels(data: bytes) -> np.ndarray[Any, Any]:
    image = decode(data)
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "PPM", "TIFF", "WEBP"])
def test_lossless_formats_keep_every_pixel(kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    assert np.array_equal(pixels(saved(Image.fromarray(NOISE), kind, **options)), NOISE)


def test_a_cmyk_jpeg_becomes_rgb() -> None:
    data = saved(Image.fromarray(RAMP).convert("CMYK"), "JPEG", quality=95)
    assert np.abs(pixels(data) - RAMP).mean() < 5


def test_16_bit_grey_is_scaled_not_clipped() -> None:
    grey = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    found = pixels(saved(Image.fromarray(grey), "PNG"))
    assert np.array_equal(found, np.repeat(np.arange(256).reshape(16, 16, 1), 3, axis=2))


@pytest.mark.parametrize(("colour", "channels"), [(2, 3), (6, 4), (4, 2)], ids=["rgb", "rgba", "grey and alpha"])
def test_16_bit_channels_are_scaled_not_clipped(colour: int, channels: int) -> None:
    values = np.full((16, 16, channels), 65535, dtype=">u2")
    values[..., 0] = np.arange(256).reshape(16, 16) * 257
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    found = pixels(png_of(struct.pack(">IIBBBBB", 16, 16, 16, colour, 0, 0, 0), rows))
    assert np.array_equal(found[..., 0], np.arange(256).reshape(16, 16))


def test_32_bit_grey_is_scaled_not_clipped() -> None:
    grey = (np.arange(256, dtype=np.int32) * 257).reshape(16, 16)
    assert np.array_equal(pixels(saved(Image.fromarray(grey), "TIFF"))[..., 0], np.arange(256).reshape(16, 16))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGBA", "P"])
def test_other_modes_become_rgb(mode: str) -> None:
    black_and_white = np.zeros((4, 4, 3), dtype=np.uint8)
    black_and_white[:2] = 255
    data = saved(Image.fromarray(black_and_white).convert(mode), "PNG")
    assert np.array_equal(pixels(data), black_and_white)


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_a_palette_with_transparency_keeps_its_colours(kind: str) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putdata([0, 1])
    assert pixels(saved(image, kind, transparency=bytes([0, 255]) if kind == "PNG" else 0)).tolist() == [
        [[255, 0, 0], [0, 0, 255]]
    ]


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_the_first_frame_of_an_animation_is_taken(kind: str) -> None:
    frames = [Image.new("RGB", (5, 5), colour) for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = saved(frames[0], kind, save_all=True, append_images=frames[1:], duration=100, **options)
    assert np.array_equal(pixels(data)[2, 2], [255, 0, 0])


def test_exif_rotation_is_not_applied() -> None:
    image = Image.fromarray(RAMP)
    exif = image.getexif()
    exif[0x0112] = 6  # orientation: to be turned by 90 degrees
    data = saved(image, "JPEG", exif=exif, quality=95)
    assert decode(data).size == (30, 20)
    assert np.abs(pixels(data) - RAMP).mean() < 5


def test_the_file_name_ending_is_not_looked_at() -> None:
    # `decode` gets bytes only; a PNG called .jpg is a PNG.
    assert np.array_equal(pixels(saved(Image.fromarray(NOISE), "PNG")), NOISE)


def test_an_empty_file_says_so() -> None:
    with pytest.raises(UndecodableError, match="the file is empty"):
        decode(b"")


@pytest.mark.parametrize("data", [b"<html>404</html>", b"\x00" * 1000, rng.bytes(1000), b"GIF89a", b"\xff\xd8\xff"])
def test_bytes_that_are_no_image_are_refused_with_a_reason(data: bytes) -> None:
    with pytest.raises(UndecodableError, match=r"\w+"):
        decode(data)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_truncated_image_is_refused(kind: str, share: float) -> None:
    data = saved(Image.fromarray(NOISE), kind)
    with pytest.raises(UndecodableError, match=r"\w+"):
        decode(data[: int(len(data) * share)])


def test_a_png_with_a_flipped_bit_in_its_pixels_is_refused() -> None:
    data = bytearray(saved(Image.fromarray(NOISE), "PNG"))
    data[len(data) // 2] ^= 1
    with pytest.raises(UndecodableError, match=r"\w+"):
        decode(bytes(data))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    kind=st.sampled_from(["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "PPM"]),
    position=st.floats(0, 1, exclude_max=True),
    value=st.integers(0, 255),
)
def test_any_damage_is_an_rgb_image_or_a_reason(kind: str, position: float, value: int) -> None:
    data = bytearray(saved(Image.fromarray(NOISE), kind))
    data[int(position * len(data))] = value
    try:
        assert decode(bytes(data)).mode == "RGB"
    except UndecodableError as error:
        assert str(error)


def png_of(header: bytes, rows: bytes) -> bytes:
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


def png_that_claims(width: int, height: int) -> bytes:
    """A valid PNG header, and no pixels."""
    return png_of(struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0), b"")


def gif_that_claims(width: int, height: int, disposal: int = 0) -> bytes:
    """One frame, to be disposed of so: 2 asks for a blank picture of its size as soon as it is opened."""
    screen = struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6)
    control = b"\x21\xf9\x04" + struct.pack("<BHBB", disposal << 2, 0, 0, 0)
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x02\x02\x4c\x01\x00"
    return b"GIF89a" + screen + control + frame + b"\x3b"


def jpeg_that_claims(width: int, height: int) -> bytes:
    data = saved(Image.new("RGB", (16, 16)), "JPEG")
    size = data.index(b"\xff\xc0") + 5
    return data[:size] + struct.pack(">HH", height, width) + data[size + 4 :]


def bmp_that_claims(width: int, height: int) -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + header


@pytest.fixture
def memory_asked_for(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Sizes of the pictures that Pillow was asked to hold; it holds none."""
    sizes: list[tuple[int, int]] = []
    for function in ("new", "fill"):
        monkeypatch.setattr(Image.core, function, lambda mode, size, *more: sizes.append(size))
    return sizes


BOMBS = {
    "just too many": png_that_claims(MAX_PIXELS // 8, 9),
    "png": png_that_claims(30_000, 30_000),
    "the largest png": png_that_claims(2**31 - 1, 2**31 - 1),
    **{f"gif of disposal {disposal}": gif_that_claims(20_000, 20_000, disposal) for disposal in range(4)},
    "jpeg": jpeg_that_claims(60_000, 60_000),
    "bmp": bmp_that_claims(60_000, 60_000),
    "ppm": b"P6 60000 60000 255\n",
}


@pytest.mark.parametrize("data", BOMBS.values(), ids=BOMBS)
def test_what_claims_too_many_pixels_is_refused_before_it_takes_memory(
    data: bytes, memory_asked_for: list[tuple[int, int]]
) -> None:
    with pytest.raises(UndecodableError, match=rf"\(\d+ pixels\) exceeds limit of {MAX_PIXELS} pixels"):
        decode(data)
    assert memory_asked_for == []


def test_what_takes_memory_is_seen(memory_asked_for: list[tuple[int, int]]) -> None:
    with pytest.raises(UndecodableError):
        decode(png_that_claims(3, 2))
    assert memory_asked_for == [(3, 2)]


def test_an_image_within_the_bound_is_not_refused_for_its_size() -> None:
    # Larger than Pillow's own bound; what is wrong with it is that there are no pixels.
    side = 13_500
    assert side**2 < MAX_PIXELS
    data = b"P4\n%d %d\n" % (side, side)
    with pytest.raises(UndecodableError) as caught:
        decode(data)
    assert "pixels" not in str(caught.value)


def test_no_other_program_is_started_to_decode(monkeypatch: pytest.MonkeyPatch) -> None:
    # Pillow hands PostScript to Ghostscript, whatever the file is called.
    def started(*args: object, **more: object) -> None:
        raise AssertionError(f"a program was started: {args}")

    monkeypatch.setattr(subprocess, "Popen", started)
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", "gs")
    data = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n"
    with pytest.raises(UndecodableError) as caught:
        decode(data)
    assert "a program was started" not in str(caught.value)


def jpegs() -> dict[str, bytes]:
    """Kinds of JPEG, each of sides that no block divides, with noise enough for long codes."""
    values = np.kron(rng.integers(0, 256, (4, 5, 3)), np.ones((8, 8, 1))) + rng.normal(0, 9, (32, 40, 3))
    image = Image.fromarray(np.clip(values, 0, 255).astype(np.uint8)[:27, :35])
    kinds = {
        f"{mode} {'progressive' if progressive else 'baseline'}": (mode, {"progressive": progressive})
        for mode in ("RGB", "L", "CMYK")
        for progressive in (False, True)
    }
    kinds["RGB 4:2:0"] = "RGB", {"subsampling": "4:2:0"}
    kinds["RGB progressive 4:2:0"] = "RGB", {"subsampling": "4:2:0", "progressive": True}
    kinds["RGB restarting"] = "RGB", {"restart_marker_blocks": 3}
    found = {
        name: saved(image.convert(mode), "JPEG", **({"subsampling": "4:4:4"} | options))
        for name, (mode, options) in kinds.items()
    }
    return found | {"MPO": saved(image, "MPO", save_all=True, append_images=[image])}


JPEGS = jpegs()


def damaged(data: bytes) -> Iterator[bytes]:
    """Cut at every place; a bit flipped, a byte replaced, and some bytes taken away at every place."""
    for place in range(len(data)):
        yield data[:place]
        for byte in (data[place] ^ (1 << place % 8), 0xFF, place * 37 % 256):
            yield data[:place] + bytes([byte]) + data[place + 1 :]
        yield data[:place] + data[place + 1 + place % 50 :]


def size_or_reason(data: bytes, size: Callable[[bytes], tuple[int, int]]) -> tuple[int, int] | str:
    try:
        return size(data)
    except UndecodableError as error:
        return str(error)


@pytest.mark.parametrize("data", JPEGS.values(), ids=JPEGS)
def test_a_jpeg_decoded_at_an_eighth_is_taken_where_one_decoded_in_full_is(data: bytes) -> None:
    taken = 0
    for one in damaged(data):
        found = size_or_reason(one, decodable_size)
        if found != (wanted := size_or_reason(one, lambda data: decode(data).size)):
            raise AssertionError((found, wanted, one))
        taken += not isinstance(found, str)
    assert 0.1 < taken / (5 * len(data)) < 0.9  # so that both are compared


@pytest.mark.parametrize("data", JPEGS.values(), ids=JPEGS)
def test_a_whole_jpeg_is_not_decoded_in_full(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.images.decode", None)
    assert decodable_size(data) == (35, 27)


@pytest.mark.parametrize("size", [(1, 1), (7, 300), (8, 8), (9, 1)])
def test_a_small_jpeg_is_taken_with_its_size(size: tuple[int, int]) -> None:
    assert decodable_size(saved(Image.new("RGB", size), "JPEG")) == size


@pytest.mark.parametrize("data", [saved(Image.fromarray(NOISE), "PNG"), b"", b"\xff\xd8\xff", *BOMBS.values()])
def test_what_is_no_jpeg_is_decoded_in_full(data: bytes) -> None:
    assert size_or_reason(data, decodable_size) == size_or_reason(data, lambda data: decode(data).size)


def lossless_jpeg(width: int, height: int) -> bytes:
    """A grey one, all of whose differences are coded as 0 by one bit."""
    frame = b"\xff\xc3" + struct.pack(">HBHHB3B", 11, 8, height, width, 1, 1, 0x11, 0)
    codes = b"\xff\xc4" + struct.pack(">HB16B2B", 21, 0, 1, 1, *[0] * 14, 0, 1)
    scan = b"\xff\xda" + struct.pack(">HB2B3B", 8, 1, 1, 0, 1, 0, 0)
    return b"\xff\xd8" + frame + codes + scan + bytes(width * height // 8 + 1) + b"\xff\xd9"


def test_a_lossless_jpeg_is_taken_and_never_decoded_at_an_eighth(monkeypatch: pytest.MonkeyPatch) -> None:
    def draft(*arguments: object) -> None:
        raise AssertionError(arguments)

    monkeypatch.setattr("PIL.JpegImagePlugin.JpegImageFile.draft", draft)
    assert decodable_size(lossless_jpeg(64, 40)) == (64, 40)
    assert np.array_equal(pixels(lossless_jpeg(64, 40)), np.full((40, 64, 3), 128))


def test_a_jpeg_of_thousands_of_scans_is_refused_before_they_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    data = saved(Image.new("L", (64, 64), 128), "JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    whole, bomb = data[:-2] + last * 50 + data[-2:], data[:-2] + last * 500 + data[-2:]
    monkeypatch.setattr("tasks.images.MAX_SCANNED", 100 * 64 * 64)
    assert decodable_size(whole) == decode(whole).size == (64, 64)
    monkeypatch.setattr("PIL.JpegImagePlugin.JpegImageFile.load", None)
    for reads in (decode, decodable_size):
        with pytest.raises(UndecodableError, match=r"50\d scans of 64 x 64 pixels"):
            reads(bomb)


def with_exif(number: int) -> bytes:
    data = saved(Image.new("L", (8, 8)), "JPEG")
    return data[:2] + (b"\xff\xe1\x00\x10Exif\0\0MM\0*\0\0\0\x08") * number + data[2:]


def with_comments(number: int) -> bytes:
    data = saved(Image.new("L", (8, 8)), "GIF")
    return data.replace(b"\x2c", b"\x21\xfe\x01x\0" * number + b"\x2c", 1)


@pytest.mark.parametrize(("make", "few", "many"), [(with_exif, 2, 65), (with_comments, 900, 1_100)])
def test_comments_without_end_are_not_joined(make: Callable[[int], bytes], few: int, many: int) -> None:
    assert decodable_size(make(few)) == (8, 8)
    for reads in (decode, decodable_size):
        with pytest.raises(UndecodableError, match="more comments in it than in any image"):
            reads(make(many))


def compressed_text(kind: bytes, content: bytes) -> bytes:
    data = saved(Image.new("L", (8, 8)), "PNG")
    chunk = kind + b"k\0" + (b"\1\0\0\0" if kind == b"iTXt" else b"\0") + zlib.compress(content)
    return data[:33] + struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) + data[33:]


#: As much as a megabyte of PNG may hold; to unpack it takes gigabytes.
LONG = bytes(1 << 25)


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt", b"iCCP"])
@pytest.mark.parametrize("content", [b"short", b"node " * 400_000, LONG], ids=["short", "workflow", "bomb"])
def test_text_beside_the_pixels_is_no_damage_and_is_not_unpacked(
    kind: bytes, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unpack(*data: bytes) -> bytes:
        raise AssertionError("text was unpacked")

    data = compressed_text(kind, content)
    monkeypatch.setattr("PIL.PngImagePlugin._safe_zlib_decompress", unpack)
    assert decodable_size(data) == decode(data).size == (8, 8)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


@pytest.mark.parametrize("kind", [b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"eXIf"])
@pytest.mark.parametrize("number", [1, 3, 200])
def test_metadata_before_and_after_the_pixels_leaves_them_as_they_are(kind: bytes, number: int) -> None:
    data = saved(Image.fromarray(NOISE), "PNG")
    many = chunk(kind, rng.bytes(1 << 14)) * number
    assert np.array_equal(pixels(data[:33] + many + data[33:-12] + many + data[-12:]), NOISE)
    assert without_metadata(data[:33] + many + data[33:-12] + many + data[-12:]) == data


@pytest.mark.parametrize("place", [8, 40, 45, 60, -20])
def test_damage_to_a_png_with_long_text_is_still_damage(place: int) -> None:
    data = bytearray(compressed_text(b"zTXt", rng.bytes(1 << 12)))
    data[place] ^= 0x40
    with pytest.raises(UndecodableError, match=r"\w+"):
        decode(bytes(data))
    with pytest.raises(UndecodableError, match=r"\w+"):
        decode(compressed_text(b"zTXt", rng.bytes(1 << 12))[: -40 - 8 + place % 8])


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "TIFF", "PNG", "AVIF"])
def test_long_metadata_of_other_formats_is_no_damage(kind: str) -> None:
    image, options = Image.fromarray(RAMP), {}
    if kind in ("JPEG", "WEBP"):
        options = {"xmp": b"<x:xmpmeta>" + b"x" * 60_000, "icc_profile": rng.bytes(3 << 20)}
    elif kind == "TIFF":
        options = {"tiffinfo": {270: "text " * 600_000, 34377: rng.bytes(3 << 20)}}
    elif kind == "PNG":
        options = {"icc_profile": rng.bytes(3 << 20), "exif": b"Exif\0\0" + rng.bytes(3 << 20)}
    else:
        options = {"icc_profile": rng.bytes(3 << 20)}
    data = saved(image, kind, **options)
    assert len(data) > 1 << 21 or kind == "WEBP"
    assert decodable_size(data) == decode(data).size == (30, 20)


@pytest.mark.parametrize("size", [(1, 9_000), (60_000, 1), (2, 2_049), (70_000, 68)])
def test_a_strip_that_would_take_gigabytes_when_enlarged_is_refused_with_both_numbers(size: tuple[int, int]) -> None:
    times = f"{max(size) / min(size):,.0f}"
    with pytest.raises(
        UndecodableError, match=f"{size[0]:,} x {size[1]:,} pixels.*1,024 times.*this is {times} times"
    ):
        refuse_thin(size)


@pytest.mark.parametrize("size", [(1, 1), (1, 1024), (2_048, 2), (16_384, 16), (300, 60_000), (16_384, 16_384)])
def test_a_long_panorama_is_not_refused(size: tuple[int, int]) -> None:
    refuse_thin(size)


def test_an_image_that_is_admitted_stays_within_the_bound_when_its_shorter_side_is_512() -> None:
    assert 512 * 512 * MAX_ASPECT <= MAX_PIXELS


def test_wide_values_are_scaled_some_rows_at_a_time_as_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    values = rng.integers(0, 65536, (41, 30), dtype=np.uint16)
    data = saved(Image.fromarray(values), "PNG")
    whole = pixels(data)
    monkeypatch.setattr("tasks.images.VALUES_AT_A_TIME", 100)
    assert np.array_equal(pixels(data), whole) and np.array_equal(whole[..., 0], values // 257)


@pytest.mark.parametrize(
    ("data", "name"), [(b"\0\0\0\x18ftypheic" + bytes(50), "HEIC"), (b"\xff\x0a" + bytes(50), "JPEG XL")]
)
def test_an_image_of_a_format_that_is_not_read_is_named(data: bytes, name: str) -> None:
    with pytest.raises(UndecodableError, match=f"^{name} is not read: convert it to PNG or JPEG"):
        decode(data)
