"""A list of images: a CSV or Parquet table with a path or URL a row, and a label where it has one."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from storage.errors import RemoteError, SourceError, UnreadableError
from storage.files import is_local, split
from storage.sources.folder import local_info
from storage.sources.reading import fetch
from storage.sources.source import CopiedSource, SourceImage, version_of

#: Columns that say where an image is; the first that a list has is taken.
PATH_COLUMNS = ("path", "url", "image", "file_name")


@dataclass(frozen=True)
class ImageList(CopiedSource):
    """The images of a table, in its order. Paths are relative to the list's folder."""

    text: str

    def images(self) -> Iterator[SourceImage]:
        """Raises `SourceError` where the list cannot be read, is empty, or has no column of paths."""
        table = read_table(self.text)
        column = next((name for name in PATH_COLUMNS if name in table), None)
        if column is None:
            raise SourceError(
                f"{self.text} has no column of image paths: it takes one of {', '.join(PATH_COLUMNS)}, and has "
                f"{', '.join(map(repr, table.columns))}. A column `label` is optional."
            )
        if table.empty:
            raise SourceError(f"The list {self.text} has a header and no row. It takes an image a row.")
        folder, _ = split(self.text)
        labels = table["label"] if "label" in table else [""] * len(table)
        for number, (path, label) in enumerate(zip(table[column], labels, strict=True)):
            if not path:
                reason = f"row {number} of the list has nothing in column {column!r}"
                yield SourceImage(f"row {number}", "", 0, "", label, reason=reason)
                continue
            url = path if path.startswith("/") or not is_local(path) else folder.path(path)
            yield SourceImage(path, url, *size_and_version(url), label)

    def read(self, url: str) -> bytes:
        """The file, or what a server answers."""
        return fetch(url)


def read_table(url: str) -> pd.DataFrame:
    """A CSV or Parquet file as texts, nothing where a cell is empty. Raises `SourceError`."""
    folder, name = split(url)
    try:
        data = io.BytesIO(fetch(folder.path(name)))
        if name.endswith(".parquet"):
            table = pd.read_parquet(data)
            return table.fillna("").astype(str) if len(table) else table
        return pd.read_csv(data, dtype=str, keep_default_na=False, encoding="utf-8-sig", skipinitialspace=True)
    except UnreadableError as error:
        raise SourceError(f"The list {url} {error}.") from error
    except (RemoteError, MemoryError):
        raise
    except Exception as error:  # no table, no UTF-8; what pandas trusts of a Parquet file's own description
        raise SourceError(f"The list {url} is no table that can be read ({error}).") from error


def size_and_version(url: str) -> tuple[int, str]:
    """Of a local file, as far as it is there. What is at a URL is taken to stay: to ask would be a request each."""
    if not is_local(url):
        return 0, ""
    try:
        info = local_info(Path(url).stat())
    except (OSError, ValueError):  # ValueError: a NUL in it
        return 0, ""  # refused with the reason when it is read
    return int(info["size"]), version_of(info)
