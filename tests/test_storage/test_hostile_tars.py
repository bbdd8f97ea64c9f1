"""Tars made to do harm: nothing gets out of its place, nothing is read without end, and what is wrong is said."""

from __future__ import annotations

import hashlib
import tarfile
from pathlib import Path

import pandas as pd
import pytest

from storage.errors import ShardError, SourceError, UnreadableError
from storage.files import Folder
from storage.shards import TarPass, read_images
from storage.sources.tars import Tars

END = bytes(2 * tarfile.BLOCKSIZE)
#: A number of a header that octal digits do not hold: 2⁶², and -1024.
HUGE, NEGATIVE = b"\x80" + (1 << 62).to_bytes(11, "big"), b"\xff" + (-1024).to_bytes(11, "big", signed=True)


def block(data: bytes) -> bytes:
    return data + bytes(-len(data) % tarfile.BLOCKSIZE)


def header(name: str, size: int | bytes = 0, kind: bytes = tarfile.REGTYPE, link: str = "") -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, size if isinstance(size, int) else 0
    data = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
    if isinstance(size, bytes):
        data[124:136], data[148:156] = size, b" " * 8
        data[148:156] = b"%06o\0 " % sum(data)
    return bytes(data)


def member(name: str, content: bytes = b"abc") -> bytes:
    return header(name, len(content)) + block(content)


def extended(**records: bytes) -> bytes:
    """A PAX header with the records; `__` in a name stands for a dot."""
    data = b""
    for name, value in records.items():
        text = b" " + name.replace("__", ".").encode() + b"=" + value + b"\n"
        length = next(n for n in range(len(text), len(text) + 9) if len(str(n)) + len(text) == n)
        data += str(length).encode() + text
    return header("x", len(data), tarfile.XHDTYPE) + block(data)


SPARSE = {
    "of version 1.0": extended(
        GNU__sparse__major=b"1", GNU__sparse__minor=b"0", GNU__sparse__realsize=b"%d" % (1 << 40), path=b"s.jpg"
    )
    + header("s.jpg", 512)
    + block(b"0\n"),
    "of version 0.1": extended(GNU__sparse__map=b"0,1", GNU__sparse__size=b"%d" % (1 << 40)) + member("s.jpg"),
}
DAMAGED = {
    "a negative size": member("a.jpg") + header("b.jpg", NEGATIVE),
    "a size beyond any disk": member("a.jpg") + header("b.jpg", HUGE),
    "a negative size in PAX": member("a.jpg") + extended(size=b"-1024") + header("b.jpg"),
    "back to the first by PAX": member("a.jpg") + extended(size=b"-3072") + header("b.jpg"),
    "a size of many digits in PAX": extended(size=b"9" * 30) + header("b.jpg"),
    "a PAX header beyond any memory": header("x", HUGE, tarfile.XHDTYPE) + member("b.jpg"),
    "a PAX header of a gibibyte": header("x", 1 << 30, tarfile.XHDTYPE) + member("b.jpg"),
    "a PAX header of negative length": header("x", NEGATIVE, tarfile.XHDTYPE) + member("b.jpg"),
    "a PAX record of no length": header("x", 12, tarfile.XHDTYPE) + block(b"0 path=aaaa\n") + member("b.jpg"),
    "a long name of negative length": header("x", NEGATIVE, tarfile.GNUTYPE_LONGNAME) + member("b.jpg"),
    "a long name of a gibibyte": header("x", 1 << 30, tarfile.GNUTYPE_LONGNAME) + member("b.jpg"),
    "headers of headers": extended(path=b"a.jpg") * 3000 + member("b.jpg"),
    "a sparse map of words": extended(GNU__sparse__major=b"1", GNU__sparse__minor=b"0", GNU__sparse__realsize=b"9")
    + header("b.jpg", 512)
    + block(b"zz\n"),
}


def listed(disk: Folder, data: bytes) -> list[tuple[str, str, int]]:
    disk.write("x.tar", data + END)
    images = Tars(disk.path("x.tar"), disk / "lists").images()
    return [(image.path.removeprefix("x.tar/"), image.label, image.offset) for image in images]


def contents(disk: Folder, offsets: list[int]) -> list[bytes]:
    """By one pass over the tar, and again by the index."""
    with Path(disk.path("x.tar")).open("rb") as file:
        tar = TarPass(disk.path("x.tar"), file)
        found = [tar.member(offset) for offset in offsets]
        tar.finish(offsets)
    assert [data for _, data in read_images(disk, index(disk, offsets, found))] == found
    return found


def index(disk: Folder, offsets: list[int], images: list[bytes]) -> pd.DataFrame:
    digests = [hashlib.sha256(data).hexdigest() for data in images]
    rows = {"row": range(len(images)), "key": "k", "shard": disk.path("x.tar"), "offset": offsets}
    return pd.DataFrame(rows | {"num_bytes": list(map(len, images)), "sha256": digests})


@pytest.mark.parametrize("data", DAMAGED.values(), ids=DAMAGED)
def test_headers_that_lie_are_refused_with_the_place(data: bytes, disk: Folder) -> None:
    with pytest.raises(SourceError, match=r"x\.tar is no whole tar file: .*byte \d.*Fetch it again"):
        listed(disk, data)


@pytest.mark.parametrize("data", SPARSE.values(), ids=SPARSE)
def test_a_sparse_member_is_refused_alone_and_none_of_its_zeros_is_made(data: bytes, disk: Folder) -> None:
    images = listed(disk, member("a.jpg") + data + member("b.jpg"))
    assert [name for name, *_ in images] == ["a.jpg", "s.jpg", "b.jpg"]
    assert contents(disk, [images[0][2], images[2][2]]) == [b"abc", b"abc"]
    with Path(disk.path("x.tar")).open("rb") as file, pytest.raises(UnreadableError, match="sparse"):
        TarPass(disk.path("x.tar"), file).member(images[1][2])
    own = index(disk, [images[1][2]], [b"abc"]).assign(num_bytes=1 << 40)
    disk.write_json("manifest.json", {"shards": [{"shard": disk.path("x.tar"), "num_bytes": 1, "sha256": "0" * 64}]})
    with pytest.raises(ShardError, match="not what it was"):
        list(read_images(disk, own))


def test_links_and_devices_are_refused_by_name_and_do_not_hide_the_rest(disk: Folder, tmp_path: Path) -> None:
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    links = [
        header(f"{kind!r}.jpg", 0, kind, str(tmp_path / "secret.jpg")) for kind in (b"1", b"2", b"3", b"4", b"6")
    ]
    images = listed(disk, member("a.jpg") + b"".join(links) + header("folder.jpg", 0, b"5") + member("z.jpg", b"z"))
    assert [name for name, *_ in images] == [
        "a.jpg",
        *(f"{kind!r}.jpg" for kind in (b"1", b"2", b"3", b"4", b"6")),
        "z.jpg",
    ]
    reasons = [image.reason for image in Tars(disk.path("x.tar"), disk / "lists").images()]
    outside = f"is a link to '{tmp_path}/secret.jpg', which the tar does not hold"
    device = "is a device in the tar, not a file"
    assert reasons == ["", outside, outside, device, device, "is a pipe in the tar, not a file", ""]
    assert contents(disk, [images[0][2], images[-1][2]]) == [b"abc", b"z"]


def test_names_are_names_and_never_places(disk: Folder, tmp_path: Path) -> None:
    names = ["../../up.jpg", f"{tmp_path}/abs.jpg", "a/../../b.jpg", "C:\\x.jpg", "a\nb.jpg", "-rf.jpg"]
    before = {path for path in tmp_path.rglob("*") if path.name != "folder"}
    images = listed(disk, b"".join(extended(path=name.encode()) + member("x.jpg") for name in names))
    assert [name for name, *_ in images] == names
    assert contents(disk, [offset for *_, offset in images]) == [b"abc"] * len(names)
    new = {str(path.relative_to(tmp_path)).split("/")[0] for path in set(tmp_path.rglob("*")) - before}
    assert new == {"folder"}


def test_names_and_labels_that_are_no_text_are_told_in_ascii(disk: Folder) -> None:
    data = (
        extended(path=b"a\xfcb.jpg") + member("x.jpg") + member("c.jpg") + member("c.json", b'{"label": "\\ud800"}')
    )
    data += member("d.jpg") + member("d.json", b"[" * 500_000) + member("e.jpg") + member("e.cls", bytes(1 << 21))
    assert [found[:2] for found in listed(disk, data)] == [
        ("a\\udcfcb.jpg", ""),
        ("c.jpg", "\\ud800"),
        ("d.jpg", ""),
        ("e.jpg", ""),
    ]


@pytest.mark.parametrize("num_bytes", [0, 2, 4, 1 << 40])
def test_an_index_that_lies_about_a_size_is_found_out(num_bytes: int, disk: Folder) -> None:
    listed(disk, member("a.jpg"))
    disk.write_json("manifest.json", {"shards": [{"shard": disk.path("x.tar"), "num_bytes": 1, "sha256": "0" * 64}]})
    with pytest.raises(ShardError, match=r"x\.tar is used in place and is not what it was"):
        list(read_images(disk, index(disk, [0], [b"abc"]).assign(num_bytes=num_bytes)))
