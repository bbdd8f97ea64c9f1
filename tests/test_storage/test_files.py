"""A file is written whole or not at all, on a disk and in memory."""

from __future__ import annotations

import errno
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from storage import arrays
from storage.disk import writing_in
from storage.errors import WriteError
from storage.files import Folder, is_local
from storage.leases import Leases

FAILURES = [RuntimeError("the network failed"), KeyboardInterrupt(), OSError(errno.EIO, "Input/output error")]


def test_what_is_written_is_read_and_listed_sorted(folder: Folder) -> None:
    folder.write("b.bin", b"\x00\xff")
    folder.write_json("a.json", {"größe": 1})
    (folder / "below").write("c.bin", b"")
    assert folder.read("b.bin") == b"\x00\xff"
    assert folder.read_json("a.json") == {"größe": 1}
    assert folder.names() == ["a.json", "b.bin", "below"]
    assert [folder.exists(name) for name in ("b.bin", "below", "", "other")] == [True, True, True, False]


def test_a_folder_that_is_not_there_is_empty(folder: Folder) -> None:
    assert folder.names() == []
    assert not folder.exists()
    folder.remove()
    with pytest.raises(FileNotFoundError):
        folder.read("file")


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: type(failure).__name__)
def test_a_failing_writer_leaves_the_old_file_and_no_part(folder: Folder, failure: BaseException) -> None:
    folder.write("file", b"old")
    with pytest.raises(type(failure)), folder.writing("file") as file:
        file.write(b"new, but not a")
        raise failure
    assert folder.read("file") == b"old"
    if folder.is_local:
        assert [path.name for path in Path(folder.url).iterdir()] == ["file"]


def test_a_reader_sees_the_old_file_until_the_new_one_is_whole(folder: Folder) -> None:
    folder.write("file", b"old")
    with folder.writing("file") as file:
        file.write(b"new")
        file.flush()
        assert folder.read("file") == b"old"
        assert folder.names() == ["file"]
    assert folder.read("file") == b"new"


def test_two_writers_of_one_file_leave_one_of_both(disk: Folder) -> None:
    contents = [bytes([byte]) * 100_000 for byte in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda content: disk.write("file", content), contents))
    assert disk.read("file") in contents
    assert len(list(Path(disk.url).iterdir())) == 1


def test_what_a_killed_writer_left_is_not_listed(disk: Folder) -> None:
    disk.write("a.json", b"{}")
    Path(disk.path(".b.json.123-abc.partial")).write_bytes(b"{")
    assert disk.names() == ["a.json"]


def test_a_removed_folder_is_gone_with_all_below(folder: Folder) -> None:
    (folder / "a" / "b").write("file", b"x")
    folder.remove()
    assert not folder.exists()
    assert (folder / "a").names() == []


def test_a_file_opened_can_seek(folder: Folder) -> None:
    folder.write("file", b"0123456789")
    with folder.open("file") as file:
        file.seek(7)
        assert file.read() == b"789"


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Folder]:
    """A folder on a disk of 64 KiB."""
    mounted = tmp_path / "full"
    mounted.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(mounted)]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if done.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {done.stderr.strip()}")
    yield Folder.at(str(mounted))
    subprocess.run(["umount", str(mounted)], check=True)


def test_a_full_disk_is_said_with_the_way_out_and_the_old_file_stays(full_disk: Folder) -> None:
    full_disk.write("file", b"old")
    with pytest.raises(OSError, match="No space left to write") as caught:
        full_disk.write("file", bytes(100_000))
    _says_the_way_out(caught.value, full_disk)
    assert full_disk.read("file") == b"old"
    assert [path.name for path in Path(full_disk.url).iterdir()] == ["file"]


@pytest.fixture
def read_only_disk(full_disk: Folder) -> Folder:
    full_disk.write("file", b"old")
    subprocess.run(["mount", "-o", "remount,ro", full_disk.url], check=True)
    return full_disk


def test_a_read_only_disk_is_said_with_the_way_out(read_only_disk: Folder) -> None:
    way_out = r"Nothing can be written in .* \(Read-only file system\).* is kept: make it writable, or .*--store"
    with pytest.raises(WriteError, match=way_out):
        read_only_disk.write("file", b"new")
    with pytest.raises(WriteError, match=way_out):
        (read_only_disk / "folder").write("file", b"new")
    with pytest.raises(WriteError, match=way_out):
        arrays.open_group(read_only_disk.path("group.zarr"), {})
    with pytest.raises(WriteError, match=way_out), Leases(read_only_disk / "leases").held("a", print):
        pass
    assert read_only_disk.read("file") == b"old"


def test_a_file_that_cannot_be_read_while_another_is_written_is_no_trouble_of_the_disk(disk: Folder) -> None:
    with pytest.raises(PermissionError, match="Permission denied: '/another'"), disk.writing("file"):
        raise PermissionError(errno.EACCES, "Permission denied", "/another")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_no_space_and_no_quota_are_said_with_the_way_out(disk: Folder, code: int) -> None:
    with pytest.raises(OSError, match="No space left to write") as caught, disk.writing("file"):
        raise OSError(code, "full")
    _says_the_way_out(caught.value, disk)
    assert disk.names() == []


def _says_the_way_out(error: OSError, folder: Folder) -> None:
    for words in (folder.url, "MB free", "is kept", "--store", "run the same command again"):
        assert words in str(error)


def test_other_trouble_of_the_disk_passes_unchanged(disk: Folder) -> None:
    with pytest.raises(OSError, match="Input/output error") as caught, disk.writing("file"):
        raise OSError(errno.EIO, "Input/output error")
    assert caught.value.errno == errno.EIO


def test_a_relative_path_is_taken_from_the_working_directory_of_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Folder.at("store")
    monkeypatch.chdir("/")
    assert folder.url == str(tmp_path / "store")


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Folder.at("~/store").url == str(tmp_path / "store")


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("/data", True),
        ("data/x", True),
        ("s3://bucket/x", False),
        ("memory://x", False),
        ("zip::s3://b/x.zip", False),
    ],
)
def test_a_url_with_a_protocol_is_not_local(url: str, local: bool) -> None:
    assert is_local(url) is local
    assert Folder.at(url).is_local is local


def test_a_file_url_is_the_local_folder_it_names(tmp_path: Path) -> None:
    # Taken for a remote file system, its files would be written in place, not aside.
    assert Folder.at(f"file://{tmp_path}/folder") == Folder.at(f"{tmp_path}/folder")


def test_readers_of_one_file_do_not_share_a_position(folder: Folder) -> None:
    folder.write("one", b"abcdef")
    with folder.open("one") as first, folder.open("one") as second:
        assert (first.read(3), second.read(2), first.read(), second.read()) == (b"abc", b"ab", b"def", b"cdef")


@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOSPC])
def test_a_folder_that_cannot_be_made_is_told_as_one_that_cannot_be_written_in(tmp_path: Path, number: int) -> None:
    wanted = tmp_path / "studies" / "cutoff"
    with pytest.raises(WriteError, match=r"in .*/studies/cutoff .*run the same command again"), writing_in(wanted):
        raise OSError(number, "no", str(wanted.parent))  # what mkdir says of the first of them
