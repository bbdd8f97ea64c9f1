"""Texts as sources, and several sources as one list."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import SourceError
from storage.files import Folder
from storage.sources.broden import Broden
from storage.sources.folder import ImageFolder
from storage.sources.image_list import ImageList
from storage.sources.joined import joined, key_of, named, selected
from storage.sources.kinds import KINDS, source_at
from storage.sources.source import Source, SourceImage, SourceSettings
from storage.sources.tars import Tars


def at(text: str) -> Source:
    return source_at(text, KINDS, SourceSettings(Folder("lists"), "data"))


def test_the_text_says_which_kind_a_source_is(folder: Folder) -> None:
    folder.write("broden/index.csv", b"")
    folder.write("broden/label.csv", b"")
    folder.write("broden/images/x.jpg", b"")
    kinds = {".": ImageFolder, "broden": Broden, "broden/images": ImageFolder, "x.csv": ImageList}
    kinds |= {"x.parquet": ImageList, "x.tar": Tars, "x/*.tar": Tars, "x-{00..99}.tar": Tars}
    for name, kind in kinds.items():
        assert type(at(folder.path(name) if name != "." else folder.url)) is kind


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nowhere", "There is no folder .*nowhere"),
        ("a.png", r"a\.png is a file of another kind"),
        ("x.tar.gz", r"x\.tar\.gz is compressed.*Uncompress"),
    ],
)
def test_what_is_no_source_is_named_with_the_kinds(folder: Folder, name: str, words: str) -> None:
    folder.write("a.png", b"")
    with pytest.raises(SourceError, match=words) as error:
        at(folder.path(name))
    assert "compressed" in words or all(kind.form in str(error.value) for kind in KINDS)


def test_a_folder_of_tars_is_told_how_to_give_them(disk: Folder) -> None:
    disk.write("0.tar", b"")
    with pytest.raises(SourceError, match=r"no image .*1 tar files give --probe '.*/\*\.tar'"):
        list(ImageFolder(disk.url).images())


def test_sources_have_names_of_their_own(tmp_path: Path) -> None:
    texts = [
        "/a/val",
        "/b/val/",
        "val-2",
        "/c/list.csv",
        "s3://b/shards/x-{000..009}.tar",
        "/",
    ]
    assert list(named([ImageFolder(text) for text in texts])) == [
        *("val", "val-2", "val-2-2", "list", "x-000..009", "source"),
    ]


def test_equal_paths_of_two_sources_do_not_collide(disk: Folder) -> None:
    for name in ("a/x/1.png", "b/x/1.png", "b/x/2.png"):
        disk.write(name, name.encode())
    a, b = ImageFolder(disk.path("a")), ImageFolder(disk.path("b"))
    images = list(joined(named([b, a])))
    assert [(image.source, image.path, image.label) for image in images] == [
        ("b", "b/x/1.png", "x"),
        ("b", "b/x/2.png", "x"),
        ("a", "a/x/1.png", "x"),
    ]
    assert [image.key for image in images] == ["b/x/1", "b/x/2", "a/x/1"]
    assert [image.path for image in joined(named([a]))] == ["x/1.png"]


def numbered(count: int) -> list[SourceImage]:
    return [SourceImage(f"{number}.png", "", 0, "") for number in range(count)]


@given(st.integers(0, 30), st.none() | st.integers(1, 40), st.none() | st.integers(1, 40), st.integers(0, 5))
def test_a_sample_is_of_the_first_and_keeps_their_order(
    count: int, limit: int | None, sample: int | None, seed: int
) -> None:
    images = numbered(count)
    chosen = list(selected(iter(images), limit, sample, seed))
    within = images[:limit]
    assert len(chosen) == min(len(within), sample or len(within))
    assert chosen == [image for image in within if image in chosen]
    assert chosen == list(selected(iter(images), limit, sample, seed))


def test_another_seed_gives_another_sample() -> None:
    assert selected(iter(numbered(100)), None, 10, 0) != selected(iter(numbered(100)), None, 10, 1)


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("cat/1.jpg", "cat/1"),
        ("v1.0/a.b.jpg", "v1_0/a_b"),
        ("/data/../x.png", "data/__/x"),
        ("s3://bucket.x/a/2", "bucket_x/a/2"),
        ("__meta__/1.png", "_meta__/1"),
    ],
)
def test_keys_are_paths_without_dots(path: str, key: str) -> None:
    assert key_of(path) == key
