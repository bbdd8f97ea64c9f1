"""Where probe images come from: a folder of images, flat or with a sub-folder per class, at any fsspec URL."""

from __future__ import annotations

import os
import posixpath
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec

from storage.errors import SourceError
from storage.files import is_local

#: File name endings taken for images; what Pillow reads. Whether a file is one is found when it is sharded.
IMAGE_ENDINGS = frozenset(
    {"bmp", "gif", "jpeg", "jpg", "jfif", "jp2", "png", "pgm", "ppm", "pbm", "tif", "tiff", "webp", "avif"}
)


@dataclass(frozen=True)
class SourceImage:
    """One candidate for the probe set."""

    #: Path below the probe's folder, with `/`: what the image is called everywhere.
    path: str
    #: Where to read it.
    url: str
    num_bytes: int
    #: What changes when the file does: times of content and inode in nanoseconds, or an object store's ETag.
    version: str
    #: WebDataset key: the path without ending and dots, unique in the probe set.
    key: str

    @property
    def ending(self) -> str:
        """File name ending, lower case."""
        return self.path.rsplit(".", 1)[-1].lower()

    @property
    def label(self) -> str:
        """Name of the class folder, or nothing where the image lies at the top."""
        return posixpath.dirname(self.path)


def list_images(url: str) -> list[SourceImage]:
    """All image files below a folder, sorted by path, hidden ones left out.

    Raises `SourceError` where the folder is not there or holds no image file.
    """
    fs, root = fsspec.url_to_fs(url)
    if not fs.exists(root):
        raise SourceError(f"There is no folder {url}. --probe takes a folder of images, as a path or fsspec URL.")
    root = root.rstrip("/")
    if fs.isfile(root):
        raise SourceError(f"{url} is a file. --probe takes the folder that holds the images.")
    files = _local_files(root) if is_local(url) else fs.find(root, detail=True)
    images: list[SourceImage] = []
    taken: set[str] = set()
    for full in sorted(files):
        path = full[len(root) :].lstrip("/")
        if any(part.startswith(".") for part in path.split("/")) or not _looks_like_image(path):
            continue
        if not path.isprintable() and "\\udc" in ascii(path):
            raise SourceError(f"The name of {full!a} is not UTF-8. Rename it, for instance with `convmv`.")
        info = files[full]
        images.append(
            SourceImage(
                path,
                full if is_local(url) else fs.unstrip_protocol(full),
                int(info.get("size") or 0),
                _version(info),
                _key(path, taken),
            )
        )
    if not images:
        endings = ", ".join(sorted(IMAGE_ENDINGS))
        raise SourceError(f"{url} holds {len(files)} files and no image (by ending: {endings}).")
    return images


def read_image(url: str) -> bytes:
    """The bytes of a source image."""
    with fsspec.open(url, "rb") as file:
        data: bytes = file.read()
    return data


def _local_files(root: str) -> dict[str, dict[str, Any]]:
    """Regular files below a folder, and those that links point to; fsspec would not look into linked folders."""
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
            path = f"{folder}/{name}"
            try:
                info = Path(path).stat()
            except OSError:
                files[path] = {"size": 0}  # a link to nowhere: refused with the reason when it is read
                continue
            if stat.S_ISREG(info.st_mode):
                # Of the inode too, as in git's index: tar and `cp -p` set the other time to what it was, a bitmap
                # of one size is of one length, and a file that may be read at last has changed only there.
                files[path] = {"size": info.st_size, "mtime": f"{info.st_mtime_ns} {info.st_ctime_ns}"}
    return files


def _looks_like_image(path: str) -> bool:
    name = posixpath.basename(path)
    return "." in name and name.rsplit(".", 1)[1].lower() in IMAGE_ENDINGS


def _unlistable(error: OSError) -> None:
    raise SourceError(f"The folder {error.filename} cannot be listed ({error.strerror}). Give it read permission.")


def _version(info: dict[str, object]) -> str:
    for field in ("ETag", "etag", "mtime", "LastModified", "updated", "created"):
        if info.get(field):
            return str(info[field])
    return ""


def _key(path: str, taken: set[str]) -> str:
    """WebDataset ends a key at the first dot, so it has none; two images of one stem get `-2`, `-3` ..."""
    stem = path.rsplit(".", 1)[0].replace(".", "_")
    if re.match(r"__[^/]*__/", stem):
        stem = f"_{stem[2:]}"  # WebDataset takes what lies in a folder `__x__` for its own
    key, n = stem, 1
    while key in taken:
        n += 1
        key = f"{stem}-{n}"
    taken.add(key)
    return key
