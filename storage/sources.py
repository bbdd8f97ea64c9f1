"""Where probe images come from: a folder of images, flat or with a sub-folder per class, at any fsspec URL."""

from __future__ import annotations

import posixpath
from dataclasses import dataclass

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
    #: What changes when the file does: modification time in nanoseconds, or an object store's ETag.
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
    files = {root: fs.info(root)} if fs.isfile(root) else fs.find(root, detail=True)
    if fs.isfile(root):
        raise SourceError(f"{url} is a file. --probe takes the folder that holds the images.")
    images: list[SourceImage] = []
    taken: set[str] = set()
    for full in sorted(files):
        path = full[len(root) :].lstrip("/")
        if any(part.startswith(".") for part in path.split("/")) or not _looks_like_image(path):
            continue
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


def _looks_like_image(path: str) -> bool:
    name = posixpath.basename(path)
    return "." in name and name.rsplit(".", 1)[1].lower() in IMAGE_ENDINGS


def _version(info: dict[str, object]) -> str:
    for field in ("ETag", "etag", "mtime", "LastModified", "updated", "created"):
        if info.get(field):
            return str(info[field])
    return ""


def _key(path: str, taken: set[str]) -> str:
    """WebDataset ends a key at the first dot, so it has none; two images of one stem get `-2`, `-3` ..."""
    stem = path.rsplit(".", 1)[0].replace(".", "_")
    key, n = stem, 1
    while key in taken:
        n += 1
        key = f"{stem}-{n}"
    taken.add(key)
    return key
