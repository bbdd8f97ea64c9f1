"""Storage on an object store that fails: nothing is lost, nothing short is taken for whole, and it is told."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from typing import Any
from urllib.request import Request, urlopen

import numpy as np
import pandas as pd
import pytest

from storage import arrays, leases
from storage.completion import Rows
from storage.errors import RemoteError
from storage.files import Folder
from storage.leases import Leases
from storage.remote import file_system
from storage.shards import ShardMember, read_images, write_shard
from storage.sources.folder import ImageFolder
from storage.sources.image_list import ImageList
from storage.sources.kinds import KINDS, source_at
from storage.sources.reading import fetch
from storage.sources.source import SourceSettings
from storage.tables import read_rows, write_parquet
from tests.conftest import REPO
from tests.object_store import BUCKET, Fault, ObjectStore

# What holds for files on a disk holds here: these run with the fixture `folder` of this module.
from tests.test_storage.test_files import (  # noqa: F401
    test_a_failing_writer_leaves_the_old_file_and_no_part,
    test_a_file_opened_can_seek,
    test_a_folder_that_is_not_there_is_empty,
    test_a_reader_sees_the_old_file_until_the_new_one_is_whole,
    test_a_removed_folder_is_gone_with_all_below,
    test_readers_of_one_file_do_not_share_a_position,
    test_what_is_written_is_read_and_listed_sorted,
)
from tests.test_storage.test_left_out import (  # noqa: F401
    image_of,
    test_other_files_are_counted_by_ending,
    test_so_many_files_of_an_object_store_are_looked_into_and_no_more,
    test_the_head_of_a_file_is_its_first_bytes,
)

#: Faults of a single answer that the one after it mends.
PASSING_READS = ["503", "500", "cut", "short"]
PASSING_WRITES = ["503", "500", "lost"]


@pytest.fixture
def folder(s3: ObjectStore) -> Folder:
    """An empty folder of an object store."""
    return s3.folder()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second try and no third, and none of s3fs's own."""
    monkeypatch.setattr("storage.remote.PATIENCE", 0.0)
    monkeypatch.setattr("s3fs.S3FileSystem.retries", 1)


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """s3fs sends in parts of 5 MiB, the smallest that S3 takes, not 50."""
    monkeypatch.setattr("s3fs.core.calculate_chunksize", lambda size, chunksize=None: 5 << 20)


def by_another_process(s3: ObjectStore, folder: Folder, name: str, data: bytes | None) -> None:
    """Writes an object, or removes it, as this process's file system knows nothing of."""
    url = folder.path(name).replace("s3:/", s3.endpoint)
    headers = {
        "Authorization": "AWS4-HMAC-SHA256 Credential=test/20261121/us-east-1/s3/aws4_request",
        "Content-Type": "application/octet-stream",
    }
    urlopen(Request(url, data, headers, method="DELETE" if data is None else "PUT")).close()


def test_what_another_process_writes_changes_and_removes_is_seen(s3: ObjectStore, folder: Folder) -> None:
    folder.write("a", b"1")
    assert folder.names() == ["a"] and not folder.exists("b")
    by_another_process(s3, folder, "b", b"2")
    assert folder.exists("b") and folder.is_file("b") and folder.names() == ["a", "b"]
    before = folder.version("b")
    by_another_process(s3, folder, "b", b"3")
    assert folder.version("b") != before and folder.read("b") == b"3"
    by_another_process(s3, folder, "b", None)
    assert not folder.exists("b") and folder.names() == ["a"]


def test_zarr_sees_what_another_process_writes(s3: ObjectStore, folder: Folder) -> None:
    url = folder.path("a.zarr")
    assert not (folder / "a.zarr").exists("zarr.json")
    program = (
        f"from storage import arrays; group = arrays.open_group({url!r}, {{'of': 1}}); "
        "arrays.create_rows(group, 'x', (4, 2), 2, ('row', 'unit'), {})"
    )
    subprocess.run([sys.executable, "-c", program], cwd=REPO, check=True)
    assert arrays.shape(arrays.open_group(url, {"of": 1}), "x") == (4, 2)


@pytest.mark.parametrize("how", PASSING_READS)
def test_an_image_without_ending_is_found_whatever_the_first_answer_is(
    how: str, s3: ObjectStore, folder: Folder
) -> None:
    folder.write("a.png", b"")
    folder.write("without", image_of("PNG"))
    s3.fails(Fault(how, "GET", "/without"))
    assert [image.path for image in ImageFolder(folder.url).images()] == ["a.png", "without"]


@pytest.mark.parametrize("how", PASSING_READS)
def test_a_read_that_fails_is_tried_again(how: str, s3: ObjectStore, folder: Folder) -> None:
    folder.write("file", b"0123456789")
    s3.fails(Fault(how, "GET", "/file"))
    assert folder.read("file") == b"0123456789"
    assert sum(request.startswith("GET") for request in s3.asked()) == 2


@pytest.mark.parametrize("how", PASSING_WRITES)
def test_a_write_that_fails_is_tried_again(how: str, s3: ObjectStore, folder: Folder) -> None:
    s3.fails(Fault(how, "PUT", "/file"))
    folder.write("file", b"0123456789")
    assert sum(request.startswith("PUT") for request in s3.asked()) == 2
    assert folder.read("file") == b"0123456789"


def test_a_server_that_fails_is_not_taken_for_one_that_has_nothing(s3: ObjectStore, folder: Folder) -> None:
    folder.write("file", b"")
    s3.fails(Fault("500", "HEAD", "/file"), Fault("500", "GET", "prefix="))
    assert folder.exists("file")
    assert folder.names() == ["file"]
    s3.fails(Fault("500", "HEAD", "/file"))
    assert folder.is_file("file")


def test_a_slow_answer_is_waited_for(s3: ObjectStore, folder: Folder) -> None:
    folder.write("file", b"0123456789")
    s3.fails(Fault("slow", "GET", "/file"))
    assert folder.read("file") == b"0123456789"
    assert len([request for request in s3.asked() if request.startswith("GET")]) == 1


def test_a_large_file_goes_and_comes_in_parts_and_only_the_part_that_failed_is_sent_again(
    s3: ObjectStore, folder: Folder, small_parts: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storage.remote.PART_BYTES", 1 << 22)
    part = np.random.default_rng(0).bytes(1 << 20)
    s3.fails(Fault("503", "PUT", "partNumber=2"), Fault("cut", "GET", "/large"))
    with folder.writing("large") as file:
        for _ in range(11):
            file.write(part)
    sent = [request.split("?")[1].split("&")[0] for request in s3.asked() if request.startswith("PUT")]
    assert sorted(sent) == ["partNumber=1", "partNumber=2", "partNumber=2", "partNumber=3"]
    assert folder.read("large") == part * 11
    assert sum(request.startswith("GET") for request in s3.asked()) == 3 + 1


def test_no_part_of_a_large_file_is_left_where_its_writing_failed(
    s3: ObjectStore, folder: Folder, small_parts: None, impatient: None
) -> None:
    s3.fails(Fault("500", "PUT", "partNumber=2", times=9))
    with pytest.raises(RemoteError, match=r"Writing s3://.*/large failed"), folder.writing("large") as file:
        file.truncate(11 << 20)
    assert not folder.exists("large")
    assert f"{BUCKET}" in folder.url and any(request.startswith("DELETE") for request in s3.asked())


@pytest.mark.parametrize(
    ("fault", "does"),
    [
        (Fault("503", "GET", "/file", times=999), lambda folder: folder.read("file")),
        (Fault("cut", "GET", "/file", times=999), lambda folder: folder.sha256("file")),
        (Fault("short", "GET", "/file", times=999), lambda folder: folder.read("file")),
        (Fault("lost", "PUT", "/file", times=999), lambda folder: folder.write("file", b"new and longer")),
        (Fault("500", "HEAD", "/file", times=999), lambda folder: folder.exists("file")),
        (Fault("500", "GET", "prefix=", times=999), lambda folder: folder.names()),
        (Fault("500", "DELETE", "/file", times=999), lambda folder: folder.remove_file("file")),
    ],
    ids=lambda given: f"{given.how}-{given.method}" if isinstance(given, Fault) else "",
)
def test_an_outage_is_told_with_the_url_the_tries_and_the_way_out(
    fault: Fault, does: Callable[[Folder], object], s3: ObjectStore, folder: Folder, impatient: None
) -> None:
    folder.write("file", b"0123456789")
    s3.fails(fault)
    with pytest.raises(RemoteError, match=r"failed in 2 tries over \d+ s, at last with: \w+: .*") as caught:
        does(folder)
    assert folder.url in str(caught.value) and "run the same command again" in str(caught.value)


def test_nobody_at_the_endpoint_is_an_outage_in_words(
    s3: ObjectStore, folder: Folder, impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    # An option of fsspec's configuration: the file system of the environment's endpoint is already made.
    monkeypatch.setitem(fsspec_config(), "s3", {"endpoint_url": "http://127.0.0.1:9"})
    with pytest.raises(RemoteError, match=r"Could not connect.*127\.0\.0\.1:9"):
        folder.read("file")
    with pytest.raises(RemoteError, match=r"Could not connect.*127\.0\.0\.1:9"):
        arrays.open_group(folder.path("a.zarr"), {})


def fsspec_config() -> dict[str, Any]:
    from fsspec.config import conf

    return conf


def test_without_credentials_that_is_said_at_once(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setitem(fsspec_config(), "s3", {"max_concurrency": 7})  # a file system of its own
    with pytest.raises(RemoteError, match="Unable to locate credentials"):
        folder.read("file")


def test_what_is_forbidden_is_asked_for_once_and_named(s3: ObjectStore, folder: Folder) -> None:
    s3.fails(Fault("403", "PUT", "/file", times=9))
    with pytest.raises(PermissionError, match=f"not allowed.*{folder.url}/file"):
        folder.write("file", b"")
    assert len(s3.asked()) == 1


def test_a_bucket_that_is_not_there_is_not_made(s3: ObjectStore) -> None:
    with pytest.raises(RemoteError, match=r"s3://nobodys/store/store\.json.*bucket"):
        Folder.at("s3://nobodys/store").write("store.json", b"{}")
    assert all("/nobodys/store" in request for request in s3.asked())


ROWS = np.arange(24, dtype=np.float32).reshape(8, 3)


def written(folder: Folder) -> Any:
    group = arrays.open_group(folder.path("a.zarr"), {"of": 1})
    arrays.create_rows(group, "x", ROWS.shape, 4, ("row", "unit"), {}, columns_per_chunk=1)
    for start in (0, 4):
        arrays.write_rows(group, "x", Rows(start, start + 4), ROWS[start : start + 4])
    return group


@pytest.mark.parametrize("how", PASSING_WRITES)
def test_rows_that_fail_to_be_written_are_written_again(how: str, s3: ObjectStore, folder: Folder) -> None:
    s3.fails(Fault(how, "PUT", "/x/c/"), Fault(how, "PUT", "/x/zarr.json"))
    assert np.array_equal(arrays.read_finished_rows(written(folder), "x", Rows(0, 8)), ROWS)


@pytest.mark.parametrize(
    ("how", "columns"),
    [
        ("503", slice(1, 2)),
        ("500", slice(None)),
        ("cut", slice(None)),
        ("short", slice(None)),
        ("short", slice(1, 2)),
    ],
)
def test_rows_that_fail_to_be_read_are_read_again(how: str, columns: slice, s3: ObjectStore, folder: Folder) -> None:
    group = written(folder)
    s3.fails(Fault(how, "GET", "/x/c/", times=2), Fault(how, "GET", "/x/zarr.json"))
    assert np.array_equal(arrays.read_finished_rows(group, "x", Rows(0, 8), columns), ROWS[:, columns])


def test_an_outage_is_not_taken_for_rows_that_are_not_there(s3: ObjectStore, folder: Folder, impatient: None) -> None:
    group = written(folder)
    s3.fails(Fault("500", "GET", "/x/c/", times=99))
    with pytest.raises(RemoteError, match=r"Reading s3://.*/x/c/\d/0 failed"):
        arrays.read_rows(group, "x", Rows(0, 8))


def test_an_outage_is_not_taken_for_damage(s3: ObjectStore, folder: Folder, impatient: None) -> None:
    """Whoever is told of damage is told to remove something."""
    write_parquet(folder, "table.parquet", pd.DataFrame({"a": range(3)}))
    shard = write_shard(folder, "shard.tar", [ShardMember("k", "png", b"image")])
    wanted = pd.DataFrame(
        [("shard.tar", 0, "k", 0, 5, "0")], columns=["shard", "offset", "key", "row", "num_bytes", "sha256"]
    )
    s3.fails(*(Fault("500", "GET", name, times=99) for name in ("/table.parquet", "/shard.tar", "/list.csv")))
    assert shard.num_images == 1
    with pytest.raises(RemoteError):
        read_rows(folder, "table.parquet", Rows(0, 1))
    with pytest.raises(RemoteError):
        list(read_images(folder, wanted))
    with pytest.raises(RemoteError):
        list(tars(folder, "shard.tar"))
    folder.write("list.csv", b"path\na.png\n")
    with pytest.raises(RemoteError):
        list(ImageList(folder.path("list.csv")).images())
    with pytest.raises(RemoteError):
        fetch(folder.path("shard.tar"))


def tars(folder: Folder, pattern: str) -> Iterator[Any]:
    return source_at(folder.path(pattern), KINDS, SourceSettings(folder / "lists", "")).images()


def test_images_of_a_folder_of_lists_and_of_tars_are_found_and_read(s3: ObjectStore, folder: Folder) -> None:
    images = {"red/a b.png": b"A", "red/ü.jpg": b"BB", "c.png": b"CCC"}
    for path, data in images.items():
        (folder / "images").write(path, data)
    source = source_at(folder.path("images"), KINDS, SourceSettings(folder, ""))
    assert isinstance(source, ImageFolder)
    found = list(source.images())
    assert {image.path: source.read(image.url) for image in found} == images
    assert all(image.version and image.num_bytes == len(images[image.path]) for image in found)
    rows = f"path\nimages/c.png\n{folder.path('images/red/a b.png')}\n"
    (folder / "lists").write("list.csv", rows.encode())
    listed = ImageList(folder.path("lists/list.csv"))
    assert [image.url for image in listed.images()] == [
        folder.path("lists/images/c.png"),
        folder.path("images/red/a b.png"),
    ]
    assert fetch(folder.path("images/c.png")) == b"CCC"


def test_an_image_of_a_tar_is_read_alone(s3: ObjectStore, folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storage.remote.READ_AHEAD", 1 << 12)
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for number in range(5):
            info = tarfile.TarInfo(f"{number}.png")
            info.size = 1 << 20
            tar.addfile(info, io.BytesIO(bytes([number]) * info.size))
    folder.write("x-0.tar", data.getvalue())
    s3.fails()
    images = list(tars(folder, "*.tar"))
    assert [image.path for image in images] == [f"x-0.tar/{number}.png" for number in range(5)]
    gets = [request for request in s3.asked() if request.startswith("GET") and "x-0.tar" in request]
    assert len(gets) <= 2 * 5 + 1  # a header each, and not what is between


def test_a_file_that_is_replaced_while_it_is_read_is_read_as_one_or_the_other(
    s3: ObjectStore, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storage.remote.PART_BYTES", 4)
    folder.write("file", b"0123456789")
    fs, _ = file_system(folder.url)
    ranges = fs.cat_ranges

    def replacing(paths: list[str], starts: list[int], ends: list[int], **kwargs: Any) -> list[bytes]:
        monkeypatch.setattr(fs, "cat_ranges", ranges)
        first = ranges(paths[:1], starts[:1], ends[:1], **kwargs)
        by_another_process(s3, folder, "file", b"abcdefghij")
        return [*first, *ranges(paths[1:], starts[1:], ends[1:], **kwargs)]

    monkeypatch.setattr(fs, "cat_ranges", replacing)
    assert folder.read("file") == b"abcdefghij"
    with folder.open("file") as file:
        by_another_process(s3, folder, "file", b"9876543210")
        with pytest.raises(OSError, match="no longer exists"):
            file.read()


HOLDER = """
import sys, time
from storage import leases
from storage.files import Folder
leases.RENEWAL_SECONDS = 0.05
with leases.Leases(Folder.at(sys.argv[1])).held("a", print):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_lease_is_taken_over_when_its_holder_is_killed(
    s3: ObjectStore, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "LEASE_SECONDS", 1.5)
    monkeypatch.setattr(leases, "SECONDS_BETWEEN_ASKING", {False: 0.02})
    told: list[str] = []
    command = [sys.executable, "-c", HOLDER, folder.url]
    with subprocess.Popen(command, cwd=REPO, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        killer = threading.Timer(2.0, os.kill, [holder.pid, signal.SIGKILL])  # longer than a lease lasts
        killer.start()
        with Leases(folder).held("a", told.append):
            assert holder.wait() == -signal.SIGKILL
            assert (folder / "a.lease").names() == ["0000000002"]
    assert told and folder.names() == []


def test_of_many_that_create_an_object_one_does(s3: ObjectStore, folder: Folder) -> None:
    did: list[bool] = []
    ready = threading.Barrier(8)

    def create(number: int) -> None:
        ready.wait()
        did.append(folder.create("one", str(number).encode()))

    threads = [threading.Thread(target=create, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(did) == [False] * 7 + [True]
    assert not folder.create("one", b"later")


def test_who_created_an_object_and_lost_the_answer_has_created_it(s3: ObjectStore, folder: Folder) -> None:
    s3.fails(Fault("unanswered", "PUT", "/one"))
    assert folder.create("one", b"mine")
    assert sum(request.startswith("PUT") for request in s3.asked()) == 2
