"""Lists of images: paths below the list's folder, URLs that may fail, labels."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pandas as pd
import pytest

from storage.errors import SourceError, UnreadableError
from storage.files import Folder
from storage.sources.image_list import ImageList
from storage.sources.joined import joined
from storage.sources.reading import fetch
from storage.sources.source import SourceImage


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


class Server(BaseHTTPRequestHandler):
    """Answers `/200`, `/404`, `/flaky` at the third time, and `/list.csv`."""

    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        flaky = 200 if len(self.asked) > 2 else 503
        status = {"/flaky": flaky, "/list.csv": 200}.get(self.path) or int(self.path.strip("/"))
        self.send_response(status)
        self.end_headers()
        self.wfile.write(b"path\n200\n" if self.path == "/list.csv" else b"image")

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr("storage.sources.reading.PAUSES", (0.0, 0.0))
    Server.asked.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def test_a_url_is_fetched(server: str) -> None:
    assert fetch(f"{server}/200") == b"image"


def test_a_list_may_be_at_a_url_itself(server: str) -> None:
    (image,) = ImageList(f"{server}/list.csv").images()
    assert ImageList("").read(image.url) == b"image"


def test_a_url_that_fails_is_tried_three_times(server: str) -> None:
    assert fetch(f"{server}/flaky") == b"image"
    with pytest.raises(UnreadableError, match=r"cannot be fetched in 3 tries: .*503"):
        fetch(f"{server}/503")
    assert Server.asked == ["/flaky"] * 3 + ["/503"] * 3


def test_what_a_server_refuses_is_not_asked_for_again(server: str) -> None:
    with pytest.raises(UnreadableError, match=r"cannot be fetched: .*404"):
        fetch(f"{server}/404")
    assert Server.asked == ["/404"]


def test_nobody_at_a_url_is_a_reason(server: str) -> None:
    with pytest.raises(UnreadableError, match=r"in 3 tries: .*refused"):
        fetch("http://127.0.0.1:9/x.png")
