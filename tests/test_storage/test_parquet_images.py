"""Images whose bytes lie in a Parquet table, as Hugging Face writes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage.errors import SourceError, UnreadableError
from storage.files import Folder
from storage.sources import parquet_images
from storage.sources.image_list import ImageList
from storage.sources.kinds import KINDS, source_at
from storage.sources.parquet_images import ParquetImages
from storage.sources.source import Source, SourceSettings
from tests.web import Web

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def table(folder: Folder, images: Sequence[dict[str, Any] | None], name: str = "x.parquet", **columns: Any) -> str:
    """A table of two images in a row group."""
    folder.write(name, b"")
    with folder.writing(name) as file:
        pq.write_table(pa.table({"image": pa.array(images, IMAGE), **columns}), file, row_group_size=2)
    return folder.path(name)


def source(url: str, folder: Folder) -> Source:
    return source_at(url, KINDS, SourceSettings(folder / "tars", ""))


def test_images_are_read_from_their_rows_with_their_path_and_label(folder: Folder) -> None:
    images = [{"bytes": b"%d" % n, "path": f"{n}.png" if n % 2 else None} for n in range(5)]
    found = source(table(folder, images, label=[3, 1, None, 0, 2], url=["http://127.0.0.1:9/x"] * 5), folder)
    assert isinstance(found, ParquetImages)
    listed = list(found.images())
    assert [image.path for image in listed] == ["row-0", "1.png", "row-2", "3.png", "row-4"]
    assert [image.label for image in listed] == ["3", "1", "", "0", "2"]
    assert [found.read(image.url) for image in listed] == [b"0", b"1", b"2", b"3", b"4"]
    assert [found.read(image.url) for image in listed[::-1]] == [b"4", b"3", b"2", b"1", b"0"]


def test_a_row_group_is_read_once_and_no_other_is_held(disk: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    found = ParquetImages(table(disk, [{"bytes": b"%d" % n, "path": None} for n in range(6)]))
    asked: list[int] = []
    read = pq.ParquetFile.read_row_group

    def counted(file: pq.ParquetFile, group: int, **which: Any) -> pa.Table:
        asked.append(group)
        return read(file, group, **which)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", counted)
    for image in found.images():
        found.read(image.url)
    assert asked == [0, 1, 2] and parquet_images._images.cache_info().currsize == 1


def test_a_row_without_bytes_is_the_file_that_it_names(disk: Folder) -> None:
    disk.write("a.png", b"file")
    found = ParquetImages(table(disk, [{"bytes": None, "path": "a.png"}, {"bytes": None, "path": None}, None]))
    first, *others = found.images()
    assert found.read(first.url) == b"file"
    for other in others:
        with pytest.raises(UnreadableError, match="neither bytes nor a path"):
            found.read(other.url)


def test_a_row_group_that_would_not_fit_in_memory_is_refused(disk: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_images, "MAX_BYTES", 1000)
    found = ParquetImages(table(disk, [{"bytes": bytes(900), "path": None}, {"bytes": b"x" * 900, "path": None}]))
    first, _ = found.images()
    with pytest.raises(UnreadableError, match=r"row group of \d,\d+ bytes, more than 1,000: .*row_group_size"):
        found.read(first.url)


def test_a_table_that_changes_is_read_anew(disk: Folder) -> None:
    for content in (b"one", b"two"):
        found = ParquetImages(table(disk, [{"bytes": content, "path": "a.png"}]))
        (image,) = found.images()
        assert found.read(image.url) == content
    Path(disk.path("x.parquet")).unlink()
    parquet_images._images.cache_clear()
    with pytest.raises(SourceError, match=r"x\.parquet cannot be read: No such file"):
        found.read(image.url)


def test_a_table_at_a_url_is_read_too(web: Web, disk: Folder) -> None:
    images = [{"bytes": b"%d" % n, "path": None} for n in range(8)]
    web.files["x.parquet"] = Path(table(disk, images)).read_bytes()
    found = source(f"{web.url}/x.parquet", disk)
    assert isinstance(found, ParquetImages)
    listed, asked = list(found.images()), len(web.asked)
    assert [found.read(image.url) for image in listed] == [image["bytes"] for image in images]
    assert len(web.asked) == asked + 1


def test_other_tables_are_lists_of_paths_and_those_that_are_none_say_so(disk: Folder) -> None:
    disk.write("broken.parquet", b"PAR1 no more")
    for name in ("broken.parquet", "absent.parquet"):
        found = source(disk.path(name), disk)
        assert isinstance(found, ImageList)
        with pytest.raises(SourceError, match=name):
            list(found.images())
    with pytest.raises(SourceError, match="has no row"):
        list(ParquetImages(table(disk, [])).images())
