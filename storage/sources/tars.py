"""WebDataset shards that exist: used where they are, never copied. The index points into them."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from braceexpand import braceexpand

from storage.completion import Completion
from storage.errors import RemoteError, SourceError
from storage.files import Folder, split
from storage.identity import digest_of
from storage.members import (
    DAMAGE,
    MAX_READ,
    Member,
    NoHeaderError,
    UnresolvedError,
    image_member,
    named,
    resolved,
    walk,
)
from storage.shards import sample_key
from storage.sources.left_out import ending_of, may_be_image, told
from storage.sources.source import IMAGE_ENDINGS, Source, SourceImage
from storage.tables import read_parquet, write_parquet

#: Tars whose members are listed at a time: of an object store, each takes many requests.
LISTED_AT_A_TIME = 16
#: Fields of a sample's `.json` that may hold its label.
LABEL_FIELDS = ("label", "cls", "class")
#: Endings of members that may hold the label of a sample.
LABEL_ENDINGS = ("cls", "json")
#: Increment when the same tar would give another list. 2: all archives of joined tars, links, reasons.
VERSION = 2


@dataclass(frozen=True)
class Tars(Source):
    """The image members of tars: one, those of a glob, or those of a brace pattern, in the pattern's order.

    A sample's label is its `.cls`, or field `label`, `cls` or `class` of its `.json`. Keys need to be unique only
    within a tar, as WebDataset asks: most people's shards begin at 0 each. An image is told by tar and member.

    Tars that were joined by `cat` are read to the end. A link to a member of the same tar is an image like any other,
    and comes next to the member that holds its bytes; a link to anything else is refused by name.
    """

    text: str
    #: Where the lists of members are kept: a tar is listed once.
    lists: Folder = field(compare=False)
    _left_out: Counter[str] = field(default_factory=Counter, init=False, compare=False, repr=False)

    @property
    def left_out(self) -> Mapping[str, int]:
        """Members that may be images and have no ending of one, by ending; not texts and labels of samples."""
        return dict(self._left_out)

    def images(self) -> Iterator[SourceImage]:
        """Lists a few tars at a time, as images are asked for. Raises `SourceError`."""
        root, tars = self._tars()
        num_images = num_members = 0
        self._left_out.clear()
        for start in range(0, len(tars), LISTED_AT_A_TIME):
            batch = tars[start : start + LISTED_AT_A_TIME]
            with ThreadPoolExecutor(len(batch)) as pool:
                lists = list(pool.map(lambda tar: self._listed(root, tar), batch))
            for tar, (version, members) in zip(batch, lists, strict=True):
                num_members += len(members)
                others = members[(members["key"] == "") & (members["num_bytes"] > 0)]["name"]
                self._left_out.update(ending_of(name) for name in others if may_be_image(name))
                url = root.path(tar)
                for member in members[members["key"] != ""].itertuples():
                    num_images += 1
                    yield SourceImage(
                        f"{tar}/{str(member.name).removeprefix('./')}",
                        url,
                        int(str(member.num_bytes)),
                        version,
                        str(member.label),
                        int(str(member.offset)),
                        reason=str(member.reason),
                        key=str(member.key),
                    )
        if not num_images:
            endings = ", ".join(sorted(IMAGE_ENDINGS))
            counts = f" {told(self._left_out)}" if self._left_out else ""
            raise SourceError(
                f"The {len(tars)} tar files of {self.text} have {num_members} members and no image "
                f"(by ending: {endings}).{counts}"
            )

    def _tars(self) -> tuple[Folder, list[str]]:
        """The folder before any pattern, and the paths of the tars below."""
        folder, name = split(self.text)
        if folder.exists(name):
            return folder, [name]
        head = re.split(r"[*?\[{]", self.text)[0]
        (root, _), pattern = split(head), self.text[head.rfind("/") + 1 :]
        found: list[str] = []
        missing: list[str] = []
        try:
            expanded = list(braceexpand(pattern, escape=False))
        except ValueError as error:
            raise SourceError(f"The braces of {self.text} are not balanced.") from error
        for path in expanded:
            is_glob = re.search(r"[*?\[]", path)
            below = root.glob(path) if is_glob else [path] * root.exists(path)
            found += below
            missing += [path] * (not below)
        if missing:
            others = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
            raise SourceError(
                f"{len(missing)} of the {len(expanded)} tar files of {self.text} are not there: "
                f"{', '.join(missing[:3])}{others}, in {root.url}. Fetch them, or correct the pattern."
            )
        return root, list(dict.fromkeys(found))

    def _listed(self, root: Folder, tar: str) -> tuple[str, pd.DataFrame]:
        """Version and members of a tar, from the list that is kept or made now."""
        url, version = root.path(tar), root.version(tar)
        name = digest_of({"list": VERSION, "tar": url, "version": version})
        if not (self.lists.exists(f"{name}.json") and self.lists.exists(f"{name}.parquet")):
            written = write_parquet(self.lists, f"{name}.parquet", list_members(url))
            Completion(self.lists).mark(name, {"tar": url, "version": version}, [written])
        return version, read_parquet(self.lists, f"{name}.parquet", alone=True)


def list_members(url: str) -> pd.DataFrame:
    """Members of a tar, a row each: `name, key, label, offset, num_bytes, reason`; only an image has a `key`.

    `offset` is where the header of the member starts that holds the bytes: of a link to another member, that one's.
    Rows are in its order, so that one pass over the tar reads all. `reason` says why an image is refused unread.
    Reads headers and labels only. Raises `SourceError` where the tar is cut off or damaged: tarfile and WebDataset
    would take what is before for the whole.
    """
    members: list[Member] = []
    labels: dict[int, str] = {}
    folder, name = split(url)
    with folder.open(name) as file:
        try:
            for tar, info in walk(file):
                members.append(Member.of(info))
                ending = sample_key(_utf8(info.name))[1]
                if ending in LABEL_ENDINGS and info.size <= MAX_READ:
                    content = image_member(tar, info)
                    labels[info.offset] = _label(ending, content.read() if content else b"")
        except RemoteError:
            raise
        except (*DAMAGE, OSError) as error:
            size = file.seek(0, 2)
            place = error.place if isinstance(error, NoHeaderError) else members[-1].offset if members else 0
            last = f", in or after member {_utf8(members[-1].name)!r}" if members else ""
            raise SourceError(
                f"{url} is no whole tar file: cut off or damaged at or after byte {place:,} of {size:,}{last} "
                f"({error}). Fetch it again, or leave it out."
            ) from error
    columns = ["name", "key", "label", "offset", "num_bytes", "reason"]
    return pd.DataFrame(_rows(members, labels), columns=columns).sort_values("offset", kind="stable")


def _rows(members: Sequence[Member], labels: Mapping[int, str]) -> list[tuple[str, str, str, int, int, str]]:
    """Rows of `list_members`, of which no link is followed out of the tar; labels by the offset of their member."""
    by_name = named(members) if any(member.is_link for member in members) else {}
    of_sample: dict[str, str] = {}
    rows = []
    for member in members:
        name = _utf8(member.name)
        sample, ending = ("", "") if member.is_folder else sample_key(name)
        is_image, found, reason = ending.lower() in IMAGE_ENDINGS, member, ""
        if is_image or ending in LABEL_ENDINGS:
            try:
                found = resolved(member, by_name)
            except UnresolvedError as error:
                reason = _utf8(str(error))
        if ending in LABEL_ENDINGS and found.offset in labels:
            label = labels[found.offset]
            of_sample[sample] = label if ending == "cls" else of_sample.get(sample, label)
        rows.append((name, sample if is_image else "", sample, found.offset, found.num_bytes, reason))
    return [(name, key, of_sample.get(of, ""), at, size, reason) for name, key, of, at, size, reason in rows]


def _label(ending: str, content: bytes) -> str:
    """The label in a `.cls` or `.json`; nothing where it holds none."""
    text = content.decode("utf-8", "replace").strip()
    if ending == "cls":
        return text
    try:
        fields: Any = json.loads(text)
    except (ValueError, RecursionError):
        return ""
    found = [fields[name] for name in LABEL_FIELDS if name in fields] if isinstance(fields, dict) else []
    return _utf8(str(found[0])) if found and isinstance(found[0], str | int) else ""


def _utf8(text: str) -> str:
    """A text that can be stored: bytes of a name that are not UTF-8, and halves of characters, as `\\udcfc`."""
    return text.encode("utf-8", "backslashreplace").decode()
