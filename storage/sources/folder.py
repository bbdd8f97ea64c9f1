"""A folder of images, flat or with a sub-folder per class, at any fsspec URL."""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from storage.errors import SourceError
from storage.files import Folder, is_local
from storage.sources.reading import read_file
from storage.sources.source import IMAGE_ENDINGS, CopiedSource, SourceImage, image_ending, version_of


@dataclass(frozen=True)
class ImageFolder(CopiedSource):
    """All image files below a folder, sorted by path, hidden ones left out; a class folder's name is the label."""

    text: str

    def images(self) -> Iterator[SourceImage]:
        """Raises `SourceError` where the folder holds no image file."""
        folder = Folder.at(self.text)
        url = folder.url
        files = _local_files(url) if is_local(url) else folder.files_below()
        found = False
        for path in sorted(files):
            if any(part.startswith(".") for part in path.split("/")) or not image_ending(path):
                continue
            if not path.isprintable() and "\\udc" in ascii(path):
                raise SourceError(
                    f"The name of {folder.path(path)!a} is not UTF-8. Rename it, for instance with `convmv`."
                )
            found, info = True, files[path]
            size = int(info.get("size") or 0)
            yield SourceImage(path, folder.path(path), size, version_of(info), label=posixpath.dirname(path))
        if not found:
            tars = sum(path.endswith(".tar") for path in files)
            hint = f" For its {tars} tar files give --probe '{self.text}/*.tar'." if tars else ""
            endings = ", ".join(sorted(IMAGE_ENDINGS))
            raise SourceError(f"{url} holds {len(files)} files and no image (by ending: {endings}).{hint}")

    def read(self, url: str) -> bytes:
        """The file as it is."""
        return read_file(url)


def _local_files(root: str) -> dict[str, dict[str, Any]]:
    """Regular files below a folder, and those that links point to, by their path in it.

    fsspec would not look into linked folders.
    """
    files: dict[str, dict[str, Any]] = {}
    seen: set[tuple[int, int]] = set()
    for folder, folders, names in os.walk(root, followlinks=True, onerror=_unlistable):
        here = Path(folder).stat()
        if (here.st_dev, here.st_ino) in seen:
            folders.clear()  # a link back
            continue
        seen.add((here.st_dev, here.st_ino))
        folders.sort()
        for name in names:
            full = Path(folder, name)
            path = str(full.relative_to(root))
            try:
                info = full.stat()
            except OSError:
                files[path] = {"size": 0}  # a link to nowhere: refused with the reason when it is read
                continue
            if stat.S_ISREG(info.st_mode):
                files[path] = local_info(info)
    return files


def local_info(info: os.stat_result) -> dict[str, Any]:
    """Size and version of a local file, as a file system of fsspec would give them."""
    # Of the inode too, as in git's index: tar and `cp -p` set the other time to what it was, a bitmap of one size
    # is of one length, and a file that may be read at last has changed only there.
    return {"size": info.st_size, "mtime": f"{info.st_mtime_ns} {info.st_ctime_ns}"}


def _unlistable(error: OSError) -> None:
    raise SourceError(f"The folder {error.filename} cannot be listed ({error.strerror}). Give it read permission.")
