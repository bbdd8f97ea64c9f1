"""What a source of probe images is, and what it lists."""

from __future__ import annotations

import posixpath
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from storage.files import Folder

#: File name endings taken for images; what Pillow reads. Whether a file is one is found when it is sharded.
IMAGE_ENDINGS = frozenset(
    {"bmp", "gif", "jpeg", "jpg", "jfif", "jp2", "png", "pgm", "ppm", "pbm", "tif", "tiff", "webp", "avif"}
)


@dataclass(frozen=True, slots=True)
class SourceImage:
    """One candidate for the probe set."""

    #: Path in the source, with `/`: what the image is called everywhere. Joined sources put their name before it.
    path: str
    #: Where to read it, as its source takes it; of an image in a tar, the tar.
    url: str
    num_bytes: int
    #: What changes when the file does: times of content and inode in nanoseconds, or an object store's ETag.
    version: str
    #: Name of the class folder, or what the source says; nothing where it does not.
    label: str = ""
    #: Where the image's tar header starts, in a tar that is used in place; otherwise -1.
    offset: int = -1
    #: Why it is refused unread, or nothing.
    reason: str = ""
    #: WebDataset key and the source's name; both are given when sources are joined.
    key: str = ""
    source: str = ""

    @property
    def ending(self) -> str:
        """File name ending, lower case; nothing where the name has none that an image has."""
        return image_ending(self.path)


@dataclass(frozen=True)
class SourceSettings:
    """What a source may need beside its text."""

    #: Where lists of tars' members are kept.
    tar_lists: Folder
    #: Folder of torchvision's data sets.
    data_root: str


class Source(ABC):
    """A source of probe images, known by its text on the command line."""

    #: As it was given; each kind is a frozen dataclass with this field first.
    text: str
    #: How its images are encoded, for the index.
    encoding = "original"

    @property
    def name(self) -> str:
        """A short name for it: the last part of its text."""
        last = re.sub(r"\.(csv|tsv|parquet|tar)$", "", self.text.rstrip("/").rsplit("/", 1)[-1])
        return re.sub(r"[^\w.]+", "-", last).strip("-.") or "source"

    @abstractmethod
    def images(self) -> Iterator[SourceImage]:
        """All its images in their order; lazy where that saves work. Raises `SourceError`."""

    @property
    def left_out(self) -> Mapping[str, int]:
        """Files that are no candidates, counted by ending, as far as `images` has been listed."""
        return {}

    def tables(self) -> dict[str, pd.DataFrame]:
        """What else it knows, by file name; a column `path` says of which image."""
        return {}


class CopiedSource(Source):
    """A source whose images are copied into shards."""

    @abstractmethod
    def read(self, url: str) -> bytes:
        """The bytes of an image. Raises `UnreadableError` where this image alone is to be refused.

        What is at a URL (`is_local` is false of it) is read by several threads.
        """


def image_ending(path: str) -> str:
    """Ending of a path that has one an image has, lower case, or nothing."""
    name = posixpath.basename(path)
    ending = name.rsplit(".", 1)[1].lower() if "." in name else ""
    return ending if ending in IMAGE_ENDINGS else ""


def version_of(info: dict[str, Any]) -> str:
    """What changes when a file does, of what its file system says of it."""
    for field in ("ETag", "etag", "mtime", "LastModified", "updated", "created"):
        if info.get(field):
            return str(info[field])
    return ""
