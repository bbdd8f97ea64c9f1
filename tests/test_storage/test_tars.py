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
from storage.errors import SourceError, UnreadableError
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


def test_members_that_may_be_images_and_are_left_out_are_counted(disk: Folder) -> None:
    names = ["1.jpg", "1.txt", "1.cls", "2.heic", "3.heic", "4", "5.seg.png"]
    disk.write("x.tar", tar(*((name, b"x") for name in names)))
    tars = Tars(disk.path("x.tar"), disk / "lists")
    for _ in range(2):  # also from the list that is kept
        assert len(list(tars.images())) == 1
        assert tars.left_out == {".heic": 2, "no ending": 1, ".png": 1}


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


def link(name: str, to: str, kind: bytes = tarfile.LNKTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, to
    return info


def mixed(*members: tuple[str, bytes] | tarfile.TarInfo) -> bytes:
    """A tar of files, as name and content, and of links."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as out:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                out.addfile(member)
                continue
            info = tarfile.TarInfo(member[0])
            info.size = len(member[1])
            out.addfile(info, io.BytesIO(member[1]))
    return data.getvalue()


def read_in_a_pass(folder: Folder, text: str, images: list[SourceImage]) -> list[bytes]:
    with fsspec.open(folder.path(text), "rb") as file:
        passing = TarPass(folder.path(text), file)
        return [passing.member(image.offset) for image in images]


ONE, OTHER = tar(("0.jpg", b"0" * 700), ("1.jpg", b"1")), tar(("2.jpg", b"2" * 512), ("2.cls", b"9"))


@pytest.mark.parametrize(
    "between",
    [b"", bytes(512), bytes(3 * 10_240)],
    ids=["as cat writes it", "a zero block more", "many zero blocks"],
)
@pytest.mark.parametrize("is_trimmed", [False, True], ids=["blocks of 10,240 bytes", "one zero block each"])
def test_tars_that_were_joined_are_read_to_the_end(between: bytes, is_trimmed: bool, folder: Folder) -> None:
    one, other = ONE, OTHER
    if is_trimmed:  # the last member of the one takes 512 bytes, as does each of the other
        one, other = one[: 3 * 512 + 1024], other[: 4 * 512 + 512]
    folder.write("x.tar", one + between + other + between)
    images = listed(folder, "x.tar")
    assert [(image.path, image.label) for image in images] == [
        ("x.tar/0.jpg", ""),
        ("x.tar/1.jpg", ""),
        ("x.tar/2.jpg", "9"),
    ]
    assert read_in_a_pass(folder, "x.tar", images) == [b"0" * 700, b"1", b"2" * 512]


def test_a_pass_over_joined_tars_hashes_all_of_them_and_counts_their_samples(folder: Folder) -> None:
    folder.write("x.tar", ONE + OTHER + ONE)
    with fsspec.open(folder.path("x.tar"), "rb") as file:
        found = TarPass(folder.path("x.tar"), file).finish([0])
    assert (found.num_samples, found.num_bytes) == (3, len(ONE + OTHER + ONE))
    assert found.sha256 == folder.sha256("x.tar")
    assert [image.reason for image in listed(folder, "x.tar")] == [""] * 3 + [
        "another image of the source has this path"
    ] * 2


@pytest.mark.parametrize(
    ("rest", "words"),
    [
        (b"garbage" * 200, "what follows the zeros of its end is no tar"),
        (bytes(200) + OTHER, "what follows the zeros of its end is no tar"),
        (b"\x1f\x8b\x08" + bytes(600), "what follows the zeros of its end is no tar"),
        (OTHER[:700], "unexpected end of data"),
        (OTHER[: 512 + 512], "the mark of its end is missing"),
    ],
    ids=["no tar", "not at a block", "a compressed one", "cut in a member", "cut after a member"],
)
def test_what_follows_a_tar_and_is_no_whole_tar_is_refused_with_the_place(
    rest: bytes, words: str, disk: Folder
) -> None:
    disk.write("x.tar", ONE + rest)
    with pytest.raises(SourceError, match=rf"x\.tar is no whole tar file: .*byte 1\d,\d+ of .*{words}"):
        list_members(disk.path("x.tar"))


def test_zeros_in_place_of_a_header_do_not_end_a_tar_in_silence(disk: Folder) -> None:
    data = bytearray(tar(("a.jpg", b"a" * 600), ("b.jpg", b"b" * 600), ("c.jpg", b"c" * 600)))
    data[1536:2048] = bytes(512)  # the header of b.jpg
    disk.write("x.tar", bytes(data))
    with pytest.raises(SourceError, match=r"byte 2,048 of .* is no tar"):
        list_members(disk.path("x.tar"))


def test_links_to_members_are_images_with_their_own_name_and_label(folder: Folder) -> None:
    folder.write(
        "x.tar",
        mixed(
            ("a/0.jpg", b"zero"),
            link("later.jpg", "./b/1.jpg", tarfile.SYMTYPE),
            link("a/same.png", "a/0.jpg"),
            ("a/0.cls", b"7"),
            link("a/same.cls", "a/0.cls"),
            ("b/1.jpg", b"one"),
            link("b/chain.jpg", "../a/same.png", tarfile.SYMTYPE),
            ("b/1.bin", b"bytes"),
            link("b/named.webp", "1.bin", tarfile.SYMTYPE),
        ),
    )
    images = listed(folder, "x.tar")
    assert [(image.path.removeprefix("x.tar/"), image.label, image.num_bytes) for image in images] == [
        ("a/0.jpg", "7", 4),
        ("a/same.png", "7", 4),
        ("b/chain.jpg", "", 4),
        ("later.jpg", "", 3),
        ("b/1.jpg", "", 3),
        ("b/named.webp", "", 5),
    ]
    assert read_in_a_pass(folder, "x.tar", images) == [b"zero"] * 3 + [b"one"] * 2 + [b"bytes"]
    assert read_in_a_pass(folder, "x.tar", images[2:4]) == [b"zero", b"one"]


def test_links_that_lead_to_no_member_are_refused_with_the_reason(disk: Folder) -> None:
    folder = tarfile.TarInfo("folder.jpg")
    folder.type = tarfile.DIRTYPE
    chain = [link(f"{n}.jpg", f"{n + 1}.jpg") for n in range(50)]
    disk.write(
        "x.tar",
        mixed(
            ("a.jpg", b"a"),
            ("twice.jpg", b"1"),
            ("twice.jpg", b"2"),
            link("a.jpg", "a.jpg"),
            link("to-a.jpg", "a.jpg"),
            link("out.jpg", "../../etc/passwd", tarfile.SYMTYPE),
            link("self.jpg", "self.jpg"),
            link("x.jpg", "y.jpg"),
            link("y.jpg", "x.jpg"),
            folder,
            link("to-folder.jpg", "folder.jpg", tarfile.SYMTYPE),
            link("to-twice.jpg", "twice.jpg"),
            link("none.jpg", ""),
            *chain,
            ("50.jpg", b"end"),
        ),
    )
    images = {image.path.removeprefix("x.tar/"): image for image in listed(disk, "x.tar")[::-1]}
    circle = "is one of a circle of links, or of a chain of more than 40"
    reasons = {
        "a.jpg": "",
        "to-a.jpg": "",
        "out.jpg": "is a link to '../../etc/passwd', which the tar does not hold",
        "self.jpg": "is a link to 'self.jpg', which the tar does not hold",
        "x.jpg": circle,
        "y.jpg": circle,
        "to-folder.jpg": "is a link to 'folder.jpg', which is a folder in the tar, not a file",
        "to-twice.jpg": "is a link to 'twice.jpg', which the tar holds 2 times",
        "none.jpg": "is a link to '', which the tar does not hold",
        "0.jpg": circle,
        "10.jpg": "",
        "49.jpg": "",
    }
    assert {name: images[name].reason for name in reasons} == reasons
    assert len(images) == 10 + 51 and "folder.jpg" not in images


def test_a_link_to_a_sparse_member_is_refused_as_that_is(disk: Folder) -> None:
    sparse = tarfile.TarInfo("s.jpg")
    sparse.pax_headers = {"GNU.sparse.map": "0,1", "GNU.sparse.size": str(1 << 40)}
    disk.write("x.tar", mixed(sparse, link("t.jpg", "s.jpg"), ("u.jpg", b"u")))
    images = listed(disk, "x.tar")
    with Path(disk.path("x.tar")).open("rb") as file:
        passing = TarPass(disk.path("x.tar"), file)
        for image in images[:2]:
            with pytest.raises(UnreadableError, match="sparse"):
                passing.member(image.offset)
        assert passing.member(images[2].offset) == b"u"
