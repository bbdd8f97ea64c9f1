"""WebDataset shards that exist: what is in them, and what is wrong with them."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import fsspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage.completion import Completion
from storage.errors import SourceError
from storage.files import Folder
from storage.shards import TarPass
from storage.sources.joined import joined
from storage.sources.source import SourceImage
from storage.sources.tars import Tars, list_members

LONG = "grün/" + "x" * 120 + ".jpg"


def tar(*members: tuple[str, bytes], format: int = tarfile.PAX_FORMAT) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=format) as out:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            out.addfile(info, io.BytesIO(content))
    return data.getvalue()


def listed(folder: Folder, text: str) -> list[SourceImage]:
    return list(joined({"tars": Tars(folder.path(text), folder / "lists")}))


def test_images_are_members_with_an_image_s_ending_and_have_their_label(folder: Folder) -> None:
    members = [
        ("cat/1.jpg", b"one"),
        ("cat/1.cls", b"7\n"),
        ("cat/1.json", b'{"label": "other"}'),
        ("cat/2.json", b'{"class": "siam", "width": 3}'),
        ("cat/2.PNG", b"two"),
        ("cat/2.seg.png", b"no image: its ending begins at the first dot"),
        ("./3.webp", b"three"),
        ("3.txt", b"caption"),
        ("4.json", b"[torn"),
        ("4.gif", b"four"),
        ("__meta__/5.jpg", b"skipped, as by WebDataset"),
        (LONG, b"long"),
    ]
    folder.write("x.tar", tar(*members))
    images = listed(folder, "x.tar")
    assert [(image.path, image.key, image.label) for image in images] == [
        ("x.tar/cat/1.jpg", "cat/1", "7"),
        ("x.tar/cat/2.PNG", "cat/2", "siam"),
        ("x.tar/3.webp", "./3", ""),
        ("x.tar/4.gif", "4", ""),
        (f"x.tar/{LONG}", LONG.removesuffix(".jpg"), ""),
    ]
    contents = dict(members)
    with fsspec.open(folder.path("x.tar"), "rb") as file:
        passing = TarPass(folder.path("x.tar"), file)
        for image in images[1:]:
            name = image.path.removeprefix("x.tar/")
            assert passing.member(image.offset) == contents.get(name, contents.get(f"./{name}"))
        found = passing.finish([image.offset for image in images[1:]])
    assert (found.num_images, found.num_samples, found.num_bytes) == (4, 6, len(folder.read("x.tar")))


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_any_kind_of_tar_will_do(format: int, disk: Folder) -> None:
    disk.write("x.tar", tar(("a.jpg", b"one"), ("b" * 90 + ".jpg", b"two"), format=format))
    assert [image.num_bytes for image in listed(disk, "x.tar")] == [3, 3]


@pytest.mark.parametrize("pattern", ["s/*.tar", "s/x-{0..2}.tar", "s/x-?.tar", "{s,}/x-{0,1,2}.tar"])
def test_patterns_give_the_tars_in_order(pattern: str, folder: Folder) -> None:
    for number in range(3):
        folder.write(f"s/x-{number}.tar", tar(("0.jpg", b"0"), ("1.jpg", b"1")))
    if pattern.startswith("{"):
        with pytest.raises(SourceError, match="3 of the 6 tar files"):
            listed(folder, pattern)
        return
    images = listed(folder, pattern)
    assert [image.path for image in images] == [f"x-{n}.tar/{i}.jpg" for n in range(3) for i in range(2)]
    assert [image.key for image in images] == ["0", "1", "0-2", "1-2", "0-3", "1-3"]


def test_a_literal_name_with_brackets_is_itself(disk: Folder) -> None:
    disk.write("x[1].tar", tar(("0.jpg", b"0")))
    assert [image.path for image in listed(disk, "x[1].tar")] == ["x[1].tar/0.jpg"]


def test_the_second_of_one_name_in_a_tar_is_refused(disk: Folder) -> None:
    disk.write("x.tar", tar(("0.jpg", b"0"), ("0.jpg", b"1"), ("0.png", b"2")))
    assert [(image.key, bool(image.reason)) for image in listed(disk, "x.tar")] == [
        ("0", False),
        ("0-2", True),
        ("0-3", False),
    ]


def test_missing_shards_are_named(folder: Folder) -> None:
    folder.write("x-001.tar", tar(("0.jpg", b"0")))
    with pytest.raises(SourceError, match=r"7 of the 8 tar files .* x-000.tar, x-002.tar, x-003.tar and 4 more"):
        listed(folder, "x-{000..007}.tar")
    with pytest.raises(SourceError, match=r"1 of the 1 tar files .*y\*\.tar"):
        listed(folder, "y*.tar")
    with pytest.raises(SourceError, match=r"y\.tar"):
        listed(folder, "y.tar")
    with pytest.raises(SourceError, match="not balanced"):
        listed(folder, "x-{0..7.tar")


def test_tars_without_an_image_say_so(folder: Folder) -> None:
    folder.write("x.tar", tar(("0.txt", b"0"), ("1.txt", b"0")))
    with pytest.raises(SourceError, match=r"The 1 tar files .* have 2 members and no image"):
        listed(folder, "x.tar")


WHOLE = tar(("a.jpg", b"a" * 700), ("b.jpg", b"b" * 10), (LONG, b"c" * 600))


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=80, deadline=None, derandomize=True
)
@given(length=st.one_of(st.integers(0, 6000), st.sampled_from([512, 1536, 2048, 2560, 3072])))
def test_a_tar_cut_anywhere_is_refused_with_the_place(disk: Folder, length: int) -> None:
    end = len(WHOLE.rstrip(b"\0"))
    end += -end % 512  # of the last member; from there, zeros
    disk.write("x.tar", WHOLE[:length])
    if length >= end + 512:
        assert len(list_members(disk.path("x.tar"))) == 3
        return
    with pytest.raises(SourceError, match=rf"x\.tar is no whole tar file: .*byte \d.* of {length:,}.*Fetch it again"):
        list_members(disk.path("x.tar"))


def test_a_damaged_header_is_named_by_the_member_before(disk: Folder) -> None:
    data = bytearray(WHOLE)
    data[1536 + 5] ^= 1  # the header of b.jpg
    disk.write("x.tar", bytes(data))
    with pytest.raises(SourceError, match=r"byte 1,536 of .*after member 'a\.jpg'"):
        list_members(disk.path("x.tar"))


def test_a_tar_is_listed_once_until_it_changes(disk: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    disk.write("x.tar", tar(("a.jpg", b"a")))
    before = listed(disk, "x.tar")
    count = []
    monkeypatch.setattr("storage.sources.tars.list_members", lambda url: count.append(url) or list_members(url))
    assert listed(disk, "x.tar") == before and not count
    disk.write("x.tar", tar(("b.jpg", b"b")))
    assert [image.path for image in listed(disk, "x.tar")] == ["x.tar/b.jpg"] and len(count) == 1


def test_only_as_many_tars_are_listed_as_images_are_asked_for(disk: Folder) -> None:
    for number in range(40):
        disk.write(f"{number:02d}.tar", tar(("a.jpg", b"a")))
    images = Tars(disk.path("*.tar"), disk / "lists").images()
    assert next(images).path == "00.tar/a.jpg"
    assert len(Completion(disk / "lists").done()) == 16


def test_a_tar_that_changes_between_listing_and_reading_is_named(disk: Folder) -> None:
    disk.write("x.tar", tar(("a.jpg", b"a" * 2000), ("b.jpg", b"b")))
    *_, last = listed(disk, "x.tar")
    for now in (tar(("b.jpg", b"b")), b"nothing", b""):
        disk.write("x.tar", now)
        with (
            Path(disk.path("x.tar")).open("rb") as file,
            pytest.raises(SourceError, match=r"x\.tar has changed since it was listed"),
        ):
            TarPass(disk.path("x.tar"), file).member(last.offset)
