"""A folder of images, flat or with a sub-folder per class, at any fsspec URL."""

from __future__ import annotations

import os
import posixpath
import stat
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from storage.errors import SourceError
from storage.files import Folder
from storage.sources.left_out import HIDDEN, ending_of, images_among, may_be_image, told
from storage.sources.reading import read_file
from storage.sources.source import IMAGE_ENDINGS, CopiedSource, SourceImage, image_ending, version_of


@dataclass(frozen=True)
class ImageFolder(CopiedSource):
    """All image files below a folder, sorted by path, hidden ones left out; a class folder's name is the label.

    A file is an image by its ending, or by its first bytes where its ending is that of nothing else.
    """

    text: str
    _left_out: Counter[str] = field(default_factory=Counter, init=False, compare=False, repr=False)

    @property
    def left_out(self) -> Mapping[str, int]:
        """See `Source`."""
        return dict(self._left_out)

    def images(self) -> Iterator[SourceImage]:
        """Raises `SourceError` where the folder holds no image file."""
        folder = Folder.at(self.text)
        files = _local_files(folder.url) if folder.is_local else folder.files_below()
        found = self._chosen(folder, files)
        if not found:
            raise self._no_image(folder, files)
        for path in found:
            if not path.isprintable() and "\\udc" in ascii(path):
                raise SourceError(
                    f"The name of {folder.path(path)!a} is not UTF-8. Rename it, for instance with `convmv`."
                )
            size, version = _size(files[path]), version_of(files[path])
            yield SourceImage(path, folder.path(path), size, version, label=posixpath.dirname(path))

    def _chosen(self, folder: Folder, files: Mapping[str, dict[str, Any]]) -> list[str]:
        """Paths of the images, sorted; the other files are counted."""
        self._left_out.clear()
        found: list[str] = []
        unknown: dict[str, int] = {}
        for path in sorted(files):
            if any(part.startswith(".") for part in path.split("/")):
                self._left_out[HIDDEN] += 1
            elif image_ending(path):
                found.append(path)
            elif may_be_image(path):
                unknown[path] = _size(files[path])
            else:
                self._left_out[ending_of(path)] += 1
        return sorted(found + images_among(folder, unknown, self._left_out))

    def _no_image(self, folder: Folder, files: Mapping[str, object]) -> SourceError:
        tars = sum(path.endswith(".tar") for path in files)
        hint = f" For its {tars} tar files give --probe '{self.text}/*.tar'." if tars else ""
        endings = ", ".join(sorted(IMAGE_ENDINGS))
        counts = f" {told(self._left_out)}" if self._left_out else ""
        return SourceError(
            f"{folder.url} holds {len(files)} files and no image (by ending: {endings}; or by content).{counts}{hint}"
        )

    def read(self, url: str) -> bytes:
        """The file as it is."""
        return read_file(url)


def _size(info: Mapping[str, Any]) -> int:
    return int(info.get("size") or 0)


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
