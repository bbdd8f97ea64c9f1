"""What a URL may open: files, and nothing that runs or never ends."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pandas as pd
import pytest

from storage.arrays import open_group
from storage.errors import UnreadableError, UrlError
from storage.files import Folder
from storage.remote import file_system
from storage.sources.image_list import ImageList
from storage.sources.kinds import KINDS, source_at
from storage.sources.reading import fetch, read_file
from storage.sources.source import CopiedSource, SourceSettings
from storage.urls import PROTOCOLS
from tests.web import Web


def reference_to(file: Path, folder: Path) -> str:
    """A URL by which fsspec would open another file, after running the templates in a JSON file."""
    (folder / "refs.json").write_text(
        json.dumps({"version": 1, "templates": {"u": f"{{{{ '{file}' }}}}"}, "refs": {"x": ["{{u()}}"]}})
    )
    return f"reference://x::{folder}/refs.json"


@pytest.mark.parametrize(
    "url",
    [
        *("reference://x", "dask://x", "generic://x", "github://a:b@c/x", "jupyter://x", "dir://x", "pyscript://x"),
        *("simplecache::s3://bucket/x", "zip://a.png::https://host/x.zip", "/data/x.zip::zip://", "://x", "S3://x"),
        *("/data/a\0b", "memory://a\0b"),
    ],
)
def test_file_systems_that_are_more_than_files_are_not_opened(url: str) -> None:
    with pytest.raises(UrlError, match=r"is not opened: URLs may begin with .*s3://|NUL"):
        file_system(url)
    if "://" not in url:
        return
    opening = [Folder(url).exists, lambda: Folder(url).read("x"), lambda: Folder(url).write("x", b"")]
    opening += [lambda: open_group(url, {})]
    for opens in opening:
        with pytest.raises(UrlError):
            opens()


def test_what_is_opened_has_no_chain_and_is_known_to_fsspec() -> None:
    from fsspec.registry import available_protocols

    assert PROTOCOLS - {"webhdfs", "abfss", "gs", "oci", "tos"} <= set(available_protocols())
    assert file_system("/data/x")[1] == "/data/x"
    assert file_system("memory://x/y")[1] == "/x/y"


def test_a_list_reaches_no_file_by_a_reference(tmp_path: Path, disk: Folder) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("my secret")
    url = reference_to(secret, tmp_path)
    (tmp_path / "list.csv").write_text(f"url\n{url}\n{url.replace('://x', '://secret')}\n")
    source = source_at(str(tmp_path / "list.csv"), KINDS, SourceSettings(disk / "tars", ""))
    assert isinstance(source, ImageList)
    for image in source.images():
        with pytest.raises(UnreadableError, match="is not opened") as caught:
            source.read(image.url)
        assert "my secret" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["x" * 300, "a\0b.png", "file/x.png", "loop.png", "/dev/zero", "pipe.png", ".", "\ud800"]
)
def test_a_path_that_names_no_file_is_refused_alone(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "loop.png").symlink_to("loop.png")
    os.mkfifo(tmp_path / "pipe.png")
    url = name if name.startswith("/") else f"{tmp_path}/{name}"
    reading: list[object] = []

    def read() -> None:
        try:
            reading.append(read_file(url))
        except UnreadableError as error:
            reading.append(error)

    thread = threading.Thread(target=read, daemon=True)  # which a pipe would keep for ever
    thread.start()
    thread.join(10)
    assert [type(found) for found in reading] == [UnreadableError] and "cannot be read: " in str(reading[0])


@pytest.mark.parametrize("name", ["a\0b.png", "\ud800.png", "x" * 300])
def test_a_list_with_a_path_that_is_none_is_listed(name: str, tmp_path: Path) -> None:
    if name.isprintable():
        pd.DataFrame({"path": [name]}).to_parquet(tmp_path / "list.parquet")
    else:
        (tmp_path / "list.csv").write_bytes(b"path\n" + name.encode("utf-8", "replace") + b"\n")
    file = next(tmp_path.glob("list.*"))
    assert len(list(ImageList(str(file)).images())) == 1


@pytest.mark.parametrize(
    "to", ["file:///etc/hostname", "data:text/plain,x", "memory://x", "reference://x::/etc/hostname"]
)
def test_a_server_cannot_send_on_to_anything_but_a_server(to: str, web: Web) -> None:
    web.files["x.png"] = to.encode()
    with pytest.raises(UnreadableError, match=r"cannot be fetched.*302.*not allowed"):
        fetch(f"{web.url}/302/9/x.png")


def test_a_server_may_send_on_to_another(web: Web) -> None:
    web.files |= {"x.png": f"{web.url}/y.png".encode(), "y.png": b"the image"}
    assert fetch(f"{web.url}/302/9/x.png") == b"the image"


def test_what_has_no_end_is_read_so_far_and_no_further(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storage.sources.reading.MAX_BYTES", 1000)
    web.files |= {"fits": bytes(1000), "not": bytes(1001)}
    (tmp_path / "fits").write_bytes(bytes(1000))
    (tmp_path / "not").write_bytes(bytes(1001))
    for where in (web.url, str(tmp_path)):
        assert fetch(f"{where}/fits") == bytes(1000)
        with pytest.raises(UnreadableError, match="has more than 1,000 bytes"):
            fetch(f"{where}/not")


@pytest.mark.parametrize("is_relative", [False, True])
def test_a_folder_with_colons_in_its_name_is_a_folder(
    is_relative: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p::1" / "cat::x").mkdir(parents=True)
    (tmp_path / "p::1" / "cat::x" / "0.png").write_bytes(b"image")
    (tmp_path / "p::1" / "list.csv").write_text("path\ncat::x/0.png\nsimplecache::s3/x.png\n")
    name = "p::1" if is_relative else str(tmp_path / "p::1")
    settings = SourceSettings(Folder(str(tmp_path / "tars")), "")
    source = source_at(name, KINDS, settings)
    (image,) = source.images()
    assert isinstance(source, CopiedSource) and source.read(image.url) == b"image" and image.label == "cat::x"
    listed = source_at(f"{name}/list.csv", KINDS, settings)
    first, second = listed.images()
    assert isinstance(listed, ImageList) and listed.read(first.url) == b"image"
    with pytest.raises(UnreadableError, match="is not opened"):
        listed.read(second.url)
    store = Folder.at(f"{name}/store")
    store.write("a/b.json", b"{}")
    assert (tmp_path / "p::1/store/a/b.json").read_bytes() == store.read("a/b.json") == b"{}"
    assert store.glob("a/*.json") == ["a/b.json"] and [file.path for file in store.files()] == ["a/b.json"]
    assert open_group(store.path("x.zarr"), {}) is not None and (tmp_path / "p::1/store/x.zarr").is_dir()


def test_a_path_with_colons_that_is_not_there_says_how_to_write_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UrlError, match=r"with \./ before it"):
        Folder.at("new::1").write("x", b"")
    Folder.at("./new::1").write("x", b"")
    assert (tmp_path / "new::1" / "x").read_bytes() == b""
