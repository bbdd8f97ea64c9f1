"""Which files without an image's ending are images, and what is said of the others."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
from PIL import Image

from storage.errors import SourceError
from storage.files import Folder
from storage.sources.folder import ImageFolder
from storage.sources.left_out import images_left_out, told
from storage.sources.magic import image_format, unread_format

HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"


def image_of(kind: str) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (5, 4), (200, 30, 30)).save(data, kind)
    return data.getvalue()


def listed(folder: Folder) -> tuple[list[str], dict[str, int]]:
    source = ImageFolder(folder.url)
    return [image.path for image in source.images()], dict(source.left_out)


@pytest.mark.parametrize("kind", ["AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP"])
def test_every_format_that_is_read_is_known_by_its_first_bytes(folder: Folder, kind: str) -> None:
    data = image_of(kind)
    folder.write("class/none", data)
    folder.write("a.png", b"")
    assert image_format(data[:32]) == {"JPEG2000": "jp2"}.get(kind, kind.lower())
    assert listed(folder) == (["a.png", "class/none"], {})


@pytest.mark.parametrize(
    "text", [b"BMW is a car maker", b"P1 is what I read", b"GIF is a format", b"RIFF", b"", b"II", b"%PDF-1.7", HEIC]
)
def test_what_begins_nearly_as_an_image_is_none(text: bytes) -> None:
    assert image_format(text) == ""
    assert unread_format(text) == ("HEIC" if text == HEIC else "")


@pytest.mark.parametrize(
    "name", ["photo.jpe", "a.apng", "b.JPG_large", "d41d8cd98f00b204", "x.jpg!d", "v1.2/scan.001"]
)
def test_an_image_with_an_unknown_ending_is_an_image(folder: Folder, name: str) -> None:
    folder.write(name, image_of("JPEG"))
    assert listed(folder) == ([name], {})


@pytest.mark.parametrize("name", ["raw.dng", "slide.svs", "camera.nef"])
def test_a_tiff_with_the_ending_of_another_format_is_left_out_and_named(folder: Folder, name: str) -> None:
    # Its first picture is often a preview.
    folder.write("a.png", b"")
    folder.write(name, image_of("TIFF"))
    paths, left_out = listed(folder)
    assert paths == ["a.png"] and left_out == {f".{name.split('.')[1]} (TIFF)": 1}
    assert images_left_out(left_out) == left_out


def test_other_files_are_counted_by_ending(folder: Folder) -> None:
    for name, data in {
        "1.png": b"",
        "1.txt": image_of("PNG"),
        "1.xmp": b"<x/>",
        "2.TXT": b"a dog",
        "1.HEIC": HEIC,
        "2.heic": HEIC,
        "phone": HEIC,
        "Thumbs.db": b"",
        ".DS_Store": b"",
        "._1.png": b"",
        ".cache/1.png": image_of("PNG"),
        "README": b"What this is",
        "1.png~": image_of("PNG"),
        "1.png.bak": image_of("PNG"),
        "run.20240131": b"",
        "empty": b"",
    }.items():
        folder.write(name, data)
    paths, left_out = listed(folder)
    assert paths == ["1.png"]
    assert left_out == {
        ".txt": 2,
        ".xmp": 1,
        ".heic (HEIC)": 2,
        "no ending (HEIC)": 1,
        "no ending": 2,
        ".db": 1,
        "hidden": 3,
        ".png~": 1,
        ".bak": 1,
        "other endings": 1,
    }
    assert images_left_out(left_out) == {".heic (HEIC)": 2, "no ending (HEIC)": 1}
    said = told(left_out)
    assert said.startswith("15 other files were left out: .heic (HEIC) 2, no ending (HEIC) 1, hidden 3, ")
    assert "and 4 of other kinds" in said and "convert them to PNG or JPEG" in said
    assert "convert" not in told({".txt": 2}) and told({}) == ""


def test_a_listing_that_is_asked_for_twice_counts_once(folder: Folder) -> None:
    folder.write("1.png", b"")
    folder.write("1.txt", b"")
    source = ImageFolder(folder.url)
    for _ in range(2):
        assert len(list(source.images())) == 1
    assert source.left_out == {".txt": 1}


def test_a_limit_leaves_the_counts_whole(folder: Folder) -> None:
    for name in ("1.png", "2.png", "3.txt"):
        folder.write(name, b"")
    source = ImageFolder(folder.url)
    next(source.images())
    assert source.left_out == {".txt": 1}


def test_a_folder_without_images_says_what_it_holds(folder: Folder) -> None:
    folder.write("1.heic", HEIC)
    folder.write("2.txt", b"")
    with pytest.raises(
        SourceError, match=r"holds 2 files and no image .*2 other files .*\.heic \(HEIC\) 1, \.txt 1\."
    ):
        listed(folder)


def test_so_many_files_of_an_object_store_are_looked_into_and_no_more(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    head = Folder.head

    def counted(self: Folder, name: str, size: int) -> bytes:
        asked.append(name)
        return head(self, name, size)

    monkeypatch.setattr(Folder, "head", counted)
    monkeypatch.setattr("storage.sources.left_out.MAX_LOOKED_INTO", 3)
    folder.write("a.png", image_of("PNG"))
    folder.write("b.txt", b"")
    for name in "cde":
        folder.write(name, image_of("PNG"))
    assert listed(folder)[0] == ["a.png", "c", "d", "e"] and sorted(asked) == ["c", "d", "e"]
    asked.clear()
    folder.write("f", image_of("PNG"))
    paths, left_out = listed(folder)
    if folder.is_local:  # a file takes no request
        assert paths == ["a.png", "c", "d", "e", "f"] and len(asked) == 4
    else:
        assert (paths, asked, left_out) == (["a.png"], [], {".txt": 1, "no ending (not looked into)": 4})
        assert "More than 3 files of an object store are not looked into" in told(left_out)


def test_a_link_to_nowhere_without_an_ending_is_counted(disk: Folder) -> None:
    disk.write("a.png", b"")
    (Path(disk.url) / "link").symlink_to("nowhere")
    os.mkfifo(disk.path("pipe"))
    assert listed(disk) == (["a.png"], {"no ending": 1})


@pytest.mark.parametrize("size", [1, 3, 32, 64])
def test_the_head_of_a_file_is_its_first_bytes(folder: Folder, size: int) -> None:
    folder.write("a", bytes(range(64)))
    assert folder.head("a", size) == bytes(range(64))[:size]
    with pytest.raises(FileNotFoundError):
        folder.head("b", 4)
