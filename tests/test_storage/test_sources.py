"""Which files of a folder are probe images, and what they are called."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import SourceError
from storage.files import Folder
from storage.sources.folder import ImageFolder
from storage.sources.joined import _unique, joined, key_of
from storage.sources.reading import read_file
from storage.sources.source import SourceImage


def put(folder: Folder, *paths: str) -> None:
    """Files that hold their own paths."""
    for path in paths:
        folder.write(path, path.encode())


def list_images(url: str) -> list[SourceImage]:
    return list(joined({"one": ImageFolder(url)}))


def listed(folder: Folder) -> list[str]:
    return [image.path for image in list_images(folder.url)]


def by_path(folder: Folder) -> dict[str, SourceImage]:
    return {image.path: image for image in list_images(folder.url)}


def test_a_flat_folder_has_no_labels(folder: Folder) -> None:
    put(folder, "b.png", "a.jpg")
    assert listed(folder) == ["a.jpg", "b.png"]
    assert {image.label for image in list_images(folder.url)} == {""}


def test_class_folders_give_labels_and_keys(folder: Folder) -> None:
    put(folder, "dog/1.jpg", "cat/1.jpg", "cat/siam/2.jpg")
    found = by_path(folder)
    assert {path: image.label for path, image in found.items()} == {
        "cat/1.jpg": "cat",
        "cat/siam/2.jpg": "cat/siam",
        "dog/1.jpg": "dog",
    }
    assert [image.key for image in found.values()] == ["cat/1", "cat/siam/2", "dog/1"]


def test_every_image_is_read_from_where_it_was_listed(folder: Folder) -> None:
    put(folder, "a.png", "c/ü b.png", "50%/#1 ?.png")
    images = list_images(folder.url)
    assert len(images) == 3
    for image in images:
        assert read_file(image.url) == image.path.encode()
        assert image.num_bytes == len(image.path.encode())


def test_a_folder_that_cannot_be_listed_is_named_not_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(Folder(str(tmp_path)), "a.png", "dog/1.jpg")
    scan = os.scandir

    def refuse(path: str) -> object:  # not chmod: root may list everything
        if str(path).endswith("dog"):
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(SourceError, match=r"dog cannot be listed \(Permission denied\)"):
        list_images(str(tmp_path))


def test_hidden_files_and_folders_are_left_out(folder: Folder) -> None:
    put(folder, "a.png", ".b.png", "._a.png", ".thumbs/c.png", "d/.e.png")
    assert listed(folder) == ["a.png"]


def test_files_that_are_no_images_by_their_ending_are_left_out(folder: Folder) -> None:
    put(folder, "a.png", "b.txt", "png", "c.png.bak", "labels.csv", "d/e")
    assert listed(folder) == ["a.png"]


def test_endings_are_taken_in_any_case(folder: Folder) -> None:
    put(folder, "a.JPG", "b.Jpeg", "c.PnG")
    assert [(image.path, image.ending) for image in list_images(folder.url)] == [
        ("a.JPG", "jpg"),
        ("b.Jpeg", "jpeg"),
        ("c.PnG", "png"),
    ]


def test_images_of_one_stem_get_different_keys(folder: Folder) -> None:
    put(folder, "a.jpg", "a.png", "a.webp", "a-2.png", "b/a.png")
    keys = {path: image.key for path, image in by_path(folder).items()}
    assert len(set(keys.values())) == 5
    assert keys["a-2.png"] == "a-2"
    assert keys["b/a.png"] == "b/a"


def test_dots_end_no_key(folder: Folder) -> None:
    put(folder, "v1.0/cat.small.jpg", "v1_0/cat_small.jpg")
    keys = [image.key for image in list_images(folder.url)]
    assert keys == ["v1_0/cat_small", "v1_0/cat_small-2"]


@given(st.lists(st.text("ab.-/2", min_size=1, max_size=6).map(lambda stem: f"x{stem}.png"), unique=True, max_size=12))
def test_keys_are_unique_and_without_dots(paths: list[str]) -> None:
    taken: dict[str, int] = {}
    keys = [_unique(key_of(path), taken) for path in sorted(paths)]
    assert len(set(keys)) == len(paths)
    assert not any("." in key for key in keys)


@pytest.mark.parametrize("name", ["grün und blau.png", "日本/写真.png", "a b c.png", "[x]*.png", "a'b\"c.png"])
def test_unicode_spaces_and_special_characters_stay(folder: Folder, name: str) -> None:
    put(folder, name)
    assert listed(folder) == [name]


def test_an_empty_folder_says_that_it_holds_no_image(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="holds 0 files and no image"):
        list_images(str(tmp_path))


def test_a_folder_without_images_says_how_many_files_it_has_and_which_endings_count(folder: Folder) -> None:
    put(folder, "a.txt", "b.csv")
    with pytest.raises(SourceError, match=r"holds 2 files and no image.*jpg.*png"):
        list_images(folder.url)


def test_a_changed_file_has_another_version(disk: Folder) -> None:
    put(disk, "a.png", "b.png")
    before = by_path(disk)
    os.utime(disk.path("a.png"), ns=(1, 1_700_000_000_000_000_001))
    after = by_path(disk)
    assert before["a.png"].version != after["a.png"].version
    assert before["b.png"] == after["b.png"]


def test_a_link_to_an_image_is_that_image(disk: Folder, tmp_path: Path) -> None:
    put(disk, "a.png")
    (tmp_path / "elsewhere.png").write_bytes(b"image")
    (tmp_path / "folder" / "link.png").symlink_to(tmp_path / "elsewhere.png")
    link = by_path(disk)["link.png"]
    assert (link.num_bytes, read_file(link.url)) == (5, b"image")


def test_another_file_of_the_same_size_and_time_has_another_version(disk: Folder) -> None:
    put(disk, "a.png")
    before, file = by_path(disk)["a.png"], Path(disk.path("a.png"))
    times = file.stat()
    file.write_bytes(b"z" * times.st_size)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    after = by_path(disk)["a.png"]
    assert file.stat().st_mtime_ns == times.st_mtime_ns and after.num_bytes == before.num_bytes
    assert after.version != before.version


def test_a_link_changes_its_version_when_the_image_it_points_to_changes(disk: Folder, tmp_path: Path) -> None:
    put(disk, "a.png")
    target = tmp_path / "elsewhere.png"
    target.write_bytes(b"image")
    (tmp_path / "folder" / "link.png").symlink_to(target)
    before = by_path(disk)["link.png"]
    target.write_bytes(b"other")
    os.utime(target, ns=(1, 1_700_000_000_000_000_000))
    assert by_path(disk)["link.png"].version != before.version


def test_linked_class_folders_are_followed_and_loops_are_not(disk: Folder, tmp_path: Path) -> None:
    (tmp_path / "imagenet" / "n01").mkdir(parents=True)
    (tmp_path / "imagenet" / "n01" / "1.jpg").write_bytes(b"1")
    put(disk, "own/2.jpg")
    (tmp_path / "folder" / "n01").symlink_to(tmp_path / "imagenet" / "n01")
    (tmp_path / "folder" / "own" / "loop").symlink_to(tmp_path / "folder")
    assert listed(disk) == ["n01/1.jpg", "own/2.jpg"]


def test_a_link_is_as_good_as_the_folder_it_points_to(disk: Folder, tmp_path: Path) -> None:
    put(disk, "a.png")
    (tmp_path / "link").symlink_to(disk.url)
    assert [image.path for image in list_images(str(tmp_path / "link"))] == ["a.png"]


def test_a_pipe_is_no_image(disk: Folder) -> None:
    # Reading it would wait for ever.
    put(disk, "a.png")
    os.mkfifo(disk.path("b.png"))
    assert listed(disk) == ["a.png"]


def test_a_file_name_that_is_not_utf8_is_refused_by_name(disk: Folder) -> None:
    put(disk, "a.png")
    (Path(disk.url) / os.fsdecode(b"caf\xe9.png")).write_bytes(b"")
    with pytest.raises(SourceError, match="UTF-8"):
        list_images(disk.url)
