"""Values of more than 8 bits are scaled by their type, or refused by its name."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from storage.shards import read_images
from tasks.images import UndecodableError, decode
from tasks.number_types import in_8_bits
from tasks.shard import plan_shards
from tasks.spec import ShardSpec
from tests.test_storage.test_tars import tar
from tests.test_tasks.conftest import png, shard
from tests.test_tasks.test_images import saved

SIDE = 16
#: Every value of 8 bits once.
BYTES = np.arange(SIDE * SIDE).reshape(SIDE, SIDE)


def tiff(pixels: bytes, kind: int, bits: tuple[int, ...], *, big_endian: bool = False, photometric: int = 1) -> bytes:
    """An uncompressed TIFF of 16 x 16 pixels; `kind` is the tag SampleFormat: 1 unsigned, 2 signed, 3 floats."""
    order = ">" if big_endian else "<"
    tags = {256: (SIDE,), 257: (SIDE,), 258: bits, 259: (1,), 262: (photometric,), 277: (len(bits),), 278: (SIDE,)}
    tags |= {273: (0,), 279: (len(pixels),), 339: (kind,) * len(bits)}
    after = 8 + 2 + 12 * len(tags) + 4
    more = b"".join(struct.pack(f"{order}{len(v)}H", *v) for _, v in sorted(tags.items()) if len(v) > 2)
    tags[273] = (after + len(more),)
    entries = b""
    for tag, values in sorted(tags.items()):
        entries += struct.pack(f"{order}HHI", tag, 3, len(values))
        if len(values) > 2:
            entries += struct.pack(f"{order}I", after)
            after += 2 * len(values)
        else:
            entries += struct.pack(f"{order}2H", *(*values, 0)[:2])
    header = (b"MM" if big_endian else b"II") + struct.pack(f"{order}HIH", 42, 8, len(tags))
    return header + entries + bytes(4) + more + pixels


def values(data: bytes) -> npt.NDArray[np.uint8]:
    """Grey values of an image as a probe set gets them."""
    image = in_8_bits(data) or decode(data)
    assert image.mode == "RGB"
    found = np.asarray(image)
    assert (found == found[..., :1]).all()
    return found[..., 0]


def packed_12_bits(numbers: npt.NDArray[Any]) -> bytes:
    digits = "".join(f"{number:03x}" for number in numbers.ravel())
    return bytes.fromhex(digits)


WIDE = {
    "floats": tiff((BYTES / 255).astype("<f4").tobytes(), 3, (32,)),
    "floats, big-endian": tiff((BYTES / 255).astype(">f4").tobytes(), 3, (32,), big_endian=True),
    "floats, 0 is white": tiff((1 - BYTES / 255).astype("<f4").tobytes(), 3, (32,), photometric=0),
    "floats, compressed": saved(Image.fromarray((BYTES / 255).astype(np.float32)), "TIFF", compression="tiff_lzw"),
    "floats of a PFM": b"Pf 16 16 -1.0\n" + (BYTES[::-1] / 255).astype("<f4").tobytes(),
    "12 bits": tiff(packed_12_bits(-(-BYTES * 4095 // 255)), 1, (12,)),
    "16 bits": tiff((BYTES * 257).astype("<u2").tobytes(), 1, (16,)),
    "16 bits, big-endian": tiff((BYTES * 257).astype(">u2").tobytes(), 1, (16,), big_endian=True),
    "16 bits, 0 is white": tiff(((255 - BYTES) * 257).astype("<u2").tobytes(), 1, (16,), photometric=0),
    "8 bits, 0 is white": tiff((255 - BYTES).astype("u1").tobytes(), 1, (8,), photometric=0),
    "3 channels of 16 bits": tiff(np.repeat(BYTES * 257, 3).astype("<u2").tobytes(), 1, (16,) * 3, photometric=2),
    "PGM of 10 bits": b"P5 16 16 1020\n" + (BYTES * 4).astype(">u2").tobytes(),
    "PGM of 16 bits": b"P5 16 16 65535\n" + (BYTES * 257).astype(">u2").tobytes(),
}


@pytest.mark.parametrize("data", WIDE.values(), ids=WIDE)
def test_values_are_scaled_by_their_type(data: bytes) -> None:
    assert np.array_equal(values(data), BYTES)


@pytest.mark.parametrize("level", [0.1, 0.6, 0.99])
def test_a_flat_image_is_as_bright_as_its_value(level: float) -> None:
    floats = np.full((SIDE, SIDE), level, np.float32)
    assert set(values(saved(Image.fromarray(floats), "TIFF")).flat) == {round(255 * level)}


def test_a_dark_image_is_not_scaled_by_its_own_maximum() -> None:
    dark = np.full((SIDE, SIDE), 200, np.uint16)
    for data in (
        saved(Image.fromarray(dark), "PNG"),
        saved(Image.fromarray(dark), "TIFF"),
        b"P5 16 16 65535\n" + dark.astype(">u2").tobytes(),
        b"P2 16 16 65535\n" + b"200 " * 256,
    ):
        assert set(values(data).flat) == {0}


REFUSED = {
    "16-bit signed integers": tiff((BYTES * 200 - 9000).astype("<i2").tobytes(), 2, (16,)),
    "8-bit signed integers": tiff((BYTES - 128).astype("i1").tobytes(), 2, (8,)),
    "32-bit signed integers": saved(Image.fromarray(BYTES.astype(np.int32)), "TIFF"),
    "32-bit unsigned integers": tiff((BYTES * 2**24).astype("<u4").tobytes(), 1, (32,)),
    "32-bit floats from -3.25 to 812": tiff(np.r_[-3.25, 812, np.ones(254)].astype("<f4").tobytes(), 3, (32,)),
    "32-bit floats from 0 to 255": saved(Image.fromarray(BYTES.astype(np.float32)), "TIFF"),
    "64-bit floats": tiff((BYTES / 255).astype("<f8").tobytes(), 3, (64,)),
    "16-bit floats": tiff((BYTES / 255).astype("<f2").tobytes(), 3, (16,)),
    "3 channels of 32-bit floats": tiff(np.zeros(768, "<f4").tobytes(), 3, (32,) * 3, photometric=2),
    "3 channels of 16-bit signed integers": tiff(bytes(2 * 768), 2, (16,) * 3, photometric=2),
    "2 channels of 16-bit unsigned integers": tiff(bytes(4 * 256), 1, (16,) * 2),
}


@pytest.mark.parametrize(("name", "data"), REFUSED.items(), ids=REFUSED)
def test_types_without_a_scale_are_refused_by_name(name: str, data: bytes) -> None:
    with pytest.raises(UndecodableError, match=f"its pixels are {name}, .*save it in 8 bits"):
        values(data)


def test_a_big_tiff_that_is_not_read_is_named_too() -> None:
    entries = {256: 16, 257: 16, 258: 64, 262: 1, 273: 16, 277: 1, 279: 2048, 339: 3}
    tags = b"".join(struct.pack("<HHQQ", tag, 3, 1, value) for tag, value in entries.items())
    data = b"II+\0" + struct.pack("<HHQQ", 8, 0, 16, len(entries)) + tags + bytes(8 + 2048)
    with pytest.raises(UndecodableError, match="its pixels are 64-bit floats, in a form of TIFF that is not read"):
        decode(data)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_floats_that_are_no_numbers_are_counted(bad: float) -> None:
    floats = np.full((SIDE, SIDE), 0.5, np.float32)
    floats[3, 4:7] = bad
    with pytest.raises(UndecodableError, match="3 of its 256 values are NaN or infinite"):
        in_8_bits(saved(Image.fromarray(floats), "TIFF"))


@pytest.mark.parametrize("kind", ["TIFF", "PNG", "JPEG"])
@pytest.mark.parametrize("mode", ["1", "L", "RGB", "CMYK"])
def test_images_of_8_bits_stay_as_they_are(kind: str, mode: str) -> None:
    if (kind, mode) != ("PNG", "CMYK"):
        assert in_8_bits(saved(Image.new(mode, (4, 4)), kind)) is None


@pytest.mark.parametrize("length", [0, 4, 9, 100, 300])
def test_what_is_cut_off_is_left_to_the_decoder(length: int) -> None:
    assert in_8_bits(WIDE["floats"][:length]) is None
    with pytest.raises(UndecodableError):
        decode(WIDE["floats"][:length])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One image of each kind: stored anew, kept as it is, refused."""
    (tmp_path / "images").mkdir()
    for name, data in {
        "floats.tiff": WIDE["floats"],
        "grey.tif": WIDE["16 bits"],
        "plain.png": png(7),
        "signed.tif": REFUSED["16-bit signed integers"],
    }.items():
        (tmp_path / "images" / name).write_bytes(data)
    return tmp_path / "images"


def test_a_probe_set_holds_scaled_images_as_other_bytes(folder: Path, tmp_path: Path) -> None:
    probe = shard(ShardSpec(probe=str(folder), store=str(tmp_path / "store")))
    index = probe.index()
    assert index[["path", "encoding"]].to_numpy().tolist() == [
        ["floats.tiff", "png"],
        ["grey.tif", "original"],
        ["plain.png", "original"],
    ]
    stored = [data for _, data in read_images(probe.folder, index)]
    assert stored[1:] == [(folder / name).read_bytes() for name in ("grey.tif", "plain.png")]
    assert np.array_equal(np.asarray(decode(stored[0]))[..., 0], BYTES)
    assert probe.rejects()["path"].tolist() == ["signed.tif"]


def test_images_that_are_scaled_are_reduced_too(folder: Path, tmp_path: Path) -> None:
    probe = shard(ShardSpec(probe=str(folder), store=str(tmp_path / "store"), resize=8))
    assert probe.index()[["encoding", "width"]].to_numpy().tolist()[:2] == [["jpeg-95", 8], ["jpeg-95", 8]]
    floats, grey, _ = (np.asarray(decode(data)).astype(int) for _, data in read_images(probe.folder, probe.index()))
    assert np.abs(floats - grey).max() <= 3


def test_a_tar_used_in_place_cannot_hold_an_image_to_be_scaled(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(tar(("0.tiff", WIDE["floats"]), ("1.tiff", WIDE["16 bits"])))
    probe = shard(ShardSpec(probe=str(tmp_path / "x.tar"), store=str(tmp_path / "store")))
    (reject,) = probe.rejects().itertuples()
    assert reject.path == "x.tar/0.tiff" and "unpack the tar" in str(reject.reason)
    assert probe.num_images == 1


def test_only_probe_sets_that_may_hold_such_images_have_another_name(folder: Path, tmp_path: Path) -> None:
    from tasks import number_types

    def names(version: int) -> list[str]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(number_types, "VERSION", version)
            specs = [ShardSpec(probe=str(probe), store=str(tmp_path / "store")) for probe in (folder, plain)]
            return [plan_shards(spec).folder.name for spec in specs]

    plain = tmp_path / "plain"
    plain.mkdir()
    (plain / "a.png").write_bytes(png(1))
    before, after = names(1), names(2)
    assert before[0] != after[0] and before[1] == after[1]
