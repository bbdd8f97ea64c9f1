"""Tars of anybody's, read in bounded memory: tarfile itself believes what a header says of its own length."""

from __future__ import annotations

import tarfile
from typing import IO

#: Longest header of a member, or file with a label: of a name of any file system, a hundredth is enough.
MAX_READ = 1 << 20
#: What tarfile raises of damaged tars. RecursionError: it reads a header that follows a header by calling itself.
DAMAGE = (tarfile.TarError, EOFError, ValueError, OverflowError, RecursionError)


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
