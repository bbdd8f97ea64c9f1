"""Lists of images: paths below the list's folder, URLs that may fail, labels."""

from __future__ import annotations

import time
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage.errors import SourceError, UnreadableError
from storage.files import Folder
from storage.sources.image_list import ImageList
from storage.sources.joined import joined
from storage.sources.reading import fetch
from storage.sources.source import SourceImage
from tests.web import Web


def listed(folder: Folder, text: str, name: str = "list.csv") -> list[SourceImage]:
    folder.write(name, text.encode())
    return list(joined({"list": ImageList(folder.path(name))}))


@pytest.mark.parametrize("column", ["path", "url", "image", "file_name"])
def test_a_path_is_below_the_list_s_folder(folder: Folder, column: str) -> None:
    folder.write("a/1.png", b"one")
    (image,) = listed(folder, f"{column},label\na/1.png,cat\n")
    assert (image.path, image.label, image.key) == ("a/1.png", "cat", "a/1")
    assert ImageList("").read(image.url) == b"one"


def test_a_list_keeps_its_order_and_takes_parquet_too(disk: Folder) -> None:
    table = pd.DataFrame({"path": ["b.png", "a.png"], "label": [7, 3]})
    disk.write("x", b"")
    table.to_parquet(disk.path("list.parquet"))
    images = list(ImageList(disk.path("list.parquet")).images())
    assert [(image.path, image.label) for image in images] == [("b.png", "7"), ("a.png", "3")]


def test_a_path_of_the_file_system_and_a_url_stay(disk: Folder) -> None:
    one, other = listed(disk, "path\n/data/1.png\nhttp://host.org/v1.0/2.jpg?w=3\n")
    assert (one.url, one.key) == ("/data/1.png", "data/1")
    assert (other.url, other.key, other.ending) == (other.path, "host_org/v1_0/2", "")


def test_a_changed_file_has_another_version(disk: Folder) -> None:
    disk.write("1.png", b"one")
    (before,) = listed(disk, "path\n1.png\n")
    disk.write("1.png", b"two")
    (after,) = listed(disk, "path\n1.png\n")
    assert before.num_bytes == 3 and before.version != after.version


def test_the_second_of_one_path_and_a_row_without_one_are_refused(folder: Folder) -> None:
    images = listed(folder, "path,label\n1.png,a\n1.png,b\n,c\n")
    assert [image.reason for image in images] == [
        "",
        "another image of the source has this path",
        "row 2 of the list has nothing in column 'path'",
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("path,label\n", "has a header and no row"),
        ("", "is no table that can be read"),
        ("a.png\nb.png\n", r"no column of image paths.*path, url, image, file_name.* has 'a.png'"),
        ("path\n\xff\xfe", "is no table"),
        ('path\n"a,b\n', "is no table"),
    ],
    ids=["empty", "nothing", "no column", "no UTF-8", "no CSV"],
)
def test_a_list_that_is_none_is_named(text: str, words: str, disk: Folder) -> None:
    disk.write("list.csv", text.encode("latin-1"))
    with pytest.raises(SourceError, match=words) as error:
        list(ImageList(disk.path("list.csv")).images())
    assert disk.path("list.csv") in str(error.value)


def test_a_list_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"list x\.parquet cannot be read: No such file"):
        list(ImageList("x.parquet").images())


def test_a_url_is_fetched(web: Web) -> None:
    web.files["a.png"] = b"image"
    assert fetch(f"{web.url}/a.png") == b"image"


def test_a_list_may_be_at_a_url_itself(web: Web) -> None:
    web.files |= {"list.csv": b"path\na.png\n", "a.png": b"image"}
    (image,) = ImageList(f"{web.url}/list.csv").images()
    assert ImageList("").read(image.url) == b"image"


@pytest.mark.parametrize("trouble", ["500", "503", "429", "408", "hang", "cut"])
def test_what_may_pass_is_tried_three_times(trouble: str, web: Web) -> None:
    web.files["a.png"] = b"image"
    assert fetch(f"{web.url}/{trouble}/2/a.png") == b"image"
    reason = {"hang": "timed out", "cut": "5 bytes read, 10 more expected"}.get(trouble, trouble)
    with pytest.raises(UnreadableError, match=rf"cannot be fetched in 3 tries: .*{reason}"):
        fetch(f"{web.url}/{trouble}/3/a.png")
    assert web.asked == [f"/{trouble}/2/a.png"] * 3 + [f"/{trouble}/3/a.png"] * 3


def test_each_pause_is_longer_than_the_one_before(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # pauses as users have them
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    with pytest.raises(UnreadableError):
        fetch(f"{web.url}/503/9/a.png")
    assert len(waited) == 2 and 0 < waited[0] < waited[1] < 5


@pytest.mark.parametrize("code", [400, 401, 403, 404, 410])
def test_what_a_server_refuses_is_not_asked_for_again(code: int, web: Web) -> None:
    with pytest.raises(UnreadableError, match=rf"cannot be fetched: .*{code}"):
        fetch(f"{web.url}/{code}/9/a.png")
    assert len(web.asked) == 1


def test_nobody_at_a_url_is_a_reason(web: Web) -> None:
    with pytest.raises(UnreadableError, match=r"in 3 tries: .*refused"):
        fetch("http://127.0.0.1:9/x.png")


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("memory://nowhere/a.png", "cannot be read: No such file"),
        ("http://[::1/a.png", "cannot be fetched: Invalid IPv6"),
        ("http://127.0.0.1:port/a.png", "cannot be fetched: nonnumeric port"),
        ("gopher-of-old://host/a.png", "is not opened"),
    ],
)
def test_what_cannot_pass_is_tried_once(url: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    with pytest.raises(UnreadableError, match=reason):
        fetch(url)
    assert not waited


@pytest.mark.parametrize("header", ["filename", "image_path", "filepath", "Path", "File Name", "img", "FILE"])
def test_columns_of_other_tools_are_known_in_any_case(folder: Folder, header: str) -> None:
    images = listed(folder, f"split;{header};Label\ntrain;1.png;7\n")
    assert [(image.path, image.label) for image in images] == [("1.png", "7")]


def test_rows_that_do_not_fit_the_header_are_refused_by_line_and_shift_nothing(folder: Folder) -> None:
    images = listed(folder, "path,label\n1.png,cat,\n2.png\n3.png,dog,,\n")
    assert [(image.path, image.label) for image in images] == [("1.png", "cat"), ("2.png", ""), ("3.png", "dog")]
    with pytest.raises(SourceError, match=r"list\.csv is no table .*line 2 has 3 cells"):
        listed(folder, "path,label\n1,000.png,cat\n")


def test_a_path_as_windows_writes_it_is_refused_with_the_way_out_unless_there_is_such_a_file(disk: Folder) -> None:
    disk.write("b\\2.png", b"two")
    one, other = listed(disk, "path\na\\1.png\nb\\2.png\n")
    assert "Write / in its path" in one.reason and one.path == "a\\1.png"
    assert other.reason == "" and ImageList("").read(other.url) == b"two"


def parquet(folder: Folder, columns: dict[str, pa.Array | list[object]], row_group_size: int = 2) -> str:
    pq.write_table(pa.table(columns), folder.path("list.parquet"), row_group_size=row_group_size)
    return folder.path("list.parquet")


def test_of_a_parquet_list_only_the_columns_in_use_are_read(disk: Folder) -> None:
    disk.write("x", b"")
    boxes = [[[1, 2]], None, []]
    url = parquet(disk, {"boxes": boxes, "file_name": ["a.png", None, "c.png"], "label": pa.array([1, None, 3])})
    images = list(ImageList(url).images())
    assert [(image.path, image.label) for image in images] == [("a.png", "1"), ("row 1", ""), ("c.png", "3")]
    with pytest.raises(SourceError, match=r"list\.parquet is no table .*column 'label' holds list"):
        list(ImageList(parquet(disk, {"path": ["a", "b", "c"], "label": boxes})).images())


def test_a_column_of_structs_with_a_path_is_one_of_paths(disk: Folder) -> None:
    disk.write("x", b"")
    url = parquet(disk, {"image": [{"path": "a.png"}, None, {"path": "b.png"}]})
    assert [image.path for image in ImageList(url).images()] == ["a.png", "row 1", "b.png"]
    with pytest.raises(SourceError, match=r"column 'image' holds struct"):
        list(ImageList(parquet(disk, {"image": [{"src": "a.png"}]})).images())
