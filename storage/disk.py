"""Disks of this machine: files written whole, trouble told, and data there before a marker says that it is."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from storage.errors import WriteError

#: What a disk says that is full or whose quota is, that is read-only, and that is somebody else's.
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
NOT_WRITABLE = (*NO_SPACE, errno.EROFS, errno.EACCES, errno.EPERM)
#: What a file system says where a folder cannot be made: it takes none there, or a file is in the way.
NO_FOLDER = (errno.ENOENT, errno.ENOTDIR, errno.EEXIST)
#: Ending of a file that is being written.
PARTIAL = ".partial"


@contextmanager
def writing(path: Path) -> Iterator[IO[bytes]]:
    """A file object whose bytes become the file when the `with` ends well, and vanish when it does not."""
    with writing_in(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}{PARTIAL}")
        try:
            with partial.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        except BaseException:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            raise


@contextmanager
def writing_in(folder: Path) -> Iterator[None]:
    """Raises `WriteError` where nothing can be written in a folder of this machine: why, and the way out."""
    try:
        yield
    except OSError as error:
        # What is read while something is written may fail for the same reason, and is named in its error.
        failed = folder if error.filename is None else Path(error.filename)
        is_elsewhere = not (failed.is_relative_to(folder) or folder.is_relative_to(failed))
        cannot_be_made = error.errno in NO_FOLDER and not folder.is_dir()
        if is_elsewhere or not (error.errno in NOT_WRITABLE or cannot_be_made):
            raise
        if cannot_be_made:
            what, way_out = f"The folder {folder} cannot be made ({error.strerror})", "see what lies above it"
        elif error.errno in NO_SPACE:
            what = f"No space left to write in {folder} ({_free(folder) / 1e6:,.0f} MB free)"
            way_out = "free some space"
        else:
            what, way_out = f"Nothing can be written in {folder} ({error.strerror})", "make it writable"
        raise WriteError(
            error.errno,
            f"{what}. What was finished is kept: {way_out}, or choose another --store or --out, and run the same "
            "command again.",
        ) from error


def sync(paths: Iterable[Path]) -> None:
    """Returns when files, and their names in their folders, would outlive a power cut."""
    files = list(paths)
    for path in (*files, *dict.fromkeys(file.parent for file in files)):
        opened = os.open(path, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def _free(folder: Path) -> int:
    """Bytes that are free where a folder is, or would be."""
    return shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free
