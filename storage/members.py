"""Tars of anybody's, read in bounded memory: tarfile itself believes what a header says of its own length."""

from __future__ import annotations

import posixpath
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import IO, cast

#: Longest header of a member, or file with a label: of a name of any file system, a hundredth is enough.
MAX_READ = 1 << 20
#: What tarfile raises of damaged tars. RecursionError: it reads a header that follows a header by calling itself.
DAMAGE = (tarfile.TarError, EOFError, ValueError, OverflowError, RecursionError)
#: Most links that are followed from one to the next, as on Linux.
MAX_LINKS = 40
#: How members that are no file, folder or link are told.
_KINDS = {tarfile.FIFOTYPE: "a pipe", tarfile.CHRTYPE: "a device", tarfile.BLKTYPE: "a device"}
_END = bytes(tarfile.BLOCKSIZE)


class NoHeaderError(tarfile.ReadError):
    """Something that is neither a member nor the end of a tar."""

    def __init__(self, message: str, place: int) -> None:
        super().__init__(message)
        #: The byte where it begins.
        self.place = place


class Bounded:
    """A file of which tarfile reads headers and short members. Raises `ReadError` where one would be too long."""

    def __init__(self, file: IO[bytes], longest: int = MAX_READ) -> None:
        self._file, self._longest = file, longest + tarfile.BLOCKSIZE
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        """At most so many bytes."""
        if size > self._longest:
            raise tarfile.ReadError(f"a header claims {size:,} bytes")
        return self._file.read(size)


def image_member(tar: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes] | None:
    """What a regular member holds; nothing for links, devices and folders, which are never followed.

    Nor for sparse files, which hold as many zeros as a header says.
    """
    return tar.extractfile(info) if info.isreg() and not info.issparse() else None


def walk(file: IO[bytes]) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """Every member of a file, with the archive that it is in.

    Several archives follow each other where tars were joined by `cat`, and where zeros lie between members; GNU tar
    reads all of them with `--ignore-zeros`. Raises an error of `DAMAGE` where the file is cut off, or holds what is
    no tar.
    """
    start: int | None = 0
    while start is not None:
        file.seek(start)
        with tarfile.open(fileobj=cast(IO[bytes], Bounded(file)), mode="r:") as tar:
            last = start - 1
            for info in tar:
                if info.offset <= last:
                    raise tarfile.ReadError("a member begins before the one it follows")
                last = info.offset
                yield tar, info
            end = tar.offset
        if start and end == start:
            raise NoHeaderError("what follows the zeros of its end is no tar", start)
        start = _next_archive(file, end)


def _next_archive(file: IO[bytes], end: int) -> int | None:
    """Where another archive begins after the zeros at `end`; None where nothing but zeros follows."""
    file.seek(end)
    mark = file.read(tarfile.BLOCKSIZE)
    if len(mark) < tarfile.BLOCKSIZE:
        raise NoHeaderError("the mark of its end is missing", end)
    if mark != _END:
        raise NoHeaderError("there is no tar header", end)
    place = end + tarfile.BLOCKSIZE
    while data := file.read(MAX_READ):
        if rest := data.lstrip(b"\0"):
            first = place + len(data) - len(rest)
            return first - first % tarfile.BLOCKSIZE
        place += len(data)
    return None


@dataclass(frozen=True, slots=True)
class Member:
    """One entry of a tar."""

    name: str
    kind: bytes
    #: Where its header begins.
    offset: int
    num_bytes: int
    #: Name of the member that it is a link to, or nothing.
    link: str = ""

    @classmethod
    def of(cls, info: tarfile.TarInfo) -> Member:
        """The entry that tarfile has read."""
        kind, link = (tarfile.REGTYPE if info.isreg() else info.type), ""
        if info.issym():  # from its own folder; a hard link is named from the root of the tar
            link = normal(posixpath.join(posixpath.dirname(info.name), info.linkname))
        elif info.islnk():
            link = normal(info.linkname)
        return cls(info.name, kind, info.offset, info.size, link)

    @property
    def is_file(self) -> bool:
        """True if it holds bytes of its own."""
        return self.kind == tarfile.REGTYPE

    @property
    def is_link(self) -> bool:
        """True if it stands for another member."""
        return self.kind in (tarfile.LNKTYPE, tarfile.SYMTYPE)

    @property
    def is_folder(self) -> bool:
        """True if it is a folder."""
        return self.kind == tarfile.DIRTYPE

    @property
    def why_no_file(self) -> str:
        """Why nothing is read from it, where it is neither a file nor a link."""
        kind = f"an entry of type {self.kind.decode('ascii', 'backslashreplace')!r}"
        return f"is {'a folder' if self.is_folder else _KINDS.get(self.kind, kind)} in the tar, not a file"


class UnresolvedError(Exception):
    """A link that leads to no file of its tar; the message is the reason."""


def normal(name: str) -> str:
    """A name by which members are compared: `./a.jpg` is `a.jpg`."""
    return posixpath.normpath(name) if name else ""


def named(members: Iterable[Member]) -> dict[str, list[Member]]:
    """Members by their names, a list each. Without those that link to their own name, as tar stores what it meets
    twice: they add nothing."""
    found: dict[str, list[Member]] = {}
    for member in members:
        name = normal(member.name)
        if member.link != name:
            found.setdefault(name, []).append(member)
    return found


def resolved(member: Member, by_name: Mapping[str, list[Member]]) -> Member:
    """The member that holds the bytes of a file or link; no link is followed out of the tar.

    Raises `UnresolvedError` where there is none.
    """
    at = member
    for _ in range(MAX_LINKS + 1):
        if at.is_file:
            return at
        if not at.is_link:
            via = "" if at is member else f"is a link to {at.name!r}, which "
            raise UnresolvedError(f"{via}{at.why_no_file}")
        found = by_name.get(at.link, [])
        if len(found) != 1:
            holds = f"holds {len(found)} times" if found else "does not hold"
            raise UnresolvedError(f"is a link to {at.link!r}, which the tar {holds}")
        at = found[0]
    raise UnresolvedError(f"is one of a circle of links, or of a chain of more than {MAX_LINKS}")
